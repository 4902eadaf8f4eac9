"""What people write to score a table with an adapter: PEFT's merged weights in a loop over a DataLoader.

The stock ``AutoModel``; batches of rows in their order, each tokenized in the loop and padded to its
longest; the mean over the tokens that are not special, one linear head, softmax.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import peft
import torch
import transformers
from safetensors.torch import load_file
from torch.utils.data import DataLoader


class MergedLoop:
    """The model of the adapter in *folder* on the base in *base_folder*, loaded and merged."""

    def __init__(self, folder: Path, base_folder: Path) -> None:
        quieter: Any = transformers.utils.logging
        quieter.set_verbosity_error()
        quieter.disable_progress_bar()
        self._about = json.loads((folder / "head.json").read_text())
        self._head = load_file(folder / "head.safetensors")
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(base_folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            adapted = peft.PeftModel.from_pretrained(
                transformers.AutoModel.from_pretrained(base_folder), folder
            )
        self._model = adapted.merge_and_unload().eval()

    @torch.inference_mode()
    def score(self, data: Path, out: Path, batch_rows: int) -> None:
        """Read the Parquet file *data*, score it, and write the probabilities to *out*."""
        texts = pd.read_parquet(data, columns=[self._about["input"]])[self._about["input"]].tolist()
        found = [
            torch.softmax(self._logits(tokens), -1)
            for tokens in DataLoader(texts, batch_size=batch_rows, collate_fn=self._tokens)
        ]
        pd.DataFrame(torch.cat(found).numpy(), columns=self._about["head"]["labels"]).to_parquet(out)

    def _tokens(self, texts: list[str]) -> Any:
        return self._tokenizer(
            [" ".join(text) for text in texts] if self._about["spaced"] else texts,
            padding=True,
            truncation=True,
            max_length=self._about["max_length"],
            return_special_tokens_mask=True,
            return_tensors="pt",
        )

    def _logits(self, tokens: Any) -> torch.Tensor:
        own = 1 - tokens.pop("special_tokens_mask")[:, :, None]
        encoded = self._model(**tokens).last_hidden_state
        pooled = (encoded * own).sum(1) / own.sum(1).clamp(1)
        logits: torch.Tensor = pooled @ self._head["weight"].T + self._head["bias"]
        return logits
