"""What is said of where a result comes from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from plasmid.client.provenance import project_line, sums_provenance
from plasmid.core.canonical import sha256_hex

PROJECT = {"name": "trial", "digest": "d" * 64, "purpose": "vaccine-research"}


def test_sums_name_their_project_and_who_asked_for_them() -> None:
    result: Any = {
        "participants": ["alpha"],
        "survivors": [],
        "epochs": [],
        "step": 1.0,
        "state": "s",
        "rounds": 1,
    }
    shown = {
        "run_id": "run-1",
        "project": PROJECT,
        "requester": "ada",
        "digest": "e" * 64,
        "rounds_done": 1,
        "round_log": [{"manifest": "m"}],
        "result": result,
    }
    facts: Any = SimpleNamespace(rehearsal=False, protocol="none", protect="none", as_json=dict)
    made = sums_provenance(
        shown,
        SimpleNamespace(name="tiny"),
        facts,
        coordinator="AAAA",
        files={"model.json": b"{}"},
        metrics={"metric": "auc"},
    )
    assert made["files"] == {"model.json": sha256_hex(b"{}")}
    assert made["metrics"] == {"metric": "auc"}
    assert (made["schema"], made["project"], made["requester"]) == ("plasmid.provenance/4", PROJECT, "ada")
    assert (made["countersigned"], made["not_countersigned"], made["manifests"]) == ({}, ["alpha"], ["m"])
    assert project_line(PROJECT, "ada") == (
        f"Project `trial`, for vaccine-research, digest `{'d' * 64}`. The run was asked for by `ada`."
    )
