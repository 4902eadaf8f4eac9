"""The log has every kind of event, each with who, what, about which digest, by which rule, why, how it ended.

One site is taken through all of it: people, their approvals, a run under a privacy unit with its key epoch,
what is refused, and the end. Keys of the site itself are made and changed by verbs:
tests/cli/test_site_verb.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import PATTERN
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import ACTIONS
from plasmid.gateway.pause import pause, resume
from plasmid.log.entries import FIELDS
from support.federation.approving import add_people, allow_approved, revoke, sign
from support.federation.attacks import private, refusal
from support.federation.in_memory import Federation

KINDS = {
    "decision": {"accepted", "awaiting", "ready", "consent"},
    "access": {"view.opened"},
    "reservation": {"epsilon.reserved"},
    "spend": {"epsilon.spent", "epsilon.attempt"},
    "key event": {"person.added", "epoch", "ready", "shares"},
    "refusal": {"refused"},
    "approval": {"approval.requested", "approval.signed", "approval.revoked"},
    "release": {"released"},
    "owner's stop": {"paused", "resumed"},
}
"""What the log must have, and the actions by which it is told."""
ABOUT = {
    *("accepted", "view.opened", "epsilon.reserved", "epsilon.spent", "epsilon.attempt", "manifest"),
    *("approval.requested", "approval.signed", "approval.revoked", "released", "ready", "person.added"),
}
"""Actions about something that has a digest."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Sites, one of which has gone through everything; the tests only read what it has logged."""
    made = private(tmp_path_factory.mktemp("sites"))
    allow_approved(made)
    approvals = add_people(made)
    assert made.admit("alpha").code == "policy.awaiting_approval"
    (case,) = approvals.files.cases()
    given = [sign(approvals, case, name) for name in ("ann", "bob")]
    made.set_up()
    manifest = made.manifest()
    made.open_sum(list(made.answers(manifest).values()), manifest)
    home = made.home("alpha")
    pause(home, by="ann", reason="a drill")
    with refusal("site.paused"):
        made.gateways["alpha"].contribute(made.manifest(), lambda _: None)  # type: ignore[arg-type,return-value]
    resume(home, by="ann")
    revoke(approvals, given[0], "ann")
    made.new_run("another run")
    assert not made.admit("alpha").accepted
    made.allow("alpha", [])
    assert made.admit("alpha").code == "policy.digest_not_allowed"
    return made


def of(federation: Federation, action: str) -> dict[str, Any]:
    """Return the last entry of *action*."""
    return [entry for entry in federation.gateways["alpha"].audit.entries() if entry["action"] == action][-1]


@pytest.mark.promise("log-covers")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_event_is_logged(federation: Federation, kind: str) -> None:
    told = {entry["action"] for entry in federation.gateways["alpha"].audit.entries()}
    assert KINDS[kind] <= told


def test_every_entry_has_all_that_is_asked_of_one(federation: Federation) -> None:
    entries = federation.gateways["alpha"].audit.entries()
    for entry in entries:
        assert entry.keys() == FIELDS.keys()
        assert re.fullmatch(PATTERN, entry["time"]), "UTC"
        assert entry["time"].endswith("Z")
        assert re.fullmatch(r"gateway|coordinator|worker|owner|(site|person):[a-z0-9_-]+", entry["actor"])
        if entry["action"] in ABOUT:
            assert re.fullmatch("[0-9a-f]{64}", entry["object"]), entry["action"]
        if entry["result"] in ("refused", "failed"):
            assert entry["rule"], entry
            assert entry["reason"], entry
    assert {entry["action"] for entry in entries} >= ABOUT
    federation.gateways["alpha"].audit.verify()


def test_an_admission_says_by_which_policy_and_what_it_may_see(federation: Federation) -> None:
    """``opened`` comes before the first row is read, so a table that cannot be read shows as opened, too."""
    entries = [entry for entry in federation.gateways["alpha"].audit.entries() if entry["run"]]
    at = [entry["action"] for entry in entries].index("view.opened")
    opened, noted, reserved, accepted = entries[at : at + 4]
    assert [reserved["action"], accepted["action"]] == ["epsilon.reserved", "accepted"]
    assert (noted["action"], noted["reason"]) == ("notice", "nothing to note")
    assert opened["rule"] == accepted["rule"] == "policy.allow"
    assert opened["object"] == accepted["facts"]["view"]
    assert (opened["facts"]["recipe"], accepted["object"]) == (federation.digest, federation.digest)
    assert (opened["facts"]["source"], opened["facts"]["columns"]) == ("table.csv", ["age"])
    assert opened["facts"]["population"] == "default"
    allow_approved(federation)
    policy = sha256_hex(federation.home("alpha").policy.read_bytes())
    assert accepted["facts"]["policy"] == policy


def test_no_row_is_read_where_that_cannot_be_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plasmid.core.errors import StorageError
    from plasmid.gateway import admission

    made = private(tmp_path)
    gateway, write = made.gateways["alpha"], made.gateways["alpha"].audit.write
    read: list[Path] = []
    monkeypatch.setattr(admission, "open_view", lambda *given, **_: read.append(given))

    def full(action: str, **entry: Any) -> int:
        if action == "view.opened":
            raise StorageError("storage.full", "no space left")
        return write(action, **entry)

    monkeypatch.setattr(gateway.audit, "write", full)
    answer = gateway.answer(made.admitting())
    assert (answer.accepted, answer.code) == (False, "storage.full")
    assert read == []


@pytest.mark.promise("log-covers")
def test_what_is_refused_is_told_with_its_rule_and_reason_in_full(federation: Federation) -> None:
    refused = of(federation, "refused")
    assert (refused["rule"], refused["result"]) == ("policy.digest_not_allowed", "refused")
    assert federation.digest in refused["reason"]
    assert refused["run"] == federation.run


def test_what_people_did_names_them(federation: Federation) -> None:
    for action, actor in (
        ("approval.signed", "person:bob"),
        ("approval.revoked", "person:ann"),
        ("paused", "person:ann"),
        ("person.added", "owner"),
        ("admit", "coordinator"),
        ("released", "gateway"),
    ):
        assert of(federation, action)["actor"] == actor


def test_what_is_spent_is_told_by_population_and_counter(federation: Federation) -> None:
    home: SiteHome = federation.home("alpha")
    assert home.ledger.exists()
    reserved, spent = of(federation, "epsilon.reserved"), of(federation, "epsilon.spent")
    assert reserved["facts"]["population"] == "default"
    assert reserved["facts"]["epsilon"] == 1.0
    assert spent["facts"]["counter"] > reserved["facts"]["counter"] >= 1


WRITES = re.compile(r'(?:audit|log|_log|_audit|node|self)\.(?:write|note)\(\s*"([a-z]+(?:\.[a-z]+)?)"')


def test_every_action_that_is_written_anywhere_is_in_the_officer_s_list() -> None:
    """Found in the source, so a new one that nobody told of fails here."""
    root = Path(__file__).parents[2]
    source = "\n".join(path.read_text() for path in sorted((root / "node" / "plasmid").rglob("*.py")))
    found = set(WRITES.findall(source)) | set(ACTIONS.values()) | set().union(*KINDS.values())
    assert len(found) >= 36
    told = set(re.findall(r"`([a-z]+(?:\.[a-z]+)?)`", (root / "docs/gateway/audit-log.md").read_text()))
    assert found - told == set()
