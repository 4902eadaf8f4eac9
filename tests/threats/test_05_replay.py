"""Row 5. Attack: replay or reorder of a contribution, approval, login, checkpoint.

Must hold: rejected by nonce, round and digest; an empty nonce is a rejection. Here: contributions, the
statements of an epoch, manifests, the public state that a manifest names (the run's checkpoint), and requests
of runs; ``test_05_replayed_logins.py`` has approvals, logins and the checkpoints of logs.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import LinkError
from plasmid.gateway.admission import Answer
from plasmid.protocol.body import pack
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Manifest, RunRequest, open_signed, sign
from plasmid.recipes.query import PingDocument
from plasmid.secagg.ring import decode_sum
from plasmid.uplink.link import LinkClient
from support.federation.attacks import FOUR, never, private, refusal
from support.federation.in_memory import Federation

ROUNDS = PingDocument(length=6, rounds=3)


def begun(tmp_path: Path) -> Federation:
    federation = Federation(tmp_path, document=ROUNDS, sites=FOUR)
    federation.set_up()
    return federation


def a_round(federation: Federation, round_: int, **changes: Any) -> tuple[Manifest, dict[str, Answer]]:
    """Take every site's contribution to a round and open it."""
    manifest = federation.manifest(round_, **changes)
    answers = federation.answers(manifest)
    total = federation.open_sum(list(answers.values()), manifest)
    assert decode_sum(total, manifest.encoding(), 4).tolist() == [0.0] * 6
    return manifest, answers


# -- contributions ---------------------------------------------------------------------------------


