"""Test metric of a recipe after each round, as its README has it: ``python -m benchmarks.curves``.

Trains in one process, as :mod:`benchmarks.methods`, :mod:`benchmarks.trees` and :mod:`benchmarks.personal`
do: with the rows, order, seeds and arithmetic of a run. Prints one row of the README's table a seed, and
the seconds of each.

    python -m benchmarks.curves splice-junction --seeds 0 1 2
    python -m benchmarks.curves splice-junction --beside       # what the table of a run has beside it, seed 0
    python -m benchmarks.curves icd-chapter --sites DIR/sites --eval DIR/test.csv
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import methods, personal, trees
from plasmid.bases.store import ensure_model
from plasmid.data.views.reading import read_table
from plasmid.experiments.baselines import run_baselines
from plasmid.experiments.table import Table
from plasmid.experiments.trees import score
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.recipes.sites import materialise_eval, materialise_sites
from plasmid.recipes.trees import TreesRecipe

Curve = Iterator[tuple[int, float]]


def points(rounds: int) -> list[int]:
    """Return the rounds that are scored: the first two, each fourth of all, the last."""
    return sorted({1, min(2, rounds), *(max(1, round(rounds * part / 4)) for part in range(1, 5))})


def of_labels(
    plain: ResolvedRecipe, sites: Path | None, test: Path | None, seeds: list[int]
) -> Iterator[Curve]:
    """Yield the curve of each seed of a recipe that fine-tunes one adapter for all."""
    tables, rows = methods.read(plain, sites=sites, evaluation=test)
    model = plain.recipe.model
    base = ensure_model(model.base, revision=model.revision, digest=model.digest)
    bench = methods.Bench(plain.recipe, base, tables, rows)
    for seed in seeds:
        recipe = plain.recipe.model_copy(update={"seed": seed})
        wanted = points(recipe.rounds)
        made = (one for one in bench.federated(recipe, 1) if one[0] in wanted)
        yield ((round_, bench.scored(recipe, adapter)) for round_, adapter in made)


def of_own(plain: ResolvedRecipe, seeds: list[int]) -> Iterator[Curve]:
    """Yield the curve of each seed where sites keep a part: the mean over each one's held-out rows."""
    base, sites = personal.read(plain)
    for seed in seeds:
        recipe = plain.recipe.model_copy(update={"seed": seed})
        wanted = points(recipe.rounds)
        yield (
            (round_, float(np.mean([site.score(recipe, own[name]) for name, site in sites.items()])))
            for round_, own in personal.federated(recipe, base, sites)
            if round_ in wanted
        )


def of_trees(plain: ResolvedRecipe) -> Curve:
    """Yield (trees, metric) of a forest, which has no seed."""
    recipe = plain.parsed
    assert isinstance(recipe, TreesRecipe), "it grows trees"
    with tempfile.TemporaryDirectory() as folder:
        paths = materialise_sites(plain, Path(folder))
        test = materialise_eval(plain, Path(folder))
        assert test is not None, "it ships one"
        tables = {name: read_table(path, recipe.contract) for name, path in paths.items()}
        rows = read_table(test, recipe.contract)
    count = recipe.trees.count
    each = recipe.rounds // count
    for round_, state in trees.federated(recipe, tables):
        if round_ % each == 0 and round_ // each in points(count):
            yield round_ // each, score(recipe, state, rows)


def beside(plain: ResolvedRecipe, sites: Path | None, test: Path | None) -> Iterator[tuple[str, float]]:
    """Yield what the table of a run has beside the federated adapter."""
    with tempfile.TemporaryDirectory() as folder:
        paths = materialise_sites(plain, Path(folder), sites)
        rows = materialise_eval(plain, Path(folder), test)
        assert rows is not None, "a recipe that ships no data needs --sites and --eval"
        found = run_baselines(plain, paths, rows)
    recipe, simple = plain.parsed, found["simple"]
    assert isinstance(recipe, Recipe | TreesRecipe), "it has a metric"
    table = Table(
        metric=recipe.task.metric,
        local=found["local"],
        central=found["central"],
        simple_central=simple["central"],
        simple_local=simple["local"],
    )
    yield from (row for row in table.rows() if row[0].removesuffix(" alone") not in found["local"])


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--sites", type=Path)
    parser.add_argument("--eval", type=Path)
    parser.add_argument("--beside", action="store_true")
    asked = parser.parse_args()
    overrides = dict(part.split("=", 1) for part in asked.set)
    if "seed" in overrides and not asked.beside:
        parser.error("--set seed is for --beside; a curve is made for each of --seeds.")
    plain = load_recipe(asked.recipe, overrides=overrides)
    if asked.beside:
        for what, value in beside(plain, asked.sites, asked.eval):
            print(f"| {what} | {value:.3f} |")
        return
    curves: Any
    if not isinstance(plain.parsed, Recipe):
        curves = [of_trees(plain)]
    elif plain.parsed.adapter.personal:
        curves = of_own(plain, asked.seeds)
    else:
        curves = of_labels(plain, asked.sites, asked.eval, asked.seeds)
    for seed, curve in zip(asked.seeds, curves, strict=False):
        start = time.monotonic()
        found = dict(curve)
        if seed == asked.seeds[0]:
            print("| after round |", " | ".join(map(str, found)), "|")
            print("|---" * (1 + len(found)) + "|")
        print(f"| seed {seed} |", " | ".join(f"{value:.3f}" for value in found.values()), "|")
        sys.stderr.write(f"seed {seed}: {time.monotonic() - start:.0f} s\n")


if __name__ == "__main__":
    main()
