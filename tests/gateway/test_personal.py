"""What a site keeps for itself of a run: from round to round, over restarts, until it is purged."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.core.clock import now
from plasmid.gateway.personal import Personal
from plasmid.gateway.retention import purge, purge_expired
from support.federation.attacks import refusal
from support.federation.in_memory import Federation, full_disk

SCHEMA = AdapterSchema((TensorSpec("layer.lora_B.weight", (2, 2)), TensorSpec("head.bias", (3,))))


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def values(number: float) -> np.ndarray:
    return np.full(SCHEMA.size, number, np.float32)


def keep(federation: Federation, round_: int, number: float, run: str = "run-1") -> None:
    gateway = federation.gateways["alpha"]
    gateway.personal.keep(gateway.audit, run, round_, SCHEMA, values(number))


def before(federation: Federation, round_: int) -> float | None:
    found = federation.gateways["alpha"].personal.before("run-1", round_, SCHEMA)
    return None if found is None else float(found[0])


def test_a_round_begins_with_what_the_newest_round_before_it_has_left(federation: Federation) -> None:
    assert before(federation, 1) is None
    keep(federation, 1, 11.0)
    keep(federation, 2, 22.0)
    # an attempt that failed is made again from where the first one began
    assert (before(federation, 2), before(federation, 3)) == (11.0, 22.0)
    keep(federation, 2, 23.0)
    federation.restart("alpha")
    assert (before(federation, 2), before(federation, 3)) == (11.0, 23.0)
    keep(federation, 5, 55.0)  # it was away for two rounds
    assert (before(federation, 5), before(federation, 9)) == (23.0, 55.0)
    folder = federation.home("alpha").personal / "run-1"
    assert sorted(path.name for path in folder.iterdir()) == ["000002.safetensors", "000005.safetensors"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_it_is_logged_before_it_is_written_and_without_a_value(federation: Federation) -> None:
    with full_disk(federation.gateways["alpha"]), refusal("storage.full"):
        keep(federation, 1, 777.25)
    assert before(federation, 2) is None
    federation.restart("alpha")
    keep(federation, 1, 777.25)
    (entry,) = [line for line in federation.log("alpha") if line["action"] == "personal.kept"]
    assert (entry["run"], entry["round"]) == ("run-1", 1)
    assert entry["tensors"] == ["layer.lora_B.weight [2, 2]", "head.bias [3]"]
    assert "777.25" not in json.dumps(federation.log("alpha"))


def test_what_is_damaged_is_not_trained_on(federation: Federation) -> None:
    keep(federation, 1, 1.0)
    path = federation.home("alpha").personal / "run-1" / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with refusal("storage.personal_damaged"):
        before(federation, 2)


def test_a_purge_forgets_it_and_says_so(federation: Federation) -> None:
    home = federation.home("alpha")
    keep(federation, 1, 1.0)
    keep(federation, 1, 1.0, run="run-2")
    assert purge(home, "run-1", by="ann")
    assert not purge(home, "run-1", by="ann")
    (entry,) = [line for line in federation.log("alpha") if line["action"] == "purged"]
    assert (entry["run"], entry["what"]) == ("run-1", ["personal"])
    assert [path.name for path in home.personal.iterdir()] == ["run-2"]


def test_what_nobody_has_written_to_for_the_owner_s_days_is_forgotten(federation: Federation) -> None:
    home, audit = federation.home("alpha"), federation.gateways["alpha"].audit
    home.write_config(home.config().model_copy(update={"retention_days": 30}))
    keep(federation, 1, 1.0)
    assert purge_expired(home, audit, clock=lambda: now() + timedelta(days=29)) == []
    assert purge_expired(home, audit, clock=lambda: now() + timedelta(days=31)) == ["run-1"]
    assert not Personal(home.personal).knows("run-1")


@pytest.mark.parametrize("name", ["../alpha", "run/1", "", "."])
def test_no_run_s_name_leads_out_of_the_folder(federation: Federation, name: str) -> None:
    store = federation.gateways["alpha"].personal
    for ask in (store.knows, store.purge, store.adapter):
        with refusal("usage.run"):
            ask(name)


def test_a_run_of_which_nothing_is_kept_is_told(federation: Federation) -> None:
    with refusal("model.no_personal"):
        federation.gateways["alpha"].personal.adapter("run-9")
