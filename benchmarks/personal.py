"""Gain of each site by a federation, on its own held-out rows: ``python -m benchmarks.personal``.

Trains as :mod:`benchmarks.methods` does, and keeps at each site the part that the recipe keeps there. Every
site's rows are cut in two by the recipe's ``data.holdout``, or by a fifth of all records; one part trains,
the other judges. ``alone`` trains each site by itself, as many steps; ``simple`` is the classical model of
each site, ``simple, pooled`` that of all. Prints a line for each method and seed with the metric of every
site, and one JSON object at the end.

    python -m benchmarks.personal phenotype --set adapter.lora.layers=2 --set federation.rounds=10 --seeds 0 1

Settings are chosen with ``--validate``: what trains is cut once more, and the other part is not looked at.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.computations import api
from plasmid.computations._personal import personal_in, with_personal
from plasmid.data.snapshot import Snapshot
from plasmid.data.table import Table, concatenate
from plasmid.data.views.reading import read_table
from plasmid.experiments.simple import fit_and_score
from plasmid.gateway.output import bounded
from plasmid.gateway.run import local_seed
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.recipes.schema import Holdout, Recipe
from plasmid.recipes.sites import materialise_sites
from plasmid.worker.engine import Engine
from plasmid.worker.gain import held_rows
from support.hospital.snapshots import snapshot_of

HOLDOUT = Holdout(by="record", share=0.2, seed=0)
KINDS: Mapping[str, Mapping[str, str]] = {
    "simple": {},
    "simple, pooled": {},
    "alone": {},
    "finetune": {"computation": "finetune", "adapter.personal": "[]"},
    "finetune, then own steps": {"computation": "finetune", "adapter.personal": "[]"},
    "personal head": {"computation": "finetune", "adapter.personal": "[head]"},
    "personal head, then own steps": {"computation": "finetune", "adapter.personal": "[head]"},
    "fedsa": {"computation": "fedsa", "adapter.personal": "[]"},
    "fedsa, personal head": {"computation": "fedsa", "adapter.personal": "[head]"},
}


class Site:
    """One site's rows in two parts, with an engine on the one."""

    def __init__(self, recipe: Recipe, base: BaseModel, table: Table, *, validate: bool) -> None:
        holdout = recipe.data.holdout or HOLDOUT
        self.train, self.test = _cut(recipe, table, holdout)
        if validate:
            another = holdout.model_copy(update={"seed": holdout.seed + 1})
            self.train, self.test = _cut(recipe, self.train, another)
        self.engine = Engine(recipe, base, self.train)

    def score(self, recipe: Recipe, adapter: Vector) -> float:
        """Return the recipe's metric on the rows held out."""
        return self.engine.score(adapter, self.test.columns)


def _cut(recipe: Recipe, table: Table, holdout: Holdout) -> tuple[Table, Table]:
    rows = Snapshot(snapshot_of(table, recipe))
    data = recipe.data.model_copy(update={"holdout": holdout})
    held = held_rows(rows, recipe.model_copy(update={"data": data}))
    return rows.subset(np.flatnonzero(~held)), rows.subset(np.flatnonzero(held))


def federated(
    recipe: Recipe, base: BaseModel, sites: Mapping[str, Site]
) -> Iterator[tuple[int, dict[str, Vector]]]:
    """Yield (round, every site's own adapter after it): what all have, and what it keeps."""
    method = api.method(recipe)
    shape = method.shape(recipe, base)
    state = method.initial(recipe, shape)
    own: dict[str, Vector | None] = dict.fromkeys(sites)
    for round_ in range(1, recipe.rounds + 1):
        vectors = []
        for name, site in sites.items():
            before = with_personal(recipe, base, method.adapter(recipe, base, state), own[name])
            seed, learn = local_seed(recipe.seed, name, round_), method.learns(recipe, round_)
            steps = recipe.training.steps_in(round_)
            pace = [recipe.training.factor(round_, recipe.rounds)] * steps
            after = site.engine.train(before, steps=steps, seed=seed, learn=learn, pace=pace)
            own[name] = personal_in(recipe, base, after)
            vectors.append(bounded(method.sent(recipe, base, before, after, round_), shape, noised=False)[0])
        total = np.asarray(np.sum(vectors, axis=0, dtype=np.float64))
        state = method.advance(recipe, shape, state, api.Sum(total, len(sites), round_))
        shared = method.adapter(recipe, base, state)
        yield round_, {name: with_personal(recipe, base, shared, own[name]) for name in sites}


def adapters(kind: str, recipe: Recipe, base: BaseModel, sites: Mapping[str, Site]) -> dict[str, Vector]:
    """Return the adapter that each site has in the end."""
    if kind == "alone":
        first = initial_state(next(iter(sites.values())).engine.schema, recipe.seed)
        pace = recipe.training.pace(recipe.rounds)
        return {
            name: site.engine.train(first, steps=len(pace), seed=recipe.seed, pace=pace)
            for name, site in sites.items()
        }
    *_, (_, found) = federated(recipe, base, sites)
    if kind.endswith("own steps"):
        more = recipe.training.personal_steps or 5 * recipe.training.steps
        return {
            name: site.engine.train(
                found[name], steps=more, seed=recipe.seed, pace=recipe.training.anew(more)
            )
            for name, site in sites.items()
        }
    return found


def _scores(kind: str, recipe: Recipe, base: BaseModel, sites: Mapping[str, Site]) -> dict[str, float]:
    if kind.startswith("simple"):
        every = concatenate([site.train for site in sites.values()])
        return {
            name: fit_and_score(recipe, every if kind.endswith("pooled") else site.train, site.test)
            for name, site in sites.items()
        }
    made = adapters(kind, recipe, base, sites)
    return {name: site.score(recipe, made[name]) for name, site in sites.items()}


def read(plain: ResolvedRecipe, *, validate: bool = False) -> tuple[BaseModel, dict[str, Site]]:
    """Return the base model of *plain* and its demonstration sites."""
    with tempfile.TemporaryDirectory() as folder:
        paths = materialise_sites(plain, Path(folder))
        tables = {name: read_table(path, plain.recipe.contract) for name, path in paths.items()}
    model = plain.recipe.model
    base = ensure_model(model.base, revision=model.revision, digest=model.digest)
    return base, {name: Site(plain.recipe, base, one, validate=validate) for name, one in tables.items()}


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="*", default=[], action="extend")
    parser.add_argument("--validate", action="store_true")
    asked = parser.parse_args()
    settings = dict(part.split("=", 1) for part in asked.set)
    base, sites = read(load_recipe(asked.recipe, overrides=settings), validate=asked.validate)
    found: list[dict[str, Any]] = []
    for seed, kind in itertools.product(asked.seeds, asked.kinds):
        recipe = load_recipe(asked.recipe, overrides=settings | dict(KINDS[kind]), seed=seed).recipe
        start = time.monotonic()
        scores = {name: round(value, 4) for name, value in _scores(kind, recipe, base, sites).items()}
        took = round(time.monotonic() - start)
        mean = round(float(np.mean(list(scores.values()))), 4)
        found.append({"kind": kind, "seed": seed, "mean": mean, "sites": scores, "seconds": took})
        sys.stderr.write(json.dumps(found[-1]) + "\n")
        sys.stderr.flush()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
