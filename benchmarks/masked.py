"""Gain of a classifier that begins from a base adapted to unlabelled sequences.

Trains ``tcr-covid-masked`` with the node's engine, merges the adapter, imports that as a base model, and
trains ``tcr-covid`` from it and from the base as it was, on the same sites, test and seeds. Prints a line a
score, and one JSON object at the end.

    python -m benchmarks.masked --seeds 0 1 2
    python -m benchmarks.masked --seeds 0 1 --rows 200 --masked federation.rounds=5 training.steps=6
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.methods import Bench, read
from plasmid.adapters.artifact import read_adapter
from plasmid.adapters.export import export_merged
from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.data.table import Table
from plasmid.prediction.evaluation import write_release
from plasmid.recipes.load import load_recipe

ADAPTED = "antiberty-tcr"


def _bench(name: str, settings: dict[str, str], most: int | None) -> tuple[Any, Bench]:
    resolved = load_recipe(name, overrides=settings)
    tables, test = read(resolved, 0.0)
    model = resolved.recipe.model
    base = ensure_model(model.base, revision=model.revision, digest=model.digest)
    kept = {site: _first(table, most) for site, table in tables.items()}
    return resolved.recipe, Bench(resolved.recipe, base, kept, test)


def _first(table: Table, most: int | None) -> Table:
    return table if most is None else table.subset(range(min(most, table.rows)))


def adapted(settings: dict[str, str], most: int | None, tell: Any) -> BaseModel:
    """Return the base that the masked recipe adapts to the sites' sequences."""
    recipe, bench = _bench("tcr-covid-masked", settings, most)
    tell("masked-loss", "as it is", 0, bench.scored(recipe, bench.first(recipe)))
    *_, (round_, adapter) = bench.federated(recipe, 1000)
    tell("masked-loss", f"after {round_} rounds", 0, bench.scored(recipe, adapter))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_release(folder / "adapter", recipe, bench.base, adapter, provenance={"rounds": round_})
        made = read_adapter(folder / "adapter")
        export_merged(made, bench.base, folder / "merged", licence="mit", name=ADAPTED)
        return import_folder(folder / "merged", model_id=ADAPTED, kind="protein")


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="of each site, at most; the test stays whole")
    parser.add_argument("--masked", nargs="*", default=[], help="settings of tcr-covid-masked")
    parser.add_argument("--set", nargs="*", default=[], help="settings of tcr-covid")
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    start = time.monotonic()

    def tell(metric: str, base: str, seed: int, value: float) -> None:
        took = round(time.monotonic() - start)
        found.append(
            {"metric": metric, "base": base, "seed": seed, "value": round(value, 4), "seconds": took}
        )
        sys.stderr.write(json.dumps(found[-1]) + "\n")
        sys.stderr.flush()

    made = adapted(dict(one.split("=", 1) for one in asked.masked), asked.rows, tell)
    settings = dict(one.split("=", 1) for one in asked.set)
    for base in ("antiberty", made.id):
        _, bench = _bench("tcr-covid", settings | {"model.base": base}, asked.rows)
        for seed in asked.seeds:
            recipe = load_recipe("tcr-covid", overrides=settings | {"model.base": base}, seed=seed).recipe
            *_, (_, adapter) = bench.federated(recipe, 1000)
            tell("auc", base, seed, bench.scored(recipe, adapter))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