def test_a_contribution_of_an_earlier_round_counts_in_no_later_one(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    _, first = a_round(federation, 1)
    manifest = federation.manifest(2)
    second = federation.answers(manifest)
    replayed = [
        first["beta"].contribution,
        *(second[site].contribution for site in ("alpha", "delta", "gamma")),
    ]
    everywhere_old = [answer.contribution for answer in first.values()]
    for survivors in (replayed, everywhere_old):
        for slot in (0, 1):
            with refusal("protocol.slot_used" if slot == 0 else "protocol.survivors"):
                federation.gateways["alpha"].relay(federation.relay("contribution", survivors, slot=slot))
    # and in its own place it is accepted
    federation.open_sum(list(second.values()), manifest)


def test_a_contribution_of_another_run_or_epoch_is_refused(tmp_path: Path) -> None:
    """The same identities take part in both runs, and in both epochs of one."""
    federation = begun(tmp_path)
    manifest = federation.manifest(1)
    old = federation.answers(manifest)["beta"].contribution
    federation.key_epoch(epoch=2)
    manifest = federation.manifest(1)
    second = federation.answers(manifest)
    mixed = [old, *(second[site].contribution for site in ("alpha", "delta", "gamma"))]
    with refusal("protocol.survivors"):
        federation.gateways["alpha"].relay(federation.relay("contribution", mixed))
    with refusal("protocol.ready"):  # the old epoch is over
        federation.gateways["alpha"].relay(federation.relay("contribution", mixed, epoch=1))

    federation.new_run("run-2")
    federation.number = 1
    federation.set_up()
    manifest = federation.manifest(1)
    third = federation.answers(manifest)
    mixed = [second["beta"].contribution, *(third[site].contribution for site in ("alpha", "delta", "gamma"))]
    with refusal("protocol.survivors"):
        federation.gateways["alpha"].relay(federation.relay("contribution", mixed))
    federation.open_sum(list(third.values()), manifest)


def test_consents_of_an_earlier_slot_open_nothing(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    first = federation.answers(federation.manifest(1))
    old = federation.consents(list(first.values()))
    federation.open_sum(list(first.values()), federation.manifest(1))
    manifest = federation.manifest(2)
    second = federation.answers(manifest)
    federation.consents(list(second.values()), slot=1)
    for slot, code in ((0, "protocol.slot_used"), (1, "protocol.consents")):
        with refusal(code):
            federation.gateways["alpha"].relay(federation.relay("consent", old, slot=slot))
    # control: in their own slot they open a sum
    federation = begun(tmp_path / "control")
    first = federation.answers(federation.manifest(1))
    assert len(federation.shares(federation.consents(list(first.values())))) == 4


# -- manifests and their order ---------------------------------------------------------------------


def test_a_manifest_again_gets_the_stored_bytes_and_an_earlier_one_nothing(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    gateway = federation.gateways["alpha"]
    first, second = federation.manifest(1), federation.manifest(1, slot=1)
    answer = gateway.contribute(first, lambda _: np.full(6, 0.5, np.float32))
    assert gateway.contribute(first, never) == answer
    gateway.contribute(second, lambda _: np.zeros(6, np.float32))
    with refusal("protocol.second_manifest"):
        gateway.contribute(first, never)
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(3, slot=1), never)


def test_rounds_that_were_summed_do_not_come_again_in_any_order(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    for slot, round_ in enumerate((1, 2)):
        a_round(federation, round_, slot=slot)
    for round_ in (1, 2):
        with refusal("protocol.consented"):
            federation.gateways["alpha"].contribute(federation.manifest(round_, slot=2), never)
    a_round(federation, 3, slot=2)


@pytest.mark.parametrize("round_", [0, -1, 4, 5])
def test_a_round_that_the_run_does_not_have_is_refused(tmp_path: Path, round_: int) -> None:
    federation = begun(tmp_path)
    with refusal("protocol.manifest"):
        federation.gateways["alpha"].contribute(federation.manifest(1, round=round_), never)
    a_round(federation, 1, slot=0)  # control


# -- the statements of an epoch --------------------------------------------------------------------


@pytest.mark.promise("keys-confirmed")
def test_statements_of_an_earlier_epoch_do_not_serve_a_later_one(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=ROUNDS, sites=FOUR)
    federation.admit_all()
    gateway = federation.gateways["alpha"]

    old_adverts = federation.adverts()
    old_bundles = federation.bundles(old_adverts)
    old_blobs = federation.recoveries(old_bundles)
    old_ready = federation.ready(old_blobs)

    adverts = federation.adverts(epoch=2)
    for replayed in (old_adverts, [adverts[0], *old_adverts[1:]], [*adverts[:3], old_adverts[3]]):
        with refusal("protocol.adverts"):
            gateway.relay(federation.relay("advert", replayed))
        adverts = federation.adverts(epoch=federation.number + 1)  # what failed made the epoch void
    bundles = federation.bundles(adverts)
    with refusal("protocol.bundles"):
        gateway.relay(federation.relay("bundle", [old_bundles["alpha"][0], *bundles["alpha"][1:]]))

    bundles = federation.bundles(federation.adverts(epoch=federation.number + 1))
    blobs = federation.recoveries(bundles)
    mixed = [blobs["alpha"].statement, *(old_blobs[site].statement for site in FOUR[1:])]
    with refusal("protocol.recovery"):
        gateway.relay(federation.relay("recovery", mixed))

    blobs = federation.recoveries(federation.bundles(federation.adverts(epoch=federation.number + 1)))
    ready = federation.ready(blobs)
    with refusal("protocol.ready"):
        gateway.relay(federation.relay("ready", [ready[0], *old_ready[1:]]))
    with refusal("protocol.manifest"):
        gateway.contribute(federation.manifest(epoch=1), never)
    federation.key_epoch(epoch=federation.number + 1)  # control: with its own statements an epoch is made
    a_round(federation, 1, slot=0)


# -- the state -------------------------------------------------------------------------------------


class _Server(LinkClient):
    """A link whose server answers with one body, whatever was asked for."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def request(self, method: str, path: str, *, timeout_s: float = 30.0, **arguments: Any) -> Any:
        chunk = self.body[arguments["params"]["offset"] :]
        return SimpleNamespace(content=chunk, headers={"X-Chunk-Digest": sha256_hex(chunk)})


def test_a_state_is_the_one_that_the_manifest_names() -> None:
    """An old checkpoint in place of the new one: its digest is not the manifest's."""
    old, new = (pack("state", np.full(6, value, np.float32)) for value in (1.0, 2.0))
    assert len(old) == len(new)
    assert _Server(new).download(sha256_hex(new), len(new)) == new
    for body in (old, new[:-1] + b"\0", new + b"\0"):
        with pytest.raises(LinkError) as caught:
            _Server(body).download(sha256_hex(new), len(new))
        assert caught.value.code == "link.body_differs"


def test_the_state_is_part_of_what_every_site_signs(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    first, other = federation.manifest(1), federation.manifest(1, state="6" * 64)
    assert first.digest() != other.digest()
    gateway = federation.gateways["alpha"]
    gateway.contribute(first, lambda _: np.zeros(6, np.float32))
    with refusal("protocol.second_manifest"):
        gateway.contribute(other, never)


# -- requests --------------------------------------------------------------------------------------


def test_a_request_that_is_sent_again_is_the_run_that_it_was(tmp_path: Path) -> None:
    """The coordinator keeps a request whose run is over, and starts it once more, after restarts: what was
    summed is not summed again, and the id under which the sites remember it cannot be another one."""
    federation = begun(tmp_path)
    request = federation.admitting()
    for slot, round_ in enumerate((1, 2, 3)):
        a_round(federation, round_, slot=slot)
    for site in FOUR:
        federation.restart(site)
        assert federation.gateways[site].answer(request).accepted
        again = request.model_copy(update={"run": f"{request.run}-again"})
        assert federation.gateways[site].answer(again).code == "protocol.run"
    federation.key_epoch(epoch=2, begins=None)
    for slot, round_ in enumerate((1, 2, 3)):
        with refusal("protocol.consented"):
            federation.gateways["alpha"].contribute(federation.manifest(round_, slot=slot), never)
    # control: asked for anew it is another run
    federation.new_run("asked for anew")
    federation.set_up()
    a_round(federation, 1, slot=0)


def test_a_request_that_is_sent_again_spends_what_it_has_reserved_and_no_more(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    gateway = federation.gateways["alpha"]
    gateway.contribute(federation.manifest(), lambda _: np.zeros(3))
    for epoch in (2, 3):
        gateway.forget(federation.run)
        assert federation.admit("alpha").accepted
        for site in FOUR[1:]:
            assert federation.admit(site).accepted
        federation.key_epoch(epoch=epoch)
        gateway.contribute(federation.manifest(), lambda _: np.zeros(3))
    events = [entry["event"] for entry in gateway.ledger.entries()]
    assert events == ["reserve", "spend", "attempt", "attempt", "attempt"]
    gateway.forget(federation.run)
    federation.admit_all()
    federation.key_epoch(epoch=4)
    with refusal("policy.attempts"):
        gateway.contribute(federation.manifest(), never)


# -- nonces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonce", ["", "0" * 31, "0" * 33, None, "G" * 32])
def test_a_request_without_a_nonce_is_refused(nonce: str | None) -> None:
    person = Identity.generate("ann")
    request = RunRequest(
        document={"computation": "ping"},
        digest="d" * 64,
        project="e" * 64,
        requested="2026-11-25T10:00:00Z",
        nonce="0" * 32,
    )
    assert open_signed(sign(person, request), person.public) == request
    with refusal("protocol.malformed"):
        open_signed(sign(person, request.model_copy(update={"nonce": nonce})), person.public)
