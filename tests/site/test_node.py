"""The site's loop, with a link in memory: what it drops, what it says, and the seeds of its batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import DataError, LinkError, ProtocolError, SiteFailed, StorageError
from plasmid.gateway import node as node_module
from plasmid.gateway import run as run_module
from plasmid.gateway.node import Node
from plasmid.gateway.pause import check_running, pause
from plasmid.gateway.run import local_seed
from plasmid.gateway.sentences import SENTENCES
from plasmid.protocol.body import pack
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import (
    Admission,
    Conclude,
    Countersigned,
    End,
    Failed,
    Signed,
    StopRequest,
    open_signed,
    sign,
)
from support.federation.in_memory import Federation, full_disk, log_text
from support.federation.one_node import Echo, Outbox, admit, no_run, noted, set_up, until


class NoLauncher:
    """A launcher that cannot start anything."""

    level = "none"

    def launch(self, log: Path, **_: Any) -> Any:
        raise OSError("no worker here: CANARY-4711")


Made = tuple[Federation, Node, Outbox]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Made]]:
    nodes: list[Node] = []

    def made(launcher: Any = None, **settings: Any) -> Made:
        federation, outbox = Federation(tmp_path, **settings), Outbox()
        outbox.state = pack("state", np.zeros(6, np.float32))
        monkeypatch.setattr(node_module.Credential, "connect", lambda *_, **__: outbox)
        keys = federation.keys("alpha")
        node = Node(federation.home("alpha"), keys, launcher=launcher or NoLauncher())
        nodes.append(node)
        federation.gateways["alpha"] = node.gateway
        return federation, node, outbox

    yield made
    for node in nodes:
        for run in list(node._runs.values()):
            run.end("the test is over")
            run.join(10)


def test_the_seed_of_a_site_s_batches_is_known() -> None:
    """63 bits of SHA-256("seed|site|round"), the same on every machine."""
    assert local_seed(0, "alpha", 1) == KNOWN[0, "alpha", 1]
    assert {key: local_seed(*key) for key in KNOWN} == KNOWN
    seeds = {
        local_seed(seed, site, round_) for seed in range(3) for site in ("a", "b", "c") for round_ in range(9)
    }
    assert len(seeds) == 81
    assert all(0 <= seed < 2**63 for seed in seeds)


KNOWN = {
    (0, "alpha", 1): 8084559294302850330,
    (0, "alpha", 2): 3212741141406933233,
    (7, "donor_107", 3): 7071875083907112121,
}


def test_a_message_of_anybody_else_is_dropped_and_logged(make: Callable[..., Made]) -> None:
    federation, node, outbox = make()
    request = federation.admitting()
    for impostor in (Identity.generate("coordinator"), federation.identities["beta"]):
        node._take(sign(impostor, request))
    node._take(sign(federation.coordinator, StopRequest(run=federation.run)))  # not for a site
    assert outbox.posted == []
    lines = federation.log("alpha")
    assert [(line["action"], line["rule"]) for line in lines] == [
        ("dropped", "protocol.signature"),
        ("dropped", "protocol.signature"),
        ("dropped", "protocol.malformed"),
    ]


def test_a_message_for_an_unknown_run_is_answered(make: Callable[..., Made]) -> None:
    federation, node, outbox = make()
    node._take(sign(federation.coordinator, federation.epoch()))
    (said,) = outbox.wait(1)
    failed = open_signed(said, federation.identities["alpha"].public)
    assert failed == Failed(
        run=federation.run, site="alpha", code="run.unknown", sentence=SENTENCES["run.unknown"]
    )
    node._take(sign(federation.coordinator, End(run=federation.run, state="FAILED")))  # nothing to end
    node._take(sign(federation.coordinator, federation.epoch()))  # the answer was on its way
    assert len(outbox.posted) == 1


def test_an_answer_that_did_not_arrive_is_given_again(make: Callable[..., Made]) -> None:
    federation, node, outbox = make()

    def away(signed: Signed) -> None:
        raise LinkError("link.unreachable", "the coordinator is away.")

    outbox.refuse = away
    node._take(sign(federation.coordinator, federation.epoch()))
    outbox.refuse = lambda signed: None
    node._take(sign(federation.coordinator, federation.epoch()))
    assert [said.payload["code"] for said in outbox.posted] == ["run.unknown"]


def test_a_refusal_is_posted(make: Callable[..., Made]) -> None:
    federation, node, outbox = make()
    federation.allow("alpha", [])
    node._take(sign(federation.coordinator, federation.admitting()))
    answer = open_signed(outbox.wait(1)[0], federation.identities["alpha"].public)
    assert isinstance(answer, Admission)
    assert (answer.accepted, answer.code) == (False, "policy.digest_not_allowed")


def test_a_worker_that_cannot_start_is_told_in_constant_words(
    make: Callable[..., Made], capfd: pytest.CaptureFixture[str]
) -> None:
    federation, node, outbox = make()
    node._take(sign(federation.coordinator, federation.admitting()))
    failed = open_signed(outbox.wait(1)[0], federation.identities["alpha"].public)
    assert (failed.type, failed.code, failed.sentence) == ("failed", "site.failed", SENTENCES["site.failed"])
    assert "CANARY-4711" not in log_text(federation.home("alpha"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProtocolError("protocol.colluders", "CANARY-4711"), "protocol.colluders"),
        (DataError("data.empty", "CANARY-4711"), "data.invalid"),
        (ValueError("CANARY-4711"), "site.failed"),
    ],
)
def test_what_goes_wrong_leaves_as_a_constant(make: Callable[..., Made], error: Exception, code: str) -> None:
    federation, node, outbox = make()
    node.report(federation.run, error)
    (said,) = outbox.posted
    failed = open_signed(said, federation.identities["alpha"].public)
    assert failed == Failed(run=federation.run, site="alpha", code=code, sentence=SENTENCES[code])
    assert "CANARY-4711" not in said.model_dump_json()


def test_a_full_disk_is_told_although_it_cannot_be_logged(make: Callable[..., Made]) -> None:
    federation, node, outbox = make()
    with full_disk(node.gateway):
        node._take(sign(federation.coordinator, federation.admitting()))
        failed = open_signed(outbox.wait(1)[0], federation.identities["alpha"].public)
    assert (failed.type, failed.code, failed.sentence) == (
        "failed",
        "storage.full",
        "The site has no disk space left to keep its log.",
    )


def test_a_peers_file_that_was_broken_stops_no_site(make: Callable[..., Made]) -> None:
    """Nothing is believed while the keys cannot be read; the process waits for its owner to mend them."""
    federation, node, outbox = make()
    peers = federation.home("alpha").peers
    text = peers.read_text()
    peers.write_text("coordinator: [")
    request = sign(federation.coordinator, federation.admitting())
    node._take(request)
    assert outbox.posted == []
    assert federation.log("alpha")[-1]["action"] == "dropped"
    peers.write_text(text)
    federation.allow("alpha", [])
    node._take(request)
    assert len(outbox.wait(1)) == 1


# -- a run, from its admission to its end ----------------------------------------------------------


@pytest.fixture
def running(make: Callable[..., Made]) -> tuple[Federation, Node, Outbox, Echo]:
    """A site whose run has a key epoch."""
    echo = Echo()
    federation, node, outbox = make(echo)
    for site in ("beta", "gamma"):
        assert federation.admit(site).accepted
    node._take(admit(federation))
    assert open_signed(outbox.wait_for("admission")[0], federation.identities["alpha"].public).accepted
    set_up(federation, node, outbox)
    return federation, node, outbox, echo


Running = tuple[Federation, Node, Outbox, Echo]


def test_a_round_is_computed_uploaded_and_said(running: Running) -> None:
    federation, node, outbox, echo = running
    manifest = federation.manifest(1)
    node._take(sign(federation.coordinator, manifest))
    (said,) = outbox.wait_for("contribution")
    assert said.payload["manifest"] == manifest.digest()
    assert outbox.uploads == [said.payload["body"]]
    order = echo.computed[0]
    assert (order["phase"], order["seed"], order["sampling"]) == ("train", local_seed(0, "alpha", 1), None)
    node._take(sign(federation.coordinator, End(run=federation.run, state="SUCCEEDED")))
    no_run(node)
    assert echo.ended >= 1
    assert outbox.of("failed") == []


def test_a_pause_while_the_worker_computes_ends_the_run_and_nothing_leaves(running: Running) -> None:
    federation, node, outbox, echo = running
    echo.hold.clear()
    order = sign(federation.coordinator, federation.manifest(1))
    node._take(order)
    until(lambda: echo.computed)
    pause(federation.home("alpha"), by="ann", reason="an audit")
    with pytest.raises(SiteFailed) as paused:
        check_running(federation.home("alpha"))
    node.end_all(paused.value)
    echo.hold.set()
    no_run(node)
    (failed,) = outbox.of("failed")
    assert (failed.payload["code"], failed.payload["sentence"]) == ("site.paused", SENTENCES["site.paused"])
    assert (outbox.uploads, outbox.of("contribution")) == ([], [])
    (end,) = noted(federation, "end")
    assert (end["actor"], end["reason"]) == ("owner", paused.value.message)
    node._take(order)  # sent before the end was heard
    assert len(noted(federation, "failed")) == len(outbox.of("failed")) == 1
    node._take(admit(federation))
    assert outbox.wait_for("admission", 2)[1].payload["code"] == "site.paused"


def test_what_comes_while_the_end_of_a_run_is_told_is_passed_over(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order: the run's thread has gone, its end is not told yet or is just on its way."""
    federation, node, outbox, echo = running
    order = sign(federation.coordinator, federation.manifest(1))
    forget = node.forget
    came: list[str] = []

    def then_forgotten(run: str) -> None:
        forget(run)
        came.append("forgotten")
        node._take(order)

    def while_told(signed: Signed) -> None:
        if signed.payload["type"] == "failed":
            no_run(node)
            came.append("told")
            node._take(order)

    monkeypatch.setattr(node, "forget", then_forgotten)
    outbox.refuse = while_told
    echo.faults.append({"code": "run.not_finite", "message": "", "hint": ""})
    node._take(order)
    outbox.wait_for("failed")
    assert came == ["forgotten", "told"]
    assert len(noted(federation, "failed")) == len(outbox.of("failed")) == 1


