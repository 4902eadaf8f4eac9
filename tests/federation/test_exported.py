"""A recipe as a Flower app: the same adapter as over the secure sum, by upstream code on both sides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from benchmarks.methods import Bench
from plasmid.adapters.adapter import Vector
from plasmid.adapters.artifact import read_adapter
from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.recipes.schema import Recipe
from plasmid.strategies.exported import OverSum, client_app, packed, release, unpacked
from plasmid.strategies.exporting import write_app
from plasmid.worker.flower import assume_identity
from support.federation.attacks import refusal
from support.federation.flower_apps import Nodes
from support.tiny.tiny_task import tiny_recipe, tiny_table

pytestmark = pytest.mark.usefixtures("at_home")
SITES = ("alpha", "beta", "delta")
TABLES = {name: tiny_table(40, seed) for seed, name in enumerate(SITES)}


def recipe(base: BaseModel, **sections: Any) -> Recipe:
    values = tiny_recipe(base, steps=2).model_dump(mode="json")
    for section, changes in sections.items():
        values[section] = values[section] | changes if isinstance(changes, dict) else changes
    return Recipe.model_validate(values)


def csv(table: Table) -> str:
    rows = [f"{row['sequence']},{row['gene'] or 'NA'},{row['label']}" for row in table.records()]
    return "\n".join(["sequence,gene,label", *rows]) + "\n"


def run(document: Recipe, folder: Path, base: BaseModel) -> Vector:
    """Return the last state of the exported app in *folder*, over three nodes."""
    (path,) = folder.glob("*/recipe.json")
    apps = {}
    for number, (name, table) in enumerate(TABLES.items(), 10):
        rows = folder / f"{name}.csv"
        rows.write_text(csv(table))
        settings = {"site": name, "table": str(rows)}
        context = Context(run_id=1, node_id=number, node_config=settings, state=RecordDict(), run_config={})
        apps[number] = (client_app(path), context)
    assume_identity()
    strategy = OverSum(document, base)
    first = strategy._method.initial(document, strategy.shape)
    result = strategy.start(Nodes(apps), packed(strategy.shape.state, first), num_rounds=document.rounds)
    return unpacked(strategy.shape.state, result.arrays)


@pytest.mark.parametrize(
    ("method", "server"),
    [("finetune", {"strategy": "FedAvgM", "options": {"server_momentum": 0.5}}), ("fedsvd", {})],
)
def test_the_app_makes_the_adapter_that_the_secure_sum_makes(
    method: str, server: dict[str, Any], tmp_path: Path, tiny: dict[str, BaseModel]
) -> None:
    base = tiny["esm"]
    federation = {"server": server} if server else {}
    document = recipe(base, computation=method, federation=federation)
    folder = write_app(document, tmp_path / "app")
    state = run(document, folder, base)
    bench = Bench(document, base, TABLES, tiny_table(20, 9))
    *_, (_, expected) = bench.federated(document, 1)
    strategy = OverSum(document, base)
    adapter = strategy._method.adapter(document, base, state)
    assert np.abs(expected).max() > 0.01
    assert adapter == pytest.approx(expected, abs=2e-5)
    release(tmp_path / "adapter", document, base, state)
    _, released = read_adapter(tmp_path / "adapter").on(base)
    assert np.array_equal(released, adapter)
    assert "whoever ran its SuperLink saw" in (tmp_path / "adapter" / "README.md").read_text()


def test_the_folder_is_an_app_that_imports(tmp_path: Path, tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], title='A "quoted" title')
    folder = write_app(document, tmp_path / "app")
    (package,) = (path.name for path in folder.iterdir() if path.is_dir())
    assert json.loads((folder / package / "recipe.json").read_text()) == document.model_dump(mode="json")
    assert f'clientapp = "{package}.app:client"' in (folder / "pyproject.toml").read_text()
    told = subprocess.run(
        [sys.executable, "-c", f"import {package}.app as a; print(type(a.client), type(a.server))"],
        cwd=folder,
        env={"PYTHONPATH": ":".join([str(folder), *sys.path]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert "ClientApp" in told.stdout, told.stderr
    assert "ServerApp" in told.stdout
    with refusal("usage.exists"):
        write_app(document, folder)


def test_what_flower_would_leave_out_is_refused_all_at_once(
    tmp_path: Path, tiny: dict[str, BaseModel]
) -> None:
    unit = {"unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 1.0}
    document = recipe(tiny["esm"], privacy=unit)
    held = {"share": 0.2, "by": "record", "seed": 1}
    document = document.model_copy(
        update={"data": document.data.model_copy(update={"holdout": held})},
    )
    with refusal("recipe.export") as caught:
        write_app(document, tmp_path / "app")
    assert "privacy.unit: record" in caught.value.message
    assert "data.holdout" in caught.value.message
    assert not (tmp_path / "app").exists()


def test_too_few_answers_end_the_run(tiny: dict[str, BaseModel]) -> None:
    strategy = OverSum(recipe(tiny["esm"], federation={"min_sites": 3}), tiny["esm"])
    with refusal("run.nodes_lost") as caught:
        strategy.aggregate_train(1, [])
    assert "federation.min_sites is 3" in caught.value.message
