"""Cosigning between sites: who signs what, what is kept, and what a peer or the coordinator may try."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import ProtocolError, StorageError
from plasmid.protocol.checkpoint import Checkpoint, Note, cosign
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Heartbeat, LogCheckpoint, LogCosignature, Signed, sign
from support.federation.cosigners import NAMES, Cosigners

TIME = datetime(2026, 11, 25, 10, 0, 0, tzinfo=UTC)


@pytest.fixture
def sites(tmp_path: Path) -> Cosigners:
    made = Cosigners(tmp_path, clock=lambda: TIME)
    made.logs["alpha"].write("started")
    return made


def refused(code: str, do: Any) -> None:
    with pytest.raises((ProtocolError, StorageError)) as caught:
        do()
    assert caught.value.code == code


def kept(sites: Cosigners, peer: str, name: str) -> Checkpoint:
    return sites.logs[peer].files.held()[name].checkpoint


def test_every_peer_cosigns_what_continues(sites: Cosigners) -> None:
    for size in (1, 2, 7):
        while sites.logs["alpha"].checkpoint().checkpoint.size < size:
            sites.logs["alpha"].write("released")
        sites.exchange("alpha")
        assert sites.cosigned("alpha") == {"beta": size, "gamma": size}
        assert kept(sites, "beta", "alpha") == sites.logs["alpha"].checkpoint().checkpoint
    offers = [said for said in sites.exchanged if isinstance(said, LogCheckpoint) and said.receiver == "beta"]
    assert [(said.old, len(said.proof)) for said in offers] == [(0, 0), (1, 1), (2, 2)]
    note = sites.logs["alpha"].files.cosigned_notes()["beta"]
    assert note.cosigned("beta", sites.identities["beta"].public) == int(TIME.timestamp())
    assert sites.problems == []


def test_what_was_cosigned_is_logged_by_the_cosigner(sites: Cosigners) -> None:
    sites.exchange("alpha")
    (entry,) = sites.logs["beta"].entries()
    said = sites.logs["alpha"].checkpoint().checkpoint
    assert (entry["action"], entry["actor"], entry["result"]) == ("cosigned", "site:alpha", "ok")
    assert entry["object"] == said.root.hex()
    assert entry["facts"] == {"origin": said.origin, "size": 1, "began": 1}
    sites.logs["alpha"].write("end")
    sites.exchange("alpha")
    assert "began" not in sites.logs["beta"].entries()[1]["facts"]


def test_nothing_is_asked_twice(sites: Cosigners) -> None:
    sites.exchange("alpha")
    assert sites.parts["alpha"].offers() == []


def test_an_answer_that_was_lost_is_given_again_and_logged_once(sites: Cosigners) -> None:
    sites.exchange("alpha", answered=lambda message: None)
    assert sites.cosigned("alpha") == {}
    sites.exchange("alpha")
    assert sites.cosigned("alpha") == {"beta": 1, "gamma": 1}
    assert len(sites.logs["beta"].entries()) == 1


def test_a_site_that_forgot_what_was_cosigned_learns_it(sites: Cosigners) -> None:
    sites.exchange("alpha")
    sites.logs["alpha"].files.cosigned.unlink()
    sites.logs["alpha"].write("released")
    sites.exchange("alpha")
    assert sites.cosigned("alpha") == {"beta": 2, "gamma": 2}
    assert sites.problems == []


def test_a_peer_that_forgot_what_it_held_begins_anew(sites: Cosigners) -> None:
    sites.exchange("alpha")
    sites.logs["beta"].files.peers.unlink()
    sites.logs["alpha"].write("released")
    sites.exchange("alpha")
    assert sites.cosigned("alpha") == {"beta": 2, "gamma": 2}
    assert sites.logs["beta"].entries()[-1]["facts"]["began"] == 1


def test_what_was_held_survives_a_restart(sites: Cosigners) -> None:
    sites.exchange("alpha")
    for name in NAMES:
        sites.restart(name)
    sites.logs["alpha"].write("released")
    sites.exchange("alpha")
    assert sites.cosigned("alpha") == {"beta": 2, "gamma": 2}
    assert [entry["facts"].get("began") for entry in sites.logs["beta"].entries()] == [1, None]


def test_a_cosignature_that_cannot_be_logged_is_not_given(
    sites: Cosigners, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sites.logs["beta"], "_durable", full)
    refused("storage.full", lambda: sites.exchange("alpha"))
    assert sites.logs["beta"].files.held() == {}


# -- what the coordinator may try --------------------------------------------------------------------


def test_an_old_checkpoint_that_is_replayed_is_answered_and_no_alarm(sites: Cosigners) -> None:
    old: list[Signed] = []

    def copy(message: Signed) -> Signed:
        old.append(message)
        return message

    sites.exchange("alpha", asked=copy)
    sites.logs["alpha"].write("released")
    sites.exchange("alpha")
    said = sites.parts["beta"].open(old[0])
    assert isinstance(said, LogCheckpoint)
    answer, problem = sites.parts["beta"].answer(said)
    assert (answer.line, problem) == ("", None)
    assert sites.parts["alpha"].take(answer) is None
    assert kept(sites, "beta", "alpha").size == 2
    assert len(sites.logs["beta"].entries()) == 2


def test_what_was_changed_on_the_way_is_refused(sites: Cosigners) -> None:
    def longer(message: Signed) -> Signed:
        return message.model_copy(update={"payload": {**message.payload, "old": 7}})

    refused("protocol.signature", lambda: sites.exchange("alpha", asked=longer))
    refused("protocol.signature", lambda: sites.exchange("alpha", answered=longer))
    assert sites.logs["beta"].entries()[-1]["action"] == "cosigned"  # it had been asked properly
    assert sites.cosigned("alpha") == {}


def test_what_is_for_another_or_by_nobody_is_refused(sites: Cosigners) -> None:
    offers = {offer.receiver: offer for offer in sites.parts["alpha"].offers()}
    beta = sites.parts["beta"]
    alpha, stranger = sites.identities["alpha"], Identity.generate("delta")
    refused("protocol.signature", lambda: beta.open(sign(alpha, offers["gamma"])))
    refused("protocol.signature", lambda: beta.open(sign(sites.identities["gamma"], offers["beta"])))
    refused("protocol.unknown_peer", lambda: beta.open(sign(stranger, offers["beta"])))
    beat = Heartbeat(run="run-1", site="alpha", round=0, step=0, steps=0)
    refused("protocol.malformed", lambda: beta.open(sign(alpha, beat)))
    foreign = offers["beta"].model_copy(
        update={"note": Note(sites.logs["alpha"].checkpoint().checkpoint).signed(stranger, "alpha").text()}
    )
    refused("protocol.signature", lambda: beta.answer(foreign))
    refused("protocol.malformed", lambda: beta.answer(foreign.model_copy(update={"note": "x"})))
    assert sites.logs["beta"].files.held() == {}


def test_a_cosignature_of_somebody_else_counts_for_nothing(sites: Cosigners) -> None:
    said = sites.logs["alpha"].checkpoint().checkpoint

    def forged(message: Signed) -> Signed:
        line = cosign(said, Identity.generate("beta"), "beta", 5)
        answer = LogCosignature.model_validate(message.payload).model_copy(update={"line": line})
        return sign(sites.identities[message.signer], answer)

    refused("protocol.signature", lambda: sites.exchange("alpha", answered=forged))
    assert sites.cosigned("alpha") == {}


# -- what a site may try -------------------------------------------------------------------------------


def rewritten(sites: Cosigners, *, entries: int) -> None:
    """Have alpha write another history of so many entries, with its own key."""
    shutil.rmtree(sites.home("alpha").audit)
    sites.restart("alpha")
    for number in range(entries):
        sites.logs["alpha"].write("released", rewritten=number)


@pytest.mark.parametrize("entries", [2, 3])
def test_a_rewritten_log_is_not_cosigned_and_the_evidence_is_kept(sites: Cosigners, entries: int) -> None:
    sites.logs["alpha"].write("released")
    sites.exchange("alpha")
    before = kept(sites, "beta", "alpha")
    rewritten(sites, entries=entries)
    with pytest.raises(StorageError) as caught:
        sites.exchange("alpha")
    assert caught.value.code == "storage.log_rolled_back"
    assert kept(sites, "beta", "alpha") == before
    refused("storage.log_rolled_back", lambda: sites.logs["alpha"].write("released"))
    if entries == 2:  # two roots of one size: beta cannot know it to be anything else
        assert sites.problems == ["the audit log of alpha: two roots of 2 entries. It was not cosigned."]
        entry = sites.logs["beta"].entries()[-1]
        assert (entry["result"], entry["rule"]) == ("failed", "protocol.log_split")
        for note in (entry["facts"]["note"], entry["facts"]["held"]):
            assert note.startswith(before.origin + "\n2\n")


def test_a_false_proof_is_refused(sites: Cosigners) -> None:
    sites.exchange("alpha")
    for _ in range(4):
        sites.logs["alpha"].write("released")

    def other(message: Signed) -> Signed:
        offer = LogCheckpoint.model_validate(message.payload)
        return sign(
            sites.identities["alpha"], offer.model_copy(update={"proof": ["0" * 64, *offer.proof[1:]]})
        )

    sites.exchange("alpha", asked=other)
    assert len(sites.problems) == 2
    assert all("it does not continue what it was" in problem for problem in sites.problems)
    assert sites.cosigned("alpha") == {"beta": 1, "gamma": 1}


def test_a_new_generation_is_cosigned_and_seen(sites: Cosigners) -> None:
    sites.exchange("alpha")
    sites.logs["alpha"].restart(actor="owner", reason="a damaged disk")
    sites.exchange("alpha")
    assert sites.problems == []
    assert kept(sites, "beta", "alpha").generation == 2
    assert [entry["facts"].get("began") for entry in sites.logs["beta"].entries()] == [1, 2]


def test_a_log_that_went_back_to_an_older_generation_stops(sites: Cosigners, tmp_path: Path) -> None:
    sites.exchange("alpha")
    shutil.copytree(sites.home("alpha").audit, tmp_path / "copy")
    sites.logs["alpha"].restart(actor="owner", reason="a damaged disk")
    sites.exchange("alpha")
    shutil.rmtree(sites.home("alpha").audit)
    shutil.copytree(tmp_path / "copy", sites.home("alpha").audit)
    sites.restart("alpha")
    sites.logs["alpha"].write("started")
    refused("storage.log_rolled_back", lambda: sites.exchange("alpha"))
    assert kept(sites, "beta", "alpha").generation == 2


def test_a_peer_cannot_stop_a_site_with_a_note_that_the_site_never_signed(sites: Cosigners) -> None:
    """A lie needs the site's own key."""
    sites.exchange("alpha")
    sites.logs["alpha"].write("released")
    origin = sites.logs["alpha"].checkpoint().checkpoint.origin
    note = Note(Checkpoint(origin, 99, bytes(32))).signed(sites.identities["beta"], "alpha")

    def lie(message: Signed) -> Signed:
        answer = LogCosignature.model_validate(message.payload)
        return sign(
            sites.identities[message.signer],
            answer.model_copy(update={"line": "", "held": note.text()}),
        )

    refused("protocol.signature", lambda: sites.exchange("alpha", answered=lie))
    sites.logs["alpha"].write("released")


# -- a rollback ------------------------------------------------------------------------------------


def test_a_restored_log_stops_until_the_newer_copy_is_back(sites: Cosigners, tmp_path: Path) -> None:
    folder = sites.home("alpha").audit
    shutil.copytree(folder, tmp_path / "old")
    sites.logs["alpha"].write("released")
    sites.exchange("alpha")
    shutil.copytree(folder, tmp_path / "new")
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "old", folder)
    sites.restart("alpha")
    sites.logs["alpha"].verify()  # control: by itself the older log is sound
    refused("storage.log_rolled_back", lambda: sites.exchange("alpha"))
    for _ in range(2):
        sites.restart("alpha")
        refused("storage.log_rolled_back", lambda: sites.logs["alpha"].write("started"))
    shutil.copy(tmp_path / "new" / "log.jsonl", folder)
    shutil.copy(tmp_path / "new" / "checkpoint.json", folder)
    sites.restart("alpha")
    sites.logs["alpha"].write("started")
    assert not (folder / "shown.note").exists()
    sites.exchange("alpha")
    assert sites.cosigned("alpha") == {"beta": 3, "gamma": 3}
