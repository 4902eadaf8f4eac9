"""Our side of the benchmark ``simulation``, the world that both sides simulate, and one site's work in it.

Run as ``python -m bench.ours.simulation FOLDER ROUNDS``; the last line of stdout is every round's seconds.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.bases.store import BaseModel
from plasmid.core.files import home
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.recipes.schema import Recipe

SITES = 1_000
SITES_A_ROUND = 20
ROWS = 32
"""Of each site."""


def make_world(folder: Path) -> None:
    """Write a state folder with a tiny base model, a recipe and a table for each site."""
    from plasmid.bases.importer import import_folder
    from support.tiny.tiny_models import tiny_bert
    from support.tiny.tiny_task import tiny_recipe, tiny_table

    os.environ["PLASMID_HOME"] = str(folder / "home")
    base = import_folder(tiny_bert(folder / "source"), model_id="tiny-bert")
    document = tiny_recipe(base, steps=1).model_dump(mode="json")
    (folder / "recipe.yaml").write_text(json.dumps(document), encoding="utf-8")
    (folder / "sites").mkdir()
    for site in range(SITES):
        table = tiny_table(ROWS, seed=site)
        with table_of(folder, site).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(table.columns)
            rows = zip(*table.columns.values(), strict=True)
            writer.writerows(["" if cell is None else cell for cell in row] for row in rows)


def table_of(folder: Path, site: int) -> Path:
    """Return the file of *site*."""
    return folder / "sites" / f"site-{site:04}.csv"


@functools.cache
def recipe_of(folder: Path, rounds: int) -> ResolvedRecipe:
    """Return the recipe of both sides."""
    return load_recipe(str(folder / "recipe.yaml"), overrides={"federation.rounds": str(rounds)})


def base_of(recipe: Recipe) -> BaseModel:
    """Return the base model of *recipe*."""
    from plasmid.bases.store import ensure_model

    return ensure_model(recipe.model.base, revision=recipe.model.revision, digest=recipe.model.digest)


@functools.cache
def _first_engine(folder: Path) -> tuple[Any, Any, Any]:
    """Return recipe, base model and an engine, loaded once a process: what the peer's clients share."""
    from plasmid.data.views.reading import read_table
    from plasmid.worker.engine import Engine

    recipe = recipe_of(folder, 1).recipe
    base = base_of(recipe)
    return recipe, base, Engine(recipe, base, read_table(table_of(folder, 0), recipe.contract))


def trained(folder: Path, site: int, state: NDArray[Any], round_: int) -> NDArray[Any]:
    """Return what *site* makes of *state*: the same rows, engine and seed as in our own simulation."""
    from plasmid.data.views.reading import training_table
    from plasmid.gateway.run import local_seed
    from plasmid.worker.rounds import site_vector

    recipe, base, engine = _first_engine(folder)
    table = training_table(table_of(folder, site), recipe, Path(tempfile.gettempdir()))
    name = f"site-{site:04}"
    seed = local_seed(recipe.seed, name, round_)
    how: dict[str, Any] = {"site": name, "round_": round_, "seed": seed, "sampling": None}
    update = site_vector(engine.over(table), recipe, base, state, **how)
    return np.asarray(state + update)


def first_state(folder: Path) -> NDArray[Any]:
    """Return the adapter before training."""
    from plasmid.computations import api

    recipe, base, _ = _first_engine(folder)
    method = api.method(recipe)
    return np.asarray(method.initial(recipe, method.shape(recipe, base)))


def main() -> None:
    """Simulate, and print the seconds of every round."""
    from plasmid.simulation.cluster import local_cluster
    from plasmid.simulation.run import simulate

    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    assert home() == folder / "home", "the world's own state folder"
    tables = {table_of(folder, site).stem: table_of(folder, site) for site in range(SITES)}
    with local_cluster() as cluster:
        found = simulate(cluster, recipe_of(folder, rounds), tables, None, sites_a_round=SITES_A_ROUND)
    print(json.dumps(found.round_s))


if __name__ == "__main__":
    main()
