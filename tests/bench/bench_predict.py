"""``predict``: rows per second of a whole prediction beside PEFT's merged weights in a DataLoader loop.

Rules
-----
1. Ours is everything that ``plasmid predict --out`` does with a Parquet file: digest, the checking pass,
   blocks, journal with its fsyncs, joining. The peer reads the file, scores it in batches of 64, and writes
   Parquet.
2. One thread; CPU seconds of the process, models loaded before; both take turns, the fastest of each
   counts. What the clock on the wall says is told beside it.
3. Both have the same scores to 1e-5, or there is no figure.
4. Receptors and notes have lengths as they come; receptors of one length leave nothing to sort, so that the
   third figure is the cost of everything around the model.
5. Ray, on all cores, is told beside, without a goal: seconds of the wall, its start and the actors'
   included.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.harness import Result
from bench.peers.merged_loop import MergedLoop
from plasmid.adapters.adapter import adapter_schema
from plasmid.adapters.artifact import read_head
from plasmid.bases.residues import AMINO_ACIDS
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.prediction.evaluation import write_release
from plasmid.prediction.inputs import file_input
from plasmid.prediction.job import Scorer, predict_to
from plasmid.recipes.schema import Recipe

GOAL = 0.95
TIMES = 3
BATCH_ROWS = 64


def main() -> list[Result]:
    """Measure the two base models of the demonstrations, with adapters of random factors."""
    torch.set_num_threads(1)
    random = Random(0)

    def receptor(low: int, high: int) -> str:
        return "".join(random.choices(AMINO_ACIDS, k=random.randint(low, high)))

    words = [
        "pain",
        "in",
        "the",
        "left",
        "arm",
        "since",
        "yesterday",
        "with",
        "fever",
        "and",
        "cough",
        "at",
        "night",
    ]

    def note() -> str:
        return " ".join(random.choices(words, k=min(110, 4 + int(random.expovariate(1 / 20)))))

    tables: list[tuple[str, str, Callable[[], str], int]] = [
        ("antiberty", "receptors of 9 to 20 residues", lambda: receptor(9, 20), 2048),
        ("minilm", "notes of 4 to 110 words", note, 1024),
        ("antiberty", "receptors of 14 residues", lambda: receptor(14, 14), 2048),
    ]
    with tempfile.TemporaryDirectory() as name:
        results = []
        for number, (base, what, made, rows) in enumerate(tables):
            folder = Path(name) / str(number)
            folder.mkdir()
            results.append(
                _compared(folder, f"{base}, {what}", ensure_model(base), [made() for _ in range(rows)])
            )
        _told_of_ray(Path(name) / "0")
        return results


def _compared(folder: Path, title: str, base: BaseModel, texts: list[str]) -> Result:
    adapter, data = folder / "adapter", folder / "rows.parquet"
    _write_adapter(adapter, base)
    pd.DataFrame({"text": texts}).to_parquet(data)
    source = file_input(data, read_head(adapter))
    scorer, peer = Scorer(adapter, ()), MergedLoop(adapter, base.path)

    def ours() -> None:
        (folder / "ours.parquet").unlink(missing_ok=True)
        predict_to(
            folder / "ours.parquet",
            adapter,
            source,
            engine=lambda _, source, size, done: map(scorer, source.blocks(size, done)),
        )

    sides: dict[str, Callable[[], None]] = {
        "ours": ours,
        "peer": lambda: peer.score(data, folder / "peer.parquet", BATCH_ROWS),
    }
    cpu, wall = dict.fromkeys(sides, float("inf")), dict.fromkeys(sides, float("inf"))
    for _ in range(TIMES):
        for side, run in sides.items():
            begun = time.process_time(), time.perf_counter()
            run()
            cpu[side] = min(cpu[side], time.process_time() - begun[0])
            wall[side] = min(wall[side], time.perf_counter() - begun[1])
    gap = (
        np.abs(pd.read_parquet(folder / "ours.parquet") - pd.read_parquet(folder / "peer.parquet"))
        .max()
        .max()
    )
    assert gap < 1e-5, f"{title}: the scores differ by {gap}"
    rates = " against ".join(f"{len(texts) / cpu[side]:,.0f}" for side in sides)
    print(
        f"{title}: wall {wall['ours']:.2f} s against {wall['peer']:.2f} s; scores to {gap:.1e}",
        file=sys.stderr,
    )
    return Result.times_better(
        f"{title}: {rates} rows/s", ours=cpu["ours"], peer=cpu["peer"], unit="s", goal=GOAL
    )


def _write_adapter(folder: Path, base: BaseModel) -> None:
    protein = base.entry.input == "protein"
    column: dict[str, Any] = (
        {"type": "protein", "max_length": 30} if protein else {"type": "text", "max_length": 128}
    )
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "title": "A benchmark",
            "model": {"base": base.id, "revision": base.revision, "digest": base.digest},
            "task": {"kind": "classification", "labels": ["no", "yes"], "metric": "auc"},
            "data": {
                "input": "text",
                "label": "label",
                "columns": {"text": column, "label": {"type": "label"}},
            },
            "adapter": {"lora": {"rank": 8, "alpha": 16.0, "targets": ["all-linear"]}, "covariates": []},
            "training": {"steps": 1, "batch": 1, "lora_lr": 1e-3, "head_lr": 1e-3, "covariate_lr": 1e-3},
            "federation": {"rounds": 1},
            "privacy": {},
            "release": {"license": "MIT", "data": "None.", "intended_use": "None.", "limitations": "All."},
        }
    )
    size = adapter_schema(base, recipe.adapter.lora, recipe.head()).size
    state = np.random.default_rng(0).normal(0, 0.02, size).astype(np.float32)
    write_release(folder, recipe, base, state, provenance={})


def _told_of_ray(folder: Path) -> None:
    from plasmid.serving.batch import cores, engine

    source = file_input(folder / "rows.parquet", read_head(folder / "adapter"))
    begun = time.perf_counter()
    first: list[float] = []
    done = predict_to(
        folder / "ray.parquet",
        folder / "adapter",
        source,
        engine=engine(),
        progress=lambda now: first.append(time.perf_counter() - begun) if now.done else None,
    )
    took = f"{first[0]:.1f} s to the first block, {first[-1]:.1f} s for {done.rows:,} rows"
    print(f"ray, {cores()} workers: {took}", file=sys.stderr)
