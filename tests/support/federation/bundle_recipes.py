"""Recipes with Python for tests: a document from the text of its code, and the worker's side of a run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np

from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.gateway.session import WorkerSession
from plasmid.protocol.body import pack
from plasmid.recipes.bundle import BundleRecipe
from plasmid.worker.worker import Session
from support.hospital.snapshots import frame_rows, snapshot_of

AGES: dict[str, Any] = {"age": {"type": "number", "bounds": [0, 120], "missing": "allowed"}}
RECORD = {"unit": "record", "mechanism": "dp-fedsgd", "epsilon": 1.0, "delta": 1e-6, "record_clip": 1.0}
OUTPUT = {"unit": "record", "mechanism": "output", "epsilon": 8.0, "delta": 1e-5, "update_clip": 1.0}
TURN_MS = 300
"""Long enough for one record on a machine that others use, too."""


def bundle_recipe(
    code: str,
    *,
    half: str = "per_record",
    size: int = 3,
    columns: Mapping[str, Any] = AGES,
    max_rows: int = 3,
    privacy: Mapping[str, Any] | None = None,
    federation: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    **bundle: Any,
) -> BundleRecipe:
    """Return a recipe whose module ``entry`` is *code*, with one tensor ``sums`` [*size*]."""
    return BundleRecipe.model_validate(
        {
            "computation": "bundle",
            "name": "tested",
            "title": "A bundle",
            "data": {"columns": dict(columns), "max_rows": max_rows},
            "bundle": {
                "files": {"entry.py": dedent(code), **(files or {})},
                "entry": "entry",
                "half": half,
                "tensors": {"sums": [size]},
                "record_ms": TURN_MS,
                **bundle,
            },
            "federation": dict(federation or {}),
            "privacy": dict(privacy or {}),
        }
    )


def ages(*values: float | None) -> Table:
    """Return a table of one column."""
    return Table({"age": list(values)}, len(values))


def session(document: Any, table: Table | None, base: BaseModel | None = None) -> Session:
    """Return the worker's side of a run of *document*, in this process."""
    named = base and {"id": base.id, "revision": base.revision, "digest": base.digest}
    rows = frame_rows(table, document) if table else {}
    frame = ({"document": document.model_dump(mode="json"), "base": named, **rows}, b"")
    return Session(SimpleNamespace(send=lambda *_: None), threading.Event(), frame)  # type: ignore[arg-type]


def order(document: Any) -> dict[str, Any]:
    """Return what a gateway orders of a worker for a round of *document*, no noise being the worker's."""
    clip = document.privacy.record_clip
    sampling = {"unit": "record", "clip": clip, "rate": 1.0, "expected": 1.0, "noise_multiplier": 0.0}
    return {"phase": "train", "round": 1, "seed": 0, "sampling": sampling if clip else None}


def computed(document: Any, table: Table | None, state: np.ndarray | None = None) -> np.ndarray:
    """Return the vector that a worker makes of *table* in one round, in this process."""
    at = session(document, table)
    state = np.zeros(at.shape.schema.size, at.dtype) if state is None else state
    try:
        return at.compute((order(document), pack("state", state)))
    finally:
        at.close()


def by_worker(at: WorkerSession, document: Any, table: Table | None, length: int = 3) -> np.ndarray:
    """Return the vector that the worker of *at* makes of *table* in one round."""
    at.open(document.model_dump(mode="json"), None, snapshot_of(table, document) if table else None)
    return at.compute(
        np.zeros(length),
        order=order(document),
        length=length,
        dtype=np.dtype("<f8"),
        progress=lambda *_: None,
    )


def write_recipe(folder: Path, text: str, **files: str) -> Path:
    """Write a recipe's folder and return it; *files* are the modules of its bundle."""
    (folder / "bundle").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    for name, code in files.items():
        (folder / "bundle" / f"{name}.py").write_text(dedent(code), encoding="utf-8")
    return folder
