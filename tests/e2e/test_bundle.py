"""A recipe with Python from its template to its result, over real sites with real sandboxes."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from e2e.conftest import Home

ROWS = 40
"""Enough for 13 numbers of one query: at most one for every three rows."""


@pytest.fixture(scope="module")
def recipe(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the template for a vector per record."""
    folder = tmp_path_factory.mktemp("recipes")
    status, answer, errors = home.run("recipes", "new", "ages", "--to", str(folder))
    assert status == 0, (answer, errors)
    return folder / "ages"


@pytest.fixture(scope="module")
def ages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """Return the ages of three sites."""
    source = random.Random(0)
    return {site: [source.randint(0, 119) for _ in range(ROWS)] for site in ("east", "north", "west")}


@pytest.fixture(scope="module")
def tables(ages: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of their tables, with a column that the recipe does not name."""
    folder = tmp_path_factory.mktemp("tables")
    for site, values in ages.items():
        lines = [f"{age},secret" for age in values]
        (folder / f"{site}.csv").write_text("\n".join(["age,name", *lines, ",secret", ""]))
    return folder


def run(home: Home, recipe: Path, tables: Path, *settings: str) -> dict[str, Any]:
    status, answer, errors = home.run("run", str(recipe), "--sites", str(tables), "--yes", *settings)
    assert status == 0, (answer, errors)
    data: dict[str, Any] = answer["data"]
    return data


def test_without_a_unit_the_sum_is_exact(
    home: Home, recipe: Path, tables: Path, ages: dict[str, list[int]]
) -> None:
    data = run(home, recipe, tables, "--set", "privacy={}")
    counts = Counter(age // 10 for values in ages.values() for age in values)
    assert data["result"] == {
        "sites": 3,
        "tensors": {"counts": [float(counts[decade]) for decade in range(13)]},
    }
    kept = load_file(Path(data["folder"]) / "result.safetensors")
    assert kept["counts"].tolist() == data["result"]["tensors"]["counts"]
    provenance = json.loads((Path(data["folder"]) / "provenance.json").read_text())
    assert (provenance["run"], provenance["base"], provenance["recipe"]["name"]) == (
        data["run_id"],
        None,
        "ages",
    )
    for site in ages:
        assert (home.folder / "sites" / site / "worker.log").read_text() == ""


@pytest.mark.slow
def test_under_a_unit_every_record_is_computed_apart_and_noised(
    home: Home, recipe: Path, tables: Path, ages: dict[str, list[int]]
) -> None:
    """50 turns of 300 ms, some of them nobody's; noise of m - c = 2 shares is planned, three are there."""
    settings = ("--set", "data.max_rows=50", "--set", "bundle.record_ms=300", "--set", "privacy.epsilon=8")
    data = run(home, recipe, tables, *settings)
    counts = Counter(age // 10 for values in ages.values() for age in values)
    wrong = np.array(data["result"]["tensors"]["counts"]) - [counts[decade] for decade in range(13)]
    assert 0.05 < wrong.std() < 4.0
    assert data["privacy"][1].startswith("(8.00, 1e-06)-differential privacy for any one record at a site")
    for site in ages:  # it would say how many records were lost
        assert (home.folder / "sites" / site / "worker.log").read_text() == ""
