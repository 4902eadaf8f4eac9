"""Our side of ``serving``: a base of AntiBERTy's size with random weights, adapters of it, and the server.

``python -m bench.ours.serving NAME=FOLDER ...`` serves on loopback until standard input closes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from plasmid.adapters.adapter import adapter_schema, initial_state
from plasmid.adapters.artifact import write_adapter
from plasmid.adapters.files import adapter_files
from plasmid.bases.importer import import_folder
from plasmid.bases.residues import AMINO_ACIDS, residue_tokenizer
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.tasks.classification import ClassificationHead
from support.tiny.served import COLUMNS, FACTS, MAX_LENGTH

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *AMINO_ACIDS]
LORA = LoraSpec(rank=8, alpha=16.0, targets=["all-linear"])
HEAD = ClassificationHead(labels=["no", "yes"])


def make_base(folder: Path) -> BaseModel:
    """Import a BERT of 8 layers of 512, random, that reads residues."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
    config = BertConfig(
        vocab_size=len(VOCABULARY), num_hidden_layers=8, max_position_embeddings=512, pad_token_id=0, **sizes
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    for file, content in residue_tokenizer(VOCABULARY, 512).items():
        (folder / file).write_bytes(content)
    return import_folder(folder, model_id="antiberty-sized")


def make_adapter(folder: Path, base: BaseModel, seed: int) -> Path:
    """Write an adapter of rank 8 on all linear layers to *folder* and return it."""
    schema = adapter_schema(base, LORA, HEAD)
    noise = np.random.default_rng(seed).standard_normal(schema.size).astype(np.float32)
    write_adapter(
        folder,
        adapter_files(
            schema=schema,
            state=initial_state(schema, seed) + np.float32(0.02) * noise,
            base=base,
            lora=LORA,
            head=HEAD,
            input_column="sequence",
            label_column="label",
            metric="auc",
            max_length=MAX_LENGTH,
            columns={name: COLUMNS[name] for name in ("sequence", "label")},
        ),
        parameters=schema.size,
        facts=FACTS,
        provenance={},
    )
    return folder


def sequences(count: int, length: int, *, seed: int = 0) -> list[str]:
    """Return random sequences of *length* residues."""
    source = np.random.default_rng(seed)
    return ["".join(source.choice(list(AMINO_ACIDS), length)) for _ in range(count)]


def main(arguments: list[str]) -> None:
    """Serve; print the URL first."""
    from plasmid.endpoint.access import Anybody
    from plasmid.endpoint.local import LocalServer
    from plasmid.endpoint.service import Service, Settings

    torch.set_num_threads(1)
    adapters = dict(one.split("=", 1) for one in arguments)
    settings = Settings(base="antiberty-sized", adapters=adapters, pinned=tuple(adapters), device="cpu")
    server = LocalServer(Service.open(settings), Anybody())
    server.start()
    print(server.url, flush=True)
    sys.stdin.read()
    server.close()


if __name__ == "__main__":
    main(sys.argv[1:])
