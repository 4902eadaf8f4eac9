"""A site's own adapter is used at the site by its run's id, and goes nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.adapters.adapter import adapter_schema, initial_state
from plasmid.adapters.artifact import read_adapter
from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.serve import _folders
from plasmid.exchange.sharing import push
from plasmid.prediction.adapters import adapter_folder
from support.federation.attacks import refusal
from support.federation.in_memory import Federation
from support.tiny.tiny_task import tiny_recipe


@pytest.mark.usefixtures("at_home")
def test_it_is_served_and_used_here_and_published_nowhere(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    base = tiny["esm"]
    federation, recipe = Federation(tmp_path), tiny_recipe(base)
    gateway, home = federation.gateways["alpha"], federation.home("alpha")
    state = initial_state(adapter_schema(base, recipe.adapter.lora, recipe.head()), 3)
    facts: dict[str, Any] = {"site": "alpha", "digest": "0" * 64, "rounds": 2, "steps": 5}
    made = gateway.personal.finish(gateway.audit, "run-1", recipe, base, state, facts)
    assert gateway.personal.steps("run-1") == 5
    found = adapter_folder("personal:run-1", home)
    assert found == made
    assert np.array_equal(read_adapter(found).on(base)[1], state)
    assert {path.stat().st_mode & 0o777 for path in found.iterdir()} == {0o600}
    assert _folders(["own=personal:run-1"], home) == {"own": str(found.absolute())}
    with refusal("usage.personal_local"):
        _folders(["own=personal:run-1"], None)
    with refusal("model.no_personal"):
        adapter_folder("personal:run-2", home)
    hub: Any = None  # it is not asked
    with refusal("hub.personal"):
        push(hub, found, "lab/own")
