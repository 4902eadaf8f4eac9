"""Quality of each LoRA method on a shipped recipe, in one process: ``python -m benchmarks.methods``.

Trains with the node's engine, the gateway's bounds, the ring's rounding and each method's own step, without a
network, and scores on the recipe's test as it goes. Prints a line a score, and one JSON object at the end.

    python -m benchmarks.methods phenotype --methods finetune rolora fedsvd --every 5
    python -m benchmarks.methods phenotype --methods fedsb --set training.lora_lr=1e-2
    python -m benchmarks.methods phenotype --methods central          # the pooled table, as many steps

Settings are chosen on rows that are neither trained on nor in the test, which is not opened then:
``--validate 0.15`` holds out so much of each site's rows and scores on them together; ``--leave-out`` scores
on each site in turn what the others have trained, which is nearer to a test of sites that nobody has.
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
from plasmid.data.table import Table, concatenate
from plasmid.data.views.reading import read_table, training_table
from plasmid.gateway.output import bounded
from plasmid.gateway.run import local_seed
from plasmid.planner.attempts import attempt_plan
from plasmid.protocol.messages import Planned
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.recipes.sites import materialise_eval, materialise_sites
from plasmid.release.server_step import rule_of
from plasmid.secagg.ring import TAIL, decode_sum, encode
from plasmid.worker.engine import Engine


class Bench:
    """A shipped recipe's sites and test, with engines that keep what is encoded.

    Methods share them, but for those with frames of their own.
    """

    def __init__(self, recipe: Recipe, base: BaseModel, tables: Mapping[str, Table], test: Table) -> None:
        self.base, self.tables, self.test = base, tables, test
        self._engines: dict[str, dict[str, Engine]] = {}
        self._scorer = Engine(recipe, base, test)

    def first(self, recipe: Recipe) -> Vector:
        """Return the adapter before training."""
        return initial_state(self._scorer.schema, recipe.seed)

    def scored(self, recipe: Recipe, adapter: Vector) -> float:
        """Return the recipe's metric on the test."""
        return self._scorer.score(adapter, self.test.columns)

    def central(self, recipe: Recipe) -> Iterator[tuple[int, Vector]]:
        """Yield (rounds, adapter) of the pooled table, with one optimiser for all steps."""
        engine = Engine(recipe, self.base, concatenate(self.tables.values()))
        first = initial_state(engine.schema, recipe.seed)
        pace = recipe.training.pace(recipe.rounds)
        yield recipe.rounds, engine.train(first, steps=len(pace), seed=recipe.seed, pace=pace)

    def federated(self, recipe: Recipe, every: int) -> Iterator[tuple[int, Vector]]:
        """Yield (round, adapter) after every so many rounds."""
        method = api.method(recipe)
        for round_, (_, _, state) in enumerate(self.rounds(recipe), start=1):
            if round_ % every == 0 or round_ == recipe.rounds:
                yield round_, method.adapter(recipe, self.base, state)

    def rounds(self, recipe: Recipe) -> Iterator[tuple[Vector, dict[str, Vector], Vector]]:
        """Yield (state, each site's bounded vector, the next state) of each round."""
        method, base, sites = api.method(recipe), self.base, len(self.tables)
        shape = method.shape(recipe, base)
        engines = self._of(recipe)
        planned = Planned(sites=sites, c=1, noise_rate=0.0)
        encoding = attempt_plan(recipe, shape, sites=sites, c=1, planned=planned).encoding
        rule = rule_of(recipe, shape.state)
        assert rule is not None, f"there is no rule for {recipe.federation.server.strategy} here"
        server = rule[0]
        state = method.initial(recipe, shape)
        for round_ in range(1, recipe.rounds + 1):
            before = method.adapter(recipe, base, state)
            total, sent = np.zeros(encoding.length + TAIL, encoding.dtype), {}
            for site, engine in engines.items():
                seed, learn = local_seed(recipe.seed, site, round_), method.learns(recipe, round_)
                steps = recipe.training.steps_in(round_)
                pace = [recipe.training.factor(round_, recipe.rounds)] * steps
                after = engine.train(before, steps=steps, seed=seed, learn=learn, pace=pace)
                vector = method.sent(recipe, base, before, after, round_)
                sent[site], _ = bounded(vector, shape, noised=False)
                total += encode(sent[site], encoding)
            summed = decode_sum(total, encoding, sites)
            averaged = method.advance(recipe, shape, state, api.Sum(summed, sites, round_))
            after_step = server.step(round_, state, averaged)
            yield state, sent, after_step
            state = after_step

    def _of(self, recipe: Recipe) -> dict[str, Engine]:
        frames = api.method(recipe).frames(recipe, self.base)
        key = recipe.computation if frames else ""
        if key not in self._engines:
            self._engines[key] = {
                site: Engine(recipe, self.base, table, frames=frames) for site, table in self.tables.items()
            }
        return self._engines[key]


