"""Keys that the coordinator has revoked: kept for ever, and refused wherever they appear."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.clock import now, stamp
from plasmid.gateway.members.revocations import Revoked
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.revocation import Revocation
from plasmid.secagg.site import SiteEpoch
from support.federation.attacks import FOUR, refusal
from support.federation.in_memory import Federation

KEY = "ab" * 32


def statement(by: Identity, **changes: Any) -> Envelope:
    values: dict[str, Any] = {
        "name": "beta",
        "role": "site",
        "key": KEY,
        "revoked": stamp(now()),
        "reason": "its disk was stolen",
    }
    return Envelope.of(Revocation(**values | changes)).signed(by)


COORDINATOR = Identity.generate("coordinator")


@pytest.fixture
def revoked(tmp_path: Path) -> Revoked:
    return Revoked(tmp_path / "revoked.json")


def test_nobody_is_revoked_where_there_is_no_file(revoked: Revoked) -> None:
    assert revoked.all() == ()
    revoked.check(KEY)


def test_what_was_noted_holds_in_every_process_and_for_ever(revoked: Revoked) -> None:
    before = Revoked(revoked._path)
    assert before.all() == ()
    said = revoked.note(statement(COORDINATOR), COORDINATOR.public)
    assert said is not None
    assert before.all() == (said,)
    for known in (revoked, before, Revoked(revoked._path)):
        with refusal("protocol.revoked"):
            known.check("cd" * 32, KEY)
        known.check("cd" * 32)
        assert known.has(KEY)
    assert revoked.note(statement(COORDINATOR, name="gamma"), COORDINATOR.public) is None, (
        "the same key again"
    )
    assert revoked._path.stat().st_mode & 0o777 == 0o600


def test_the_statement_is_kept_as_it_was_signed(revoked: Revoked) -> None:
    envelope = statement(COORDINATOR)
    revoked.note(envelope, COORDINATOR.public)
    (kept,) = json.loads(revoked._path.read_text())
    assert Envelope.model_validate_json(json.dumps(kept)).signers({COORDINATOR.public})


def test_only_the_coordinator_revokes(revoked: Revoked) -> None:
    for envelope in (
        statement(Identity.generate("coordinator")),
        Envelope.of(statement(COORDINATOR).open(Revocation)),
    ):
        with refusal("protocol.signature"):
            revoked.note(envelope, COORDINATOR.public)
    assert not revoked._path.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"key": "ab"},
        {"reason": ""},
        {"reason": "two\nlines"},
        {"reason": "x" * 301},
        {"revoked": "yesterday"},
        {"role": "coordinator"},
        {"name": "../up"},
        {"version": 2},
        {"more": 1},
    ],
    ids=str,
)
def test_a_statement_has_its_form(revoked: Revoked, change: dict[str, Any]) -> None:
    values = statement(COORDINATOR).open(Revocation).model_dump() | change
    text = json.dumps(values, separators=(",", ":"), sort_keys=True).encode()
    kind = Revocation.payload_type()
    with refusal("protocol.malformed"):
        revoked.note(Envelope(payload=text, payloadType=kind).signed(COORDINATOR), COORDINATOR.public)


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '[{"payload": ""}]', "[" * 10_000])
def test_a_damaged_file_means_that_nobody_is_believed(revoked: Revoked, text: str) -> None:
    revoked._path.write_text(text)
    for use in (lambda: revoked.check(KEY), lambda: revoked.note(statement(COORDINATOR), COORDINATOR.public)):
        with refusal("storage.revoked_damaged"):
            use()
    assert revoked._path.read_text() == text


def test_two_processes_lose_none(revoked: Revoked) -> None:
    def note(number: int) -> None:
        key = f"{number:02x}" * 32
        Revoked(revoked._path).note(statement(COORDINATOR, key=key), COORDINATOR.public)

    threads = [threading.Thread(target=note, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(revoked.all()) == 8


# -- what a gateway makes of it --------------------------------------------------------------------


def put_out(federation: Federation, identity: Identity, role: str = "site") -> None:
    for gateway in federation.gateways.values():
        gateway.revoke(statement(federation.coordinator, name=identity.name, role=role, key=identity.public))


@pytest.mark.promise("revoked-out", "asked-again")
def test_a_requester_who_is_revoked_is_refused_and_what_he_began_stops(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.set_up()
    gateway, manifest = federation.gateways["alpha"], federation.manifest()

    def meanwhile(_: Any) -> np.ndarray:
        put_out(federation, federation.requester, "person")
        return np.zeros(manifest.length, np.float32)

    with refusal("protocol.revoked"):
        gateway.contribute(manifest, meanwhile)
    federation.new_run("another")
    said = federation.admit("alpha")
    assert (said.accepted, said.code) == (False, "protocol.revoked")
    (entry,) = [line for line in federation.log("alpha") if line["action"] == "revoked"]
    assert (entry["name"], entry["role"], entry["actor"]) == ("ada", "person", "coordinator")


@pytest.mark.promise("revoked-out")
def test_what_was_masked_when_its_requester_is_revoked_does_not_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path)
    federation.set_up()
    gateway, mask = federation.gateways["alpha"], SiteEpoch.mask

    def meanwhile(*arguments: Any, **named: Any) -> bytes:
        put_out(federation, federation.requester, "person")
        return mask(*arguments, **named)

    monkeypatch.setattr(SiteEpoch, "mask", meanwhile)
    with refusal("protocol.revoked"):
        gateway.contribute(federation.manifest(), lambda _: np.zeros(6, np.float32))
    assert federation.log("alpha")[-1]["action"] == "revoked", "the control: it came after the last look"


@pytest.mark.promise("revoked-out")
def test_a_roster_that_names_a_revoked_site_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR)
    federation.admit_all()
    put_out(federation, federation.identities["beta"])
    with refusal("protocol.revoked"):
        federation.gateways["alpha"].begin_epoch(federation.epoch())
    others = [site for site in FOUR if site != "beta"]
    assert federation.gateways["alpha"].begin_epoch(federation.epoch(roster=others)) is not None


def test_a_statement_of_a_revoked_site_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR)
    federation.admit_all()
    adverts = federation.adverts()
    control = federation.gateways["gamma"].relay(federation.relay("advert", adverts))
    assert control is not None
    put_out(federation, federation.identities["beta"])
    with refusal("protocol.revoked"):
        federation.gateways["alpha"].relay(federation.relay("advert", adverts))


@pytest.mark.promise("revoked-out")
def test_a_contribution_of_a_revoked_site_opens_no_sum(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR)
    federation.set_up()
    answers = list(federation.answers(federation.manifest()).values())
    put_out(federation, federation.identities["beta"])
    with refusal("protocol.revoked"):
        federation.consents(answers)
    others = [answer for answer in answers if answer.contribution.signer != "beta"]
    assert len(federation.consents(others)) == 3


def test_it_holds_after_a_restart(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    put_out(federation, federation.requester, "person")
    assert federation.restart("alpha").answer(federation.admitting()).code == "protocol.revoked"


def test_nobody_but_the_pinned_coordinator_puts_a_peer_out(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    forged = statement(federation.identities["beta"], key=federation.identities["gamma"].public)
    with refusal("protocol.signature"):
        federation.gateways["alpha"].revoke(forged)
    federation.set_up()
    assert federation.gateways["alpha"].run(federation.run) is not None
