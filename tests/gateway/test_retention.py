"""Forgetting who was in a run: logged before it is done, by hand or by time; what must stay, stays."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plasmid.core.clock import now
from plasmid.core.errors import StorageError
from plasmid.gateway import retention
from plasmid.gateway import watch as watch_module
from plasmid.gateway.open_view import Opened
from plasmid.gateway.participation import Lineage
from plasmid.gateway.retention import lineage_of, purge, purge_expired
from plasmid.gateway.watch import Watch
from plasmid.log.audit_log import AuditLog
from support.federation.attacks import private, refusal
from support.federation.in_memory import Federation

KEYS = bytes(8) + b"\x01" * 8


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """A run that every site has admitted and begun, with two people in each view."""

    def opened(*_: Any, **__: Any) -> Opened:
        return Opened(None, "0" * 64, rows=1, people=2, by_patient=True, keys=KEYS)

    monkeypatch.setattr("plasmid.gateway.admission.open_view", opened)
    made = private(tmp_path)
    made.set_up()
    return made


def actions(federation: Federation) -> list[str]:
    return [line["action"] for line in federation.log("alpha")]


def test_a_run_is_known_from_its_admission_on(federation: Federation) -> None:
    (known,) = lineage_of(federation.home("alpha")).all()
    assert (known.run, known.document, known.requester, known.project) == (
        federation.run,
        "ages",
        "ada",
        "trial",
    )
    assert (known.by_patient, known.population, known.snapshot) == (True, "default", "0" * 64)
    assert known.digest == federation.digest


def test_a_question_leaves_no_record(federation: Federation) -> None:
    home = federation.home("alpha")
    assert purge(home, federation.run, by="ann")
    federation.new_run("run-2")
    assert federation.gateways["alpha"].answer(federation.asking()).accepted
    assert list(lineage_of(home).all()) == []


def test_a_purge_is_logged_with_who_did_it_and_once(federation: Federation) -> None:
    home = federation.home("alpha")
    assert purge(home, federation.run, by="ann")
    assert not purge(home, federation.run, by="ann")
    (line,) = [line for line in federation.log("alpha") if line["action"] == "purged"]
    assert (line["actor"], line["run"], line["what"]) == ("person:ann", federation.run, ["lineage"])
    assert federation.gateways["alpha"].audit.verify() is not None


def test_it_is_logged_before_it_is_done(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written keeps the record; a crash in between leaves an entry too many."""
    home = federation.home("alpha")

    def full(*_: Any, **__: Any) -> int:
        raise StorageError("storage.full", "no space left", "")

    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "write", full)
        with refusal("storage.full"):
            purge(home, federation.run, by="ann")
    assert lineage_of(home).knows(federation.run)

    def crash(*_: Any) -> bool:
        assert actions(federation)[-1] == "purged"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Lineage, "purge", crash)
        with pytest.raises(KeyboardInterrupt):
            purge(home, federation.run, by="ann")
    assert lineage_of(home).knows(federation.run)


def test_a_run_that_was_forgotten_is_not_begun_again(federation: Federation) -> None:
    """The mark, the ledger and the log stay: the same run is charged and answered no second time."""
    home = federation.home("alpha")
    ledger = home.ledger.read_bytes()
    purge(home, federation.run, by="ann")
    assert home.ledger.read_bytes() == ledger
    assert (home.runs / f"{federation.run}.json").exists()
    gateway = federation.restart("alpha")
    federation.admit("alpha")
    with refusal("protocol.epoch_used"):
        gateway.begin_epoch(federation.epoch())


def test_what_is_too_old_is_purged_and_logged(federation: Federation) -> None:
    home, audit = federation.home("alpha"), federation.gateways["alpha"].audit
    home.write_config(home.config().model_copy(update={"retention_days": 30}))
    assert purge_expired(home, audit, clock=lambda: now() + timedelta(days=29)) == []
    assert purge_expired(home, audit, clock=lambda: now() + timedelta(days=31)) == [federation.run]
    assert not lineage_of(home).knows(federation.run)
    (line,) = [line for line in federation.log("alpha") if line["action"] == "purged"]
    assert (line["actor"], line["rule"], line["days"]) == ("site", "retention_days", 30)


def test_the_node_s_watch_purges_once_an_hour(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, gateway = federation.home("alpha"), federation.gateways["alpha"]
    home.write_config(home.config().model_copy(update={"retention_days": 30}))
    node = SimpleNamespace(
        gateway=gateway, waiting=SimpleNamespace(look=lambda: None), end_all=lambda _: None
    )
    for step in ("_say", "_take_up", "_renew", "_changed"):
        monkeypatch.setattr(Watch, step, lambda *_: 0)
    calls: list[int] = []

    def purged(*arguments: Any, **how: Any) -> list[str]:
        calls.append(1)
        return retention.purge_expired(*arguments, **how)

    monkeypatch.setattr(watch_module, "purge_expired", purged)
    watch = Watch(node, clock=lambda: now() + timedelta(days=31))  # type: ignore[arg-type]
    watch.look()
    watch.look()
    assert calls == [1]
    assert not lineage_of(home).knows(federation.run)
    assert actions(federation)[-1] == "purged"


def test_a_damaged_record_refuses_runs_until_it_is_purged(federation: Federation) -> None:
    home, run = federation.home("alpha"), federation.run
    (home.lineage / "runs" / f"{run}.lineage").write_bytes(b"damaged")
    federation.new_run("run-2")
    answer = federation.admit("alpha")
    assert (answer.accepted, answer.code) == (False, "storage.lineage_damaged")
    assert purge(home, run, by="ann")
    assert federation.admit("alpha").accepted
