"""The owner's stop: nothing leaves while it is in force, whenever it came."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import StorageError
from plasmid.gateway.home import SiteHome
from plasmid.gateway.pause import Pause, check_running, pause, paused, resume
from plasmid.gateway.sentences import SENTENCES
from plasmid.protocol.messages import Manifest
from support.federation.attacks import never, refusal
from support.federation.in_memory import Federation, full_disk

LATER = datetime(2090, 11, 25, 12, 0, tzinfo=UTC)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def stop(federation: Federation, site: str = "alpha") -> None:
    pause(federation.home(site), by="ann", reason="an audit")


def zeros(manifest: Manifest) -> np.ndarray:
    return np.zeros(manifest.length, np.float32)


def test_who_paused_when_and_why_survives_a_restart_and_is_logged(federation: Federation) -> None:
    home = federation.home("alpha")
    assert paused(home) is None
    pause(home, by="ann", reason="an audit", clock=lambda: LATER)
    assert paused(SiteHome(home.folder)) == Pause(by="ann", time="2090-11-25T12:00:00Z", reason="an audit")
    with refusal("site.paused"):
        check_running(home)
    assert pause(home, by="bob", reason="again").by == "ann"
    assert resume(home, by="bob", clock=lambda: LATER) == Pause(
        by="ann", time="2090-11-25T12:00:00Z", reason="an audit"
    )
    assert resume(home, by="bob") is None
    check_running(home)
    entries = [line for line in federation.log("alpha") if line["action"] in ("paused", "resumed")]
    assert [(line["action"], line["actor"]) for line in entries] == [
        ("paused", "person:ann"),
        ("resumed", "person:bob"),
    ]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"by": 1}', b"\xff", b"[" * 10_000])
def test_a_file_that_is_there_pauses_whatever_is_in_it(federation: Federation, text: bytes) -> None:
    federation.home("alpha").paused.write_bytes(text)
    with refusal("site.paused"):
        check_running(federation.home("alpha"))


@pytest.mark.promise("pause-stops")
def test_a_question_and_a_run_are_refused_in_constant_words(federation: Federation) -> None:
    assert federation.gateways["alpha"].answer(federation.asking()).accepted, "the control"
    stop(federation)
    for message in (federation.asking(), federation.admitting()):
        said = federation.gateways["alpha"].answer(message)
        assert (said.accepted, said.code, said.sentence) == (False, "site.paused", SENTENCES["site.paused"])
    resume(federation.home("alpha"), by="ann")
    assert federation.gateways["alpha"].answer(federation.admitting()).accepted


@pytest.mark.promise("pause-stops", "asked-again")
def test_a_pause_while_the_vector_is_computed_keeps_it_at_home(federation: Federation) -> None:
    federation.set_up()
    gateway, manifest = federation.gateways["alpha"], federation.manifest()

    def slow(manifest: Manifest) -> np.ndarray:
        stop(federation)
        return zeros(manifest)

    with refusal("site.paused"):
        gateway.contribute(manifest, slow)
    assert not [line for line in federation.log("alpha") if line["action"] == "released"]
    assert federation.gateways["beta"].contribute(manifest, zeros).body, "the control: another site sends"
    resume(federation.home("alpha"), by="ann")
    with refusal("protocol.second_manifest"):  # the slot is used, so the vector is made for no other
        gateway.contribute(manifest, never)


def test_bytes_that_were_made_before_do_not_leave_again(federation: Federation) -> None:
    federation.set_up()
    gateway, manifest = federation.gateways["alpha"], federation.manifest()
    answer = gateway.contribute(manifest, zeros)
    assert gateway.contribute(manifest, never) == answer, "the control: the same manifest, the same bytes"
    stop(federation)
    with refusal("site.paused"):
        gateway.contribute(manifest, never)


def steps(federation: Federation) -> dict[str, Callable[[], Any]]:
    """Return what else a site says in a run, each as a call of alpha's gateway."""
    gateway = federation.gateways["alpha"]
    federation.admit_all()
    adverts = federation.adverts()
    inbox = federation.bundles(adverts)
    blobs = federation.recoveries(inbox)
    federation.seal(federation.ready(blobs))
    manifest = federation.manifest()
    answers = [made.contribute(manifest, zeros) for made in federation.gateways.values()]
    said = [answer.contribution for answer in answers]
    consents = federation.consents(answers)
    recoveries = [made.statement for made in blobs.values()]
    return {
        "advert": lambda: gateway.begin_epoch(federation.epoch(epoch=2)),
        "bundles": lambda: gateway.relay(federation.relay("advert", adverts)),
        "blobs": lambda: gateway.relay(federation.relay("bundle", inbox["alpha"])),
        "ready": lambda: gateway.relay(federation.relay("recovery", recoveries)),
        "consent": lambda: gateway.relay(federation.relay("contribution", said)),
        "shares": lambda: gateway.relay(federation.relay("consent", consents)),
    }


@pytest.mark.parametrize("step", ["advert", "bundles", "blobs", "ready", "consent", "shares"])
def test_no_step_of_the_protocol_is_taken(federation: Federation, step: str) -> None:
    make = steps(federation)[step]
    stop(federation)
    with refusal("site.paused"):
        make()


def test_the_shares_leave_without_a_pause(federation: Federation) -> None:
    """The control of the test above, for the step that opens a sum."""
    assert steps(federation)["shares"]() is not None


def test_it_is_in_force_before_it_is_logged(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    home = federation.home("alpha")

    def full(*_: Any, **__: Any) -> int:
        raise StorageError("storage.full", "no space left.")

    monkeypatch.setattr("plasmid.gateway.pause.AuditLog.write", full)
    with refusal("storage.full"):
        pause(home, by="ann", reason="an audit")
    with refusal("site.paused"):
        check_running(home)
    with refusal("storage.full"):  # its end is logged first
        resume(home, by="ann")
    with refusal("site.paused"):
        check_running(home)


def test_a_full_disk_of_the_node_does_not_end_a_pause(federation: Federation) -> None:
    stop(federation)
    with full_disk(federation.gateways["alpha"]), refusal("storage.full"):
        federation.gateways["alpha"].answer(federation.asking())
    assert paused(federation.home("alpha")) is not None
