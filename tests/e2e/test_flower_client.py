"""The template of a Flower ClientApp over real sites with real sandboxes, and the same file in Flower."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.peers.flower_link import FlowerFederation
from e2e.conftest import Home
from plasmid.recipes import templates
from plasmid.recipes.load import load_recipe
from support.federation.flower_apps import by_flower, first_arrays

SITES = ("east", "north", "west")
PROJECT = """
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "net"
version = "1.0.0"
description = "The template on a SuperLink"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "plasmid"

[tool.flwr.app.components]
serverapp = "net.server_app:app"
clientapp = "net.client_app:app"

[tool.flwr.app.config]
learning-rate = 0.1
local-steps = 20
folder = ""
"""
SERVER = """
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Array
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    folder = Path(context.run_config["folder"])
    first = ArrayRecord({name: Array(value) for name, value in np.load(folder / "first.npz").items()})
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    last = strategy.start(grid, first, num_rounds=2).arrays
    np.savez(folder / "partial.npz", **{name: array.numpy() for name, array in last.items()})
    (folder / "partial.npz").rename(folder / "last.npz")
"""


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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_file_runs_on_supernodes(tables: Path, tmp_path: Path) -> None:
    """Upstream's SuperLink, SuperNodes and processes make of it what its call in this process makes."""
    recipe = templates.write("net", templates.Half.flower, tmp_path)
    document: Any = load_recipe(recipe, overrides={"federation.rounds": "2"}).parsed
    client = recipe / "bundle" / "client_app.py"
    package = tmp_path / "app" / "net"
    package.mkdir(parents=True)
    (tmp_path / "app" / "pyproject.toml").write_text(PROJECT)
    for name, text in (("__init__", ""), ("server_app", SERVER), ("client_app", client.read_text())):
        (package / f"{name}.py").write_text(text)
    np.savez(tmp_path / "first.npz", **first_arrays(document))
    (tmp_path / "flower").mkdir()
    federation = FlowerFederation(tmp_path / "flower", tls=True)
    try:
        federation.start_superlink()
        federation.start_supernodes([f'data-path="{tables / site}.csv"' for site in SITES])
        federation.submit(tmp_path / "app", f'folder="{tmp_path}"')
        deadline = time.monotonic() + 400
        while not (tmp_path / "last.npz").exists():
            federation.check(deadline, "the last arrays")
    finally:
        federation.end()
    last = np.load(tmp_path / "last.npz")
    expected = by_flower(document, client, [tables / f"{site}.csv" for site in SITES])
    found = np.concatenate([last[name].ravel() for name, _ in document.bundle.ordered])
    assert found == pytest.approx(expected, abs=2e-6)
