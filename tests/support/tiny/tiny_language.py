"""Tiny language models that keep their own head, and tasks for them: copy a letter; guess a repeated one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.bases.architectures import OwnHead
from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.recipes.schema import Recipe
from support.tiny.tiny_causal import tiny_causal
from support.tiny.tiny_models import tiny_bert, tiny_esm, tiny_modernbert, tiny_roberta
from support.tiny.tiny_task import tiny_recipe

MASKED = {"bert": tiny_bert, "esm": tiny_esm, "roberta": tiny_roberta, "modernbert": tiny_modernbert}
INSTRUCTION = "Say it."
OF_KIND = {"causal": ("llama", "gpt_neox"), "masked-lm": tuple(MASKED)}
"""Architectures of the tests, by kind of task."""
ALL = [(kind, name) for kind, names in OF_KIND.items() for name in names]


def language_bases(source: Path, which: Sequence[tuple[str, str]] = ALL) -> dict[tuple[str, str], BaseModel]:
    """Import *which* of :data:`ALL` into the state folder, and return them by kind and architecture."""
    found = {}
    for kind, name in which:
        folder = source / f"{kind}-{name}"
        causal = kind == "causal"
        made = tiny_causal(folder, name) if causal else MASKED[name](folder)
        head: OwnHead = "causal" if causal else "masked"
        template = "chatml" if causal else None
        found[kind, name] = import_folder(made, model_id=f"tiny-{kind}-{name}", head=head, template=template)
    return found


def language_document(base: BaseModel, kind: str, **training: Any) -> dict[str, Any]:
    """Return the document of a recipe of *kind* on *base*; *training* replaces training settings."""
    document = tiny_recipe(base, **{"lora_lr": 2e-2} | training).model_dump(mode="json")
    document["adapter"]["covariates"] = []
    layers = 1 if kind == "causal" else 2
    document["adapter"]["lora"] |= {"targets": ["all-linear"], "layers": layers}
    columns = document["data"]["columns"]
    del columns["gene"]
    if kind == "causal":
        document["task"] = {"kind": "causal", "instruction": INSTRUCTION, "metric": "exact-match"}
        columns["sequence"] = {"type": "text", "max_length": 64}
        columns["label"] = {"type": "text", "max_length": 6}
    else:
        document["task"] = {"kind": "masked-lm", "metric": "masked-loss"}
        document["data"]["label"] = None
        del columns["label"]
    return document


def language_recipe(base: BaseModel, kind: str, **training: Any) -> Recipe:
    """Return :func:`language_document` as a recipe."""
    return Recipe.model_validate(language_document(base, kind, **training))


def language_table(kind: str, rows: int = 48, seed: int = 0) -> Table:
    """Return made-up rows: prompts whose answer is their case, or sequences of few letters each."""
    source = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {"sequence": [], "label": []}
    for row in range(rows):
        if kind == "causal":
            letters = "".join(source.choice(list("abcd" if row % 2 else "ABCD"), int(source.integers(2, 8))))
            columns["sequence"].append(letters)
            columns["label"].append("lo" if row % 2 else "hi")
        else:
            pair = source.choice(list("ACDEFGHIKLMNPQRSTVWY"), 2)
            columns["sequence"].append("".join(source.choice(pair, int(source.integers(6, 24)))))
    if kind != "causal":
        del columns["label"]
    return Table(columns, rows)