def test_an_end_that_could_not_be_told_is_told_at_the_next_message(running: Running) -> None:
    federation, node, outbox, echo = running

    def unreachable(signed: Signed) -> None:
        if signed.payload["type"] == "failed":
            outbox.refuse = lambda signed: None
            raise ProtocolError("link.unreachable", "The coordinator cannot be reached.")

    outbox.refuse = unreachable
    echo.faults.append({"code": "run.not_finite", "message": "", "hint": ""})
    order = sign(federation.coordinator, federation.manifest(1))
    node._take(order)
    until(lambda: noted(federation, "failed"))
    no_run(node)
    until(lambda: federation.run not in node._over)
    node._take(order)
    assert [said.payload["code"] for said in outbox.wait_for("failed")] == ["run.unknown"]


def test_a_pause_between_the_release_and_the_upload_holds(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch has not looked yet: what the gateway has just released is asked about once more."""
    federation, node, outbox, _ = running
    contribute = node.gateway.contribute

    def then_paused(*arguments: Any) -> Any:
        answer = contribute(*arguments)
        pause(federation.home("alpha"), by="ann", reason="an audit")
        return answer

    monkeypatch.setattr(node.gateway, "contribute", then_paused)
    node._take(sign(federation.coordinator, federation.manifest(1)))
    (failed,) = outbox.wait_for("failed")
    assert failed.payload["code"] == "site.paused"
    assert (outbox.uploads, outbox.of("contribution")) == ([], [])
    assert noted(federation, "released"), "the control: it was ready to leave"


def test_what_comes_too_late_is_noted_and_no_failure(running: Running) -> None:
    federation, node, outbox, _ = running

    def late(signed: Signed) -> None:
        if signed.payload["type"] == "contribution" and signed.payload["slot"] == 0:
            raise ProtocolError("protocol.late", "The run is elsewhere.")

    outbox.refuse = late
    node._take(sign(federation.coordinator, federation.manifest(1)))
    until(lambda: noted(federation, "late"))
    node._take(sign(federation.coordinator, federation.manifest(1, slot=1)))
    (said,) = outbox.wait_for("contribution")
    assert said.payload["slot"] == 1
    assert [line["type"] for line in noted(federation, "late")] == ["contribution"]
    assert outbox.of("failed") == []
    assert federation.run in node._runs


def test_manifests_that_were_overtaken_are_not_computed(running: Running) -> None:
    """While a slow site computes, the coordinator goes on: only the last attempt still matters."""
    federation, node, outbox, echo = running
    echo.hold.clear()
    node._take(sign(federation.coordinator, federation.manifest(1, slot=0)))
    until(lambda: echo.computed)
    for slot in (1, 2, 3):
        node._take(sign(federation.coordinator, federation.manifest(1, slot=slot)))
    echo.hold.set()
    said = outbox.wait_for("contribution", 2)
    assert [signed.payload["slot"] for signed in said] == [0, 3]
    assert len(echo.computed) == 2


def test_a_failed_run_is_told_when_it_can_be_admitted_again(running: Running) -> None:
    """The coordinator may answer the failure at once: by then nothing of the run is left here."""
    federation, node, outbox, echo = running
    known: list[bool] = []

    def watch(signed: Signed) -> None:
        if signed.payload["type"] == "failed":
            known.append(federation.run in node._runs or federation.run in node.gateway._runs)

    outbox.refuse = watch
    echo.faults.append({"code": "run.not_finite", "message": "CANARY-4711", "hint": ""})
    node._take(sign(federation.coordinator, federation.manifest(1)))
    (failed,) = outbox.wait_for("failed")
    assert (failed.payload["code"], known) == ("run.not_finite", [False])
    assert "CANARY-4711" not in failed.model_dump_json()
    node._take(admit(federation))
    assert outbox.wait_for("admission", 2)[1].payload["accepted"]
    with pytest.raises(ProtocolError, match=f"epoch 1 of {federation.run} was used before"):
        node.gateway.begin_epoch(federation.epoch())


def test_a_site_that_had_been_given_up_answers_again_and_takes_part_in_a_new_epoch(running: Running) -> None:
    """Its line was cut, its process never ended: one thread and one worker serve the run before and after."""
    federation, node, outbox, echo = running
    thread = node._runs[federation.run]
    node._take(sign(federation.coordinator, federation.manifest(1)))
    outbox.wait_for("contribution")
    node._take(admit(federation))
    assert outbox.wait_for("admission", 2)[1].payload["accepted"]
    for site in ("beta", "gamma"):
        assert federation.admit(site).accepted
    set_up(federation, node, outbox, epoch=2)
    node._take(sign(federation.coordinator, federation.manifest(1)))
    assert outbox.wait_for("contribution", 2)[1].payload["epoch"] == 2
    assert node._runs[federation.run] is thread
    assert echo.ended == 0


def test_a_site_that_had_been_given_up_may_have_changed_its_mind(running: Running) -> None:
    federation, node, outbox, echo = running
    federation.allow("alpha", [])
    node._take(admit(federation))
    answer = outbox.wait_for("admission", 2)[1].payload
    assert (answer["accepted"], answer["code"]) == (False, "policy.digest_not_allowed")
    no_run(node)
    assert echo.ended >= 1
    assert outbox.of("failed") == []


def looking(node: Node, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the gateway answer no request before the event that is returned is set."""
    answer, go = node.gateway.answer, threading.Event()

    def slowly(request: Any) -> Any:
        assert go.wait(60)
        return answer(request)

    monkeypatch.setattr(node.gateway, "answer", slowly)
    return go


def test_what_comes_while_a_run_is_admitted_anew_is_not_lost(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator may take an earlier yes for the answer, and go on at once."""
    federation, node, outbox, _ = running
    go = looking(node, monkeypatch)
    node._take(sign(federation.coordinator, End(run=federation.run, state="AWAITING_APPROVAL")))
    node._take(admit(federation))
    node._take(sign(federation.coordinator, federation.epoch(epoch=2)))
    go.set()
    assert outbox.wait_for("advert", 2)[1].payload["epoch"] == 2
    assert node._early == {}


def test_an_end_that_comes_while_a_run_is_admitted_anew_ends_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, node, outbox, _ = running
    go = looking(node, monkeypatch)
    node._take(sign(federation.coordinator, End(run=federation.run, state="AWAITING_APPROVAL")))
    node._take(admit(federation))
    node._take(sign(federation.coordinator, End(run=federation.run, state="STOPPED")))
    go.set()
    outbox.wait_for("admission", 2)
    no_run(node)
    until(lambda: federation.log("alpha")[-1]["action"] == "end")


def test_a_run_that_was_over_before_the_answer_leaves_nothing(make: Callable[..., Made]) -> None:
    """Its end came while this site was still looking at the document."""
    echo = Echo()
    federation, node, outbox = make(echo)

    def over(signed: Signed) -> None:
        raise ProtocolError("protocol.replay", "run-1 is over.")

    outbox.refuse = over
    node._take(admit(federation))
    until(lambda: echo.ended)
    no_run(node)
    until(lambda: federation.log("alpha")[-1]["action"] == "end")


def test_a_ledger_that_cannot_be_written_at_the_end_is_told(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, node, outbox, _ = running
    broken = StorageError("storage.ledger_damaged", "entry 3", "")
    monkeypatch.setattr(node.gateway, "forget", lambda run: (_ for _ in ()).throw(broken))
    node._runs[federation.run].inbox.put(object())  # nothing that can be answered
    (failed,) = outbox.wait_for("failed")
    assert failed.payload["code"] == "site.failed"
    no_run(node)


# -- an adapter of the site's own ------------------------------------------------------------------


@pytest.mark.parametrize("pauses", [False, True])
def test_a_run_that_succeeded_ends_here_when_the_site_s_own_adapter_is_made(
    make: Callable[..., Made], pauses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator's end waits for it, the owner's pause does not."""
    federation, node, outbox = make(Echo())
    began, go = threading.Event(), threading.Event()

    def slowly(gateway: Any, admitted: Any, session: Any, **_: Any) -> None:
        began.set()
        assert go.wait(30)

    monkeypatch.setattr(run_module, "make_own", slowly)
    monkeypatch.setattr(run_module, "makes_own", lambda admitted: True)
    said = Countersigned(
        run=federation.run,
        site="alpha",
        statement=Envelope.of(federation.project).signed(federation.identities["alpha"]),
    )
    monkeypatch.setattr(node.gateway, "countersign", lambda *_: said)
    node._take(admit(federation))
    outbox.wait_for("admission")
    run = node._runs[federation.run]
    run.inbox.put(Conclude(run=federation.run, result=said.statement, rounds_bytes=1))
    assert began.wait(30)
    assert (list(node.pulses()), node.pulses(at_home=False)) == (
        [federation.run],
        {},
    )  # it is over for others
    node._take(sign(federation.coordinator, End(run=federation.run, state="SUCCEEDED")))
    assert not run.ended.is_set()
    if pauses:
        node.end_all(SiteFailed("site.paused", "paused"))
        assert run.ended.is_set()
    go.set()
    no_run(node)
    assert [entry["reason"] for entry in noted(federation, "end")] == ["paused" if pauses else "SUCCEEDED"]
