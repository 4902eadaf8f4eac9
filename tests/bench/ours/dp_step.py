"""Our side of ``dp_step``: the engine itself, and models of its peers' sizes with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel, EsmConfig, EsmModel

from plasmid.adapters.adapter import initial_state
from plasmid.bases.importer import import_folder
from plasmid.bases.residues import AMINO_ACIDS, residue_tokenizer
from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.recipes.schema import Recipe
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe

BATCH = 32
TOKENS = 128
RANK = 8
CLIP = 0.1
NOISE = 1.0
RATE = 1e-3
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *AMINO_ACIDS]

Step = Callable[[], object]


def bases(folder: Path) -> dict[str, BaseModel]:
    """Import a BERT of the size of MiniLM-L6 and an ESM-2 of 8 M parameters, random, both read residues."""
    common: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "num_hidden_layers": 6,
        "max_position_embeddings": 512,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    bert = BertModel(BertConfig(**common, **sizes), add_pooling_layer=False)
    sizes = {"hidden_size": 320, "num_attention_heads": 20, "intermediate_size": 1280}
    rotary: dict[str, Any] = {"position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": 4}
    esm = EsmModel(EsmConfig(**common, **sizes, **rotary), add_pooling_layer=False)
    found = {}
    for name, model in (("minilm-sized", bert), ("esm-8m-sized", esm)):
        model.save_pretrained(folder / name)
        for file, content in residue_tokenizer(VOCABULARY, 512).items():
            (folder / name / file).write_bytes(content)
        found[name] = import_folder(folder / name)
    return found


def recipe(base: BaseModel, targets: list[str]) -> Recipe:
    """Return a recipe with LoRA of rank 8 on *targets* of all layers, and a head of two labels."""
    document = tiny_recipe(base, batch=BATCH, lora_lr=RATE, head_lr=RATE, covariate_lr=RATE).model_dump()
    document["adapter"] = {
        "lora": {"rank": RANK, "alpha": 16.0, "targets": targets, "layers": None},
        "covariates": (),
    }
    document["data"]["columns"]["sequence"]["max_length"] = TOKENS - 2
    return Recipe.model_validate(document)


def table() -> Table:
    """Return one batch of random sequences, all of the same length."""
    source = np.random.default_rng(0)
    rows = ["".join(source.choice(list(AMINO_ACIDS), TOKENS - 2)) for _ in range(BATCH)]
    return Table({"sequence": list(rows), "label": ["no", "yes"] * (BATCH // 2)}, BATCH)


def ours(document: Recipe, base: BaseModel) -> dict[str, Step]:
    """Return one step of the engine, ``private`` (noise, clip, optimiser) and ``plain``.

    The table is one batch, and the Poisson rate is 1, so that every step has the peers' rows.
    """
    engine = Engine(document, base, table(), device="cpu")
    state = initial_state(engine.schema, 0)
    sampling = UnitSampling("record", clip=CLIP, rate=1.0, expected=BATCH, noise_multiplier=NOISE)
    return {
        "private": lambda: engine.train(state, steps=1, seed=0, sampling=sampling),
        "plain": lambda: engine.train(state, steps=1, seed=0),
    }
