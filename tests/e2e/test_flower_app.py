"""An exported recipe on an upstream SuperLink with three SuperNodes, by Flower's own commands."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.peers.flower_link import FlowerFederation
from federation.test_exported import TABLES, csv, recipe
from plasmid.adapters.artifact import read_adapter
from plasmid.bases.store import BaseModel
from plasmid.strategies.exporting import write_app

pytestmark = [pytest.mark.usefixtures("at_home"), pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_app_runs_on_an_upstream_superlink(tmp_path: Path, tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"])
    app, adapter = write_app(document, tmp_path / "app"), tmp_path / "adapter"
    settings = []
    for name, table in TABLES.items():
        rows = tmp_path / f"{name}.csv"
        rows.write_text(csv(table))
        settings.append(f'site="{name}" table="{rows}"')
    (tmp_path / "flower").mkdir()
    federation = FlowerFederation(tmp_path / "flower", tls=True)
    try:
        federation.start_superlink()
        federation.start_supernodes(settings)
        federation.submit(app, f'adapter="{adapter}"')
        deadline = time.monotonic() + 400
        while not (adapter / "adapter_model.safetensors").exists():
            federation.check(deadline, "the adapter")
    finally:
        federation.end()
    _, state = read_adapter(adapter).on(tiny["esm"])
    assert abs(state).max() > 0.01
