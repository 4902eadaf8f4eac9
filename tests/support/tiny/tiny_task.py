"""A recipe on a tiny model, and a task that it can learn: does the sequence hold many W?"""

from __future__ import annotations

from typing import Any

import numpy as np

from plasmid.bases.residues import AMINO_ACIDS
from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.recipes.schema import Recipe


def tiny_recipe(base: BaseModel, **training: Any) -> Recipe:
    """Return a recipe for *base* with LoRA on its top 2 layers; *training* replaces training settings."""
    settings: dict[str, Any] = {
        "steps": 4,
        "batch": 16,
        "precision": "fp32",
        "lora_lr": 5e-3,
        "head_lr": 1e-2,
        "covariate_lr": 5e-2,
    }
    return Recipe.model_validate(
        {
            "name": "tiny",
            "title": "A tiny task",
            "model": {"base": base.id, "revision": base.revision, "digest": base.digest},
            "task": {"kind": "classification", "labels": ["no", "yes"], "metric": "auc"},
            "data": {
                "input": "sequence",
                "label": "label",
                "columns": {
                    "sequence": {"type": "protein", "max_length": 30, "too_long": "truncate"},
                    "gene": {
                        "type": "category",
                        "vocabulary": ["a", "b"],
                        "missing": "allowed",
                        "missing_markers": ["NA"],
                    },
                    "label": {"type": "label"},
                },
            },
            "adapter": {
                "lora": {"rank": 4, "alpha": 8.0, "targets": ["query", "value"], "layers": 2},
                "covariates": ["gene"],
            },
            "training": settings | training,
            "federation": {"rounds": 2},
            "privacy": {},
            "release": {
                "license": "MIT",
                "data": "Made up.",
                "intended_use": "Tests.",
                "limitations": "Everything.",
            },
        }
    )


def tiny_table(rows: int = 96, seed: int = 0) -> Table:
    """Return made-up rows: "yes" where a third of the letters were replaced by W; the gene is noise."""
    source = np.random.default_rng(seed)
    others = AMINO_ACIDS.replace("W", "")
    sequences, labels, genes = [], [], []
    for row in range(rows):
        letters = list(source.choice(list(others), int(source.integers(4, 24))))
        if row % 2:
            for place in source.permutation(len(letters))[: 1 + len(letters) // 3]:
                letters[place] = "W"
        sequences.append("".join(letters))
        labels.append("yes" if row % 2 else "no")
        genes.append((None, "a", "b", "zz")[int(source.integers(4))])
    return Table({"sequence": list(sequences), "gene": list(genes), "label": list(labels)}, rows)


def tiny_csv(rows: int = 96, seed: int = 0) -> str:
    """Return the lines of :func:`tiny_table` as a site's file has them."""
    columns = tiny_table(rows, seed).columns
    lines = zip(*(columns[name] for name in ("sequence", "gene", "label")), strict=True)
    return "\n".join(
        ["sequence,gene,label", *(",".join(str(cell or "NA") for cell in one) for one in lines), ""]
    )
