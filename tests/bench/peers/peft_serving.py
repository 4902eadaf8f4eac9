"""The peers of ``serving``: adapters in stock PEFT, mixed by ``adapter_names``, switched, and behind FastAPI.

``python -m bench.peers.peft_serving BASE NAME=FOLDER ...`` serves on loopback until standard input closes.
It is the obvious server, which switches to the request's adapter and computes its one row.
"""

from __future__ import annotations

import socket
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import linear


class Asked(BaseModel):
    """The body of a request."""

    model: str
    input: str


class PeftServing:
    """The encoder in *base* with the adapters in *folders*, by name; masked mean and head in plain code.

    Parameters
    ----------
    attention
        None is what transformers chooses.
    """

    def __init__(self, base: Path, folders: Mapping[str, Path], *, attention: str | None = None) -> None:
        from peft import PeftModel
        from transformers import AutoModel, AutoTokenizer

        encoder = AutoModel.from_pretrained(base, attn_implementation=attention, add_pooling_layer=False)
        (first, folder), *others = folders.items()
        with warnings.catch_warnings():
            # peft asks transformers 5 for a property that it renamed; nothing here uses either.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            model: Any = PeftModel.from_pretrained(encoder.eval(), folder, adapter_name=first)
            for name, folder in others:
                model.load_adapter(folder, adapter_name=name)
        self.model = model.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.heads = {name: load_file(folder / "head.safetensors") for name, folder in folders.items()}

    def mixed(self, ids: Tensor, mask: Tensor, own: Tensor, names: Sequence[str]) -> Tensor:
        """Return probabilities [n, labels], row i by adapter ``names[i]``, in one batch of PEFT's."""
        with torch.inference_mode():
            hidden = self.model(
                input_ids=ids, attention_mask=mask, adapter_names=list(names)
            ).last_hidden_state
            pooled = _mean(hidden, own)
            rows = [self._head(row[None], name) for row, name in zip(pooled, names, strict=True)]
            return torch.cat(rows)

    def switched(self, ids: Tensor, mask: Tensor, own: Tensor, names: Sequence[str]) -> Tensor:
        """Return the same, each row by itself after a switch to its adapter."""
        found = []
        for row, name in enumerate(names):
            at = slice(row, row + 1)
            found.append(self.alone(ids[at], mask[at], own[at], name))
        return torch.cat(found)

    def alone(self, ids: Tensor, mask: Tensor, own: Tensor, name: str) -> Tensor:
        """Return probabilities [n, labels] of rows of one adapter."""
        with torch.inference_mode():
            self.model.set_adapter(name, inference_mode=True)
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            return self._head(_mean(hidden, own), name)

    def merge(self, name: str) -> nn.Module:
        """Return the bare encoder with adapter *name* merged into its weights; this object is then spent."""
        self.model.set_adapter(name)
        merged: nn.Module = self.model.merge_and_unload(adapter_names=[name])
        return merged

    def _head(self, pooled: Tensor, name: str) -> Tensor:
        head = self.heads[name]
        return linear(pooled, head["weight"], head["bias"]).softmax(-1)


def _mean(hidden: Tensor, own: Tensor) -> Tensor:
    weights = own[:, :, None].float()
    return (hidden * weights).sum(1) / weights.sum(1)


def main(base: str, arguments: list[str]) -> None:
    """Serve; print the URL first."""
    import uvicorn
    from fastapi import FastAPI

    torch.set_num_threads(1)
    folders = dict(one.split("=", 1) for one in arguments)
    serving = PeftServing(Path(base), {name: Path(folder) for name, folder in folders.items()})
    lock, app = threading.Lock(), FastAPI()

    @app.post("/v1/predict")
    def predict(asked: Asked) -> dict[str, list[float]]:
        encoded = serving.tokenizer(asked.input, return_tensors="pt", return_special_tokens_mask=True)
        own = ~encoded["special_tokens_mask"].bool()
        with lock:
            found = serving.alone(encoded["input_ids"], encoded["attention_mask"], own, asked.model)
        return {"probabilities": found[0].tolist()}

    bound = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, args=([bound],), daemon=True).start()
    print(f"http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
