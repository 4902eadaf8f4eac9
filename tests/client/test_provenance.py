"""What an adapter's provenance says beside its privacy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from plasmid.client.provenance import project_line, provenance

PROJECT = {"name": "trial", "digest": "d" * 64, "purpose": "vaccine-research"}


def test_an_adapter_names_its_project_and_who_asked_for_it() -> None:
    result: Any = {"participants": ["alpha"], "survivors": [], "epochs": [], "step": 1.0, "state": "s"}
    shown = {
        "run_id": "run-1",
        "project": PROJECT,
        "requester": "ada",
        "digest": "e" * 64,
        "rounds_done": 1,
        "round_log": [],
        "result": result,
    }
    recipe = SimpleNamespace(name="tiny", privacy=SimpleNamespace(update_clip=None))
    base: Any = SimpleNamespace(id="b", revision="r", digest="f" * 64)
    facts: Any = SimpleNamespace(rehearsal=False, as_json=dict)
    made = provenance(shown, recipe, base, facts, coordinator="AAAA", metrics={})
    assert (made["schema"], made["project"], made["requester"]) == ("plasmid.provenance/3", PROJECT, "ada")
    assert project_line(PROJECT, "ada") == (
        f"Project `trial`, for vaccine-research, digest `{'d' * 64}`. The run was asked for by `ada`."
    )