def read(
    recipe: ResolvedRecipe,
    validate: float = 0.0,
    *,
    sites: Path | None = None,
    evaluation: Path | None = None,
) -> tuple[dict[str, Table], Table]:
    """Return the sites' tables and the test: those given, or a recipe's demonstration data.

    Sites' rows are those that a run trains on, in its order. With a share to *validate* on, the "test" is
    that share of each site's rows, and no site trains on them.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = materialise_sites(recipe, Path(folder), sites)
        test = materialise_eval(recipe, Path(folder), evaluation)
        assert test is not None, "a recipe that ships no data needs --sites and --eval"
        tables = {site: training_table(path, recipe.recipe, Path(folder)) for site, path in paths.items()}
        if not validate:
            return tables, read_table(test, recipe.recipe.contract)
    parts = {site: np.random.Generator(np.random.Philox(0)).permutation(t.rows) for site, t in tables.items()}
    ends = {site: round(validate * table.rows) for site, table in tables.items()}
    held = [table.subset(parts[site][: ends[site]].tolist()) for site, table in tables.items()]
    kept = {site: table.subset(parts[site][ends[site] :].tolist()) for site, table in tables.items()}
    return kept, concatenate(held)


def splits(
    recipe: ResolvedRecipe, validate: float, leave_out: bool, sites: Path | None, evaluation: Path | None
) -> Iterator[tuple[str, dict[str, Table], Table]]:
    """Yield (the site left out or "", who trains, what is scored): one of them, or one a site."""
    tables, test = read(recipe, validate, sites=sites, evaluation=evaluation)
    if not leave_out:
        yield "", tables, test
        return
    for out in tables:
        yield out, {site: table for site, table in tables.items() if site != out}, tables[out]


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--methods", nargs="+", default=[*api.METHODS, "central"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--validate", type=float, default=0.0)
    parser.add_argument("--leave-out", action="store_true")
    parser.add_argument("--sites", type=Path)
    parser.add_argument("--eval", type=Path)
    asked = parser.parse_args()
    settings = dict(part.split("=", 1) for part in asked.set)
    plain = load_recipe(asked.recipe, overrides=settings)
    model = plain.recipe.model
    base = ensure_model(model.base, revision=model.revision, digest=model.digest)
    found: list[dict[str, Any]] = []
    for out, tables, test in splits(plain, asked.validate, asked.leave_out, asked.sites, asked.eval):
        bench, where = Bench(plain.recipe, base, tables, test), {"left_out": out} if out else {}
        for name, seed in itertools.product(asked.methods, asked.seeds):
            own = {} if name == "central" else {"computation": name}
            if name == "sketch":
                own["adapter.sketch_width"] = str(len(tables) * plain.recipe.adapter.lora.rank)
            recipe = load_recipe(asked.recipe, overrides=settings | own, seed=seed).recipe
            start = time.monotonic()
            for round_, adapter in (
                bench.central(recipe) if name == "central" else bench.federated(recipe, asked.every)
            ):
                value, took = round(bench.scored(recipe, adapter), 4), round(time.monotonic() - start)
                found.append(
                    where | {"method": name, "seed": seed, "round": round_, "value": value, "seconds": took}
                )
                sys.stderr.write(json.dumps(found[-1]) + "\n")
                sys.stderr.flush()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
