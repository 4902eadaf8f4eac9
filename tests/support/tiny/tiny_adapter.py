"""An adapter with random factors in its folder, and tables for it: for prediction, without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from plasmid.adapters.adapter import adapter_schema
from plasmid.bases.store import BaseModel
from plasmid.prediction.evaluation import write_release
from support.tiny.tiny_task import tiny_recipe, tiny_table


def tiny_adapter(folder: Path, base: BaseModel, *, seed: int = 0) -> Path:
    """Write an adapter of the tiny task on *base* whose factors and head are random, and return *folder*."""
    recipe = tiny_recipe(base)
    size = adapter_schema(base, recipe.adapter.lora, recipe.head()).size
    state = np.random.default_rng(seed).normal(0, 0.3, size).astype(np.float32)
    write_release(folder, recipe, base, state, provenance={"rounds": 0})
    return folder


def tiny_rows(path: Path, rows: int, *, seed: int = 0) -> Path:
    """Write *rows* rows of the tiny task with an ``id`` to *path*, CSV, Parquet or FASTA, and return it."""
    columns = dict(tiny_table(rows, seed).columns)
    if path.suffix == ".fasta":
        records = zip(columns["sequence"], columns["gene"], strict=True)
        path.write_text(
            "".join(
                f">r{row} gene={gene or 'NA'}\n{letters}\n" for row, (letters, gene) in enumerate(records)
            )
        )
        return path
    table = pa.table({"id": [f"r{row}" for row in range(rows)], **columns})
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pa.parquet.write_table(table, path)
    return path
