"""``agreement``: one cohort of 100,000 patients through five connectors is one snapshot, and one adapter.

Each connector reads the population that :mod:`support.hospital.hospital_world` wrote in its own manner;
then one round of a few steps is trained on the snapshot. Counted are the different digests, and the
different adapters.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.harness import Result
from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import ensure_model
from plasmid.data.table import Table
from plasmid.recipes.schema import Recipe
from plasmid.worker.engine import Engine
from support.hospital.hospital_world import (
    COHORT,
    COLUMNS,
    patients,
    write_csv,
    write_fhir,
    write_omop,
    write_parquet,
    write_postgres,
)
from support.hospital.snapshots import snapshot_of_view
from support.tiny.tiny_task import tiny_recipe

PATIENTS = 100_000
Written = tuple[dict[str, Any], dict[str, Any]]


def main() -> list[Result]:
    """Compare all five."""
    recipe = recipe_of()
    digests, adapters = set(), set()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        for kind, write in KINDS.items():
            folder = Path(name) / kind
            folder.mkdir()
            begun = time.perf_counter()
            connection, view = write(folder, stack)
            wrote = time.perf_counter() - begun
            begun = time.perf_counter()
            table, figures = snapshot_of_view(recipe, folder, connection, view)
            took = time.perf_counter() - begun
            digests.add(figures.digest)
            adapters.add(trained(recipe, table))
            what = f"{table.rows:,} rows of {PATIENTS:,} patients in {took:.1f} s ({wrote:.0f} s to write)"
            print(f"{kind}: {what}; snapshot {str(figures.digest)[:16]}", file=sys.stderr, flush=True)
    what = f"five connectors, {PATIENTS:,} patients: different"
    return [
        Result.share(f"{what} snapshots", ours=len(digests), peer=1, unit="", goal=1),
        Result.share(f"{what} adapters", ours=len(adapters), peer=1, unit="", goal=1),
    ]


def recipe_of() -> Recipe:
    """Return a recipe of the cohort on a real sentence encoder."""
    values = tiny_recipe(ensure_model("minilm", revision=None, digest=None), steps=3).model_dump(mode="json")
    values["data"] |= {
        "input": "note", "label": "label", "patient": "patient", "columns": COLUMNS, "cohort": COHORT,
    }  # fmt: skip
    values["task"] |= {"labels": ["no", "yes"]}
    values["adapter"]["covariates"] = ["sex", "age", "hba1c", "weight"]
    return Recipe.model_validate(values)


def trained(recipe: Recipe, table: Table) -> str:
    """Return the digest of the adapter after a few steps."""
    base = ensure_model("minilm", revision=None, digest=None)
    engine = Engine(recipe, base, table.subset(range(min(table.rows, 2_000))), device="cpu")
    state = engine.train(initial_state(engine.schema, 0), steps=3, seed=1)
    return hashlib.sha256(state.tobytes()).hexdigest()


def _csv(folder: Path, _: ExitStack) -> Written:
    return {"kind": "files", "path": "exports"}, write_csv(patients(PATIENTS), folder / "exports")


def _parquet(folder: Path, _: ExitStack) -> Written:
    return {"kind": "files", "path": "tables"}, write_parquet(patients(PATIENTS), folder / "tables")


def _omop(folder: Path, _: ExitStack) -> Written:
    view = write_omop(patients(PATIENTS), folder / "cdm.db")
    return {"kind": "sql", "url": f"sqlite:///{folder / 'cdm.db'}"}, view


def _fhir(folder: Path, _: ExitStack) -> Written:
    return {"kind": "fhir", "path": "bulk"}, write_fhir(patients(PATIENTS), folder / "bulk")


def _postgres(_: Path, stack: ExitStack) -> Written:
    import psycopg

    from support.servers.postgres_server import running

    server = stack.enter_context(running())
    server.database("hospital")
    with psycopg.connect(dbname="hospital", user="postgres", host=server.socket) as connection:
        view = write_postgres(patients(PATIENTS), connection)
    server.run("CREATE ROLE reader LOGIN", "GRANT pg_read_all_data TO reader", "ANALYZE", database="hospital")
    return {"kind": "sql", "url": server.url("hospital", "reader")}, view


KINDS: dict[str, Callable[[Path, ExitStack], Written]] = {
    "csv": _csv,
    "parquet": _parquet,
    "postgresql": _postgres,
    "omop": _omop,
    "fhir": _fhir,
}
