"""Trees over real sites: the forest that comes out is that of all rows in one place, and XGBoost reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xgboost

from e2e.conftest import Home
from plasmid.computations import trees
from plasmid.core.canonical import sha256_hex
from plasmid.data.table import concatenate
from plasmid.data.views.reading import read_table
from plasmid.experiments.trees import grown
from plasmid.recipes.load import load_recipe
from plasmid.recipes.trees import TreesRecipe

RECIPE = """
computation: trees
name: machines
title: Which part fails
task: {kind: classification, labels: [holds, fails], metric: auc}
data:
  label: part
  max_rows: 1000
  columns:
    heat: {type: number, bounds: [0, 100]}
    load: {type: number, bounds: [0, 1], missing: allowed}
    part: {type: label}
trees:
  count: 2
  depth: 2
  features:
    - {column: heat, edges: [20, 40, 60, 80]}
    - {column: load, edges: [0.25, 0.5, 0.75]}
"""


def rows(count: int, seed: int) -> str:
    source = np.random.default_rng(seed)
    lines = ["heat,load,part"]
    for _ in range(count):
        heat, load = source.uniform(0, 100), source.uniform(0, 1)
        fails = heat + 40 * load + source.normal(0, 10) > 75
        shown = "" if source.random() < 0.2 else f"{load:.3f}"
        lines.append(f"{heat:.2f},{shown},{'fails' if fails else 'holds'}")
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, tables of three sites, and a test."""
    folder = tmp_path_factory.mktemp("machines")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "sites").mkdir()
    for number, site in enumerate(("east", "north", "west")):
        (folder / "sites" / f"{site}.csv").write_text(rows(150, number))
    (folder / "test.csv").write_text(rows(200, 9))
    return folder


@pytest.mark.slow
def test_the_forest_of_a_run_is_that_of_all_rows_and_its_provenance_names_the_file(
    home: Home, folder: Path
) -> None:
    status, answer, errors = home.run(
        "run", str(folder), "--sites", str(folder / "sites"), "--eval", str(folder / "test.csv"), "--yes"
    )
    assert status == 0, (answer, errors)
    data = answer["data"]
    recipe = load_recipe(folder).parsed
    assert isinstance(recipe, TreesRecipe)
    tables = [read_table(path, recipe.contract) for path in sorted((folder / "sites").glob("*.csv"))]
    test = read_table(folder / "test.csv", recipe.contract)
    pooled = trees.answers(recipe, grown(recipe, concatenate(tables)), test.columns)[:, 1]

    made = Path(data["folder"])
    booster = xgboost.Booster(model_file=str(made / "model.json"))
    columns = [[np.nan if cell is None else cell for cell in test.columns[name]] for name in ("heat", "load")]
    said = booster.predict(xgboost.DMatrix(np.array(columns, np.float32).T, feature_names=["heat", "load"]))
    np.testing.assert_allclose(said, pooled, atol=1e-6)

    provenance = json.loads((made / "provenance.json").read_text())
    assert provenance["files"] == {"model.json": sha256_hex((made / "model.json").read_bytes())}
    assert provenance["metrics"] == data["metrics"]
    assert provenance["recipe"] == {"name": "machines", "digest": load_recipe(folder).digest}
    metrics = data["metrics"]
    assert metrics["federated"] == pytest.approx(metrics["central"], abs=1e-9)
    assert set(metrics["local"]) == {"east", "north", "west"}
    assert metrics["federated"] > 0.8
    assert metrics["simple"]["central"] > 0.8
    assert data["result"]["trees"] == 2
    assert sum(data["result"]["gain"].values()) == pytest.approx(1.0)


@pytest.mark.slow
def test_a_level_with_more_numbers_than_a_third_of_the_rows_is_refused_without_a_unit(
    home: Home, folder: Path
) -> None:
    status, answer, _ = home.run(
        "run", str(folder), "--sites", str(folder / "sites"), "--yes", "--set", "trees.depth=4"
    )
    assert status != 0
    assert answer["error"]["code"] == "recipe.too_few_sites"
    assert "policy.parameters" in answer["error"]["message"]
