"""The tiny task as other kinds: how much W is in a sequence (a number), and which residues stand by a W."""

from __future__ import annotations

from typing import Any

import numpy as np

from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.recipes.schema import Recipe
from support.tiny.tiny_task import tiny_recipe, tiny_table

KINDS = ("classification", "regression", "token-classification")
_LABELS: dict[str, dict[str, Any]] = {
    "classification": {"type": "label"},
    "regression": {"type": "number", "bounds": [0.0, 100.0]},
    "token-classification": {"type": "residue_labels", "of": "sequence", "unlabelled": "."},
}
_TASKS: dict[str, dict[str, Any]] = {
    "classification": {"labels": ["no", "yes"], "metric": "auc"},
    "regression": {"unit": "%", "bounds": [0.0, 60.0], "metric": "spearman"},
    "token-classification": {"labels": ["n", "w"], "metric": "macro-f1"},
}


def document_of(base: BaseModel, kind: str, **training: Any) -> dict[str, Any]:
    """Return the document of :func:`kind_recipe`."""
    document = tiny_recipe(base, **training).model_dump(mode="json")
    document["task"] = {"kind": kind, "description": "", **_TASKS[kind]}
    document["data"]["columns"]["label"] = dict(_LABELS[kind])
    if kind == "token-classification":
        document["adapter"]["covariates"] = []
    return document


def kind_recipe(base: BaseModel, kind: str, **training: Any) -> Recipe:
    """Return the recipe of the tiny task as *kind*; *training* replaces training settings."""
    return Recipe.model_validate(document_of(base, kind, **training))


def kind_table(kind: str, rows: int = 96, seed: int = 0) -> Table:
    """Return the rows of the tiny task, labelled for *kind*."""
    columns = dict(tiny_table(rows, seed).columns)
    sequences = [str(one) for one in columns["sequence"]]
    source = np.random.default_rng(seed)
    if kind == "regression":
        columns["label"] = [100.0 * one.count("W") / len(one) for one in sequences]
    elif kind == "token-classification":
        columns["label"] = [_by_a_w(one, source) for one in sequences]
    return Table(columns, rows)


def _by_a_w(sequence: str, source: np.random.Generator) -> str:
    letters = ["w" if "W" in sequence[max(0, at - 1) : at + 2] else "n" for at in range(len(sequence))]
    for at in np.flatnonzero(source.random(len(letters)) < 0.2):
        letters[int(at)] = "."
    return "".join(letters)
