"""The template of a Flower ClientApp over real sites with real sandboxes, and the same file in Flower."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from e2e.conftest import Home
from flower_apps import by_flower
from plasmid.recipes.load import load_recipe

SITES = ("east", "north", "west")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of three tables of 40 people each, with a column that the recipe does not name."""
    folder, source = tmp_path_factory.mktemp("tables"), random.Random(0)
    for number, site in enumerate(SITES):
        lines = ["height,weight,name"]
        for _ in range(40):
            height = min(max(source.gauss(145 + 15 * number, 12), 101), 219)
            lines.append(f"{height:.1f},{22 * (height / 100) ** 2 + source.gauss(0, 4):.1f},secret")
        (folder / f"{site}.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_the_template_makes_at_sites_what_it_makes_in_flower(
    home: Home, tables: Path, tmp_path: Path
) -> None:
    """Sums are exact to the fixed-point step; what is left is the app's float32, over reordered rows."""
    status, answer, errors = home.ask("recipes", "new", "net", "--bundle", "flower", "--to", str(tmp_path))
    assert status == 0, (answer, errors)
    command = ("run", str(tmp_path / "net"), "--sites", str(tables), "--yes", "--set", "federation.rounds=4")
    status, answer, errors = home.run(*command)
    assert status == 0, (answer, errors)
    kept = load_file(Path(answer["data"]["folder"]) / "result.safetensors")
    document: Any = load_recipe(tmp_path / "net", overrides={"federation.rounds": "4"}).parsed
    expected = by_flower(
        document, tmp_path / "net" / "bundle" / "client_app.py", [tables / f"{site}.csv" for site in SITES]
    )
    found = np.concatenate([kept[name].ravel() for name, _ in document.bundle.ordered])
    assert {name: kept[name].shape for name in kept} == dict(document.bundle.ordered)
    assert found == pytest.approx(expected, abs=2e-6)
    for site in SITES:
        assert (home.folder / "sites" / site / "worker.log").read_text() == ""
