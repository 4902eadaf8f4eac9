"""The site's loop, with a link in memory: what it drops, what it says, and the seeds of its batches."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from in_memory import Federation
from plasmid.core.errors import DataError, ProtocolError, StorageError
from plasmid.gateway.disclosure import SENTENCES
from plasmid.protocol.body import pack
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admission, Admit, End, Failed, Signed, StopRequest, open_signed, sign
from plasmid.site import node as node_module
from plasmid.site.node import Node, local_seed
from plasmid.training.channel import Channel, ChannelClosed


class Outbox:
    """A link that keeps what is posted; ``refuse`` may raise for a message instead."""

    def __init__(self) -> None:
        self.posted: list[Signed] = []
        self.uploads: list[str] = []
        self.arrived = threading.Condition()
        self.refuse: Callable[[Signed], None] = lambda signed: None
        self.state = b""

    def post(self, signed: Signed) -> None:
        self.refuse(signed)
        with self.arrived:
            self.posted.append(signed)
            self.arrived.notify_all()

    def upload(self, digest: str, body: bytes, *, run: str) -> None:
        self.uploads.append(digest)

    def download(self, digest: str, size: int) -> bytes:
        return self.state

    def of(self, kind: str) -> list[Signed]:
        return [signed for signed in self.posted if signed.payload["type"] == kind]

    def wait_for(self, kind: str, count: int = 1) -> list[Signed]:
        """Return the messages of *kind* once there are *count*."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.of(kind)) >= count, 60), self.posted
            return self.of(kind)

    def wait(self, count: int) -> list[Signed]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.posted) >= count, 30)
            return list(self.posted)


class NoLauncher:
    """A launcher that cannot start anything."""

    def launch(self, log: Path) -> Any:
        raise OSError("no worker here: CANARY-4711")


class Echo:
    """A launcher of workers that are threads: they answer zeros, or the next error of ``faults``."""

    def __init__(self) -> None:
        self.computed: list[dict[str, Any]] = []
        self.faults: list[dict[str, str]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.ended = 0

    def launch(self, log: Path) -> Any:
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._work, args=(theirs,), daemon=True).start()
        channel = Channel(ours)

        def end() -> None:
            self.ended += 1
            with contextlib.suppress(OSError):
                channel.close()

        return SimpleNamespace(channel=channel, end=end)

    def _work(self, end: socket.socket) -> None:
        channel = Channel(end)
        with end, contextlib.suppress(ChannelClosed):
            while True:
                header, _ = channel.receive()
                if header["type"] == "open":
                    channel.send({"type": "opened"})
                elif header["type"] == "compute":
                    self.computed.append(header)
                    self.hold.wait(60)
                    if self.faults:
                        channel.send({"type": "error", **self.faults.pop()})
                    else:
                        channel.send({"type": "result"}, pack("vector", np.zeros(6, np.float32)))


Made = tuple[Federation, Node, Outbox]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Made]]:
    nodes: list[Node] = []

    def made(launcher: Any = None, **settings: Any) -> Made:
        federation, outbox = Federation(tmp_path, **settings), Outbox()
        outbox.state = pack("state", np.zeros(6, np.float32))
        monkeypatch.setattr(node_module.Credential, "connect", lambda *_, **__: outbox)
        node = Node(federation.home("alpha"), launcher=launcher or NoLauncher())
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
    request = Admit(run="run-1", document=federation.values, digest=federation.digest)
    for impostor in (Identity.generate("coordinator"), federation.identities["beta"]):
        node._take(sign(impostor, request))
    node._take(sign(federation.coordinator, StopRequest(run="run-1")))  # not for a site
    assert outbox.posted == []
    lines = federation.journal("alpha")
    assert [(line["event"], line["code"]) for line in lines] == [
        ("dropped", "protocol.signature"),
        ("dropped", "protocol.signature"),
        ("dropped", "protocol.malformed"),
    ]


def test_a_message_for_an_unknown_run_is_answered(make: Callable[..., Made]) -> None:
    federation, node, outbox = make()
    node._take(sign(federation.coordinator, federation.epoch()))
    (said,) = outbox.wait(1)
    failed = open_signed(said, federation.identities["alpha"].public)
    assert failed == Failed(run="run-1", site="alpha", code="run.unknown", sentence=SENTENCES["run.unknown"])
    node._take(sign(federation.coordinator, End(run="run-1", state="FAILED")))  # nothing to end
    assert len(outbox.posted) == 1


def test_a_refusal_is_posted(make: Callable[..., Made]) -> None:
    federation, node, outbox = make()
    federation.allow("alpha", [])
    node._take(
        sign(federation.coordinator, Admit(run="run-1", document=federation.values, digest=federation.digest))
    )
    answer = open_signed(outbox.wait(1)[0], federation.identities["alpha"].public)
    assert isinstance(answer, Admission)
    assert (answer.accepted, answer.code) == (False, "policy.digest_not_allowed")


def test_a_worker_that_cannot_start_is_told_in_constant_words(
    make: Callable[..., Made], capfd: pytest.CaptureFixture[str]
) -> None:
    federation, node, outbox = make()
    node._take(
        sign(federation.coordinator, Admit(run="run-1", document=federation.values, digest=federation.digest))
    )
    failed = open_signed(outbox.wait(1)[0], federation.identities["alpha"].public)
    assert (failed.type, failed.code, failed.sentence) == ("failed", "site.failed", SENTENCES["site.failed"])
    assert "CANARY-4711" not in federation.home("alpha").journal.read_text()


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
    node.report("run-1", error)
    (said,) = outbox.posted
    failed = open_signed(said, federation.identities["alpha"].public)
    assert failed == Failed(run="run-1", site="alpha", code=code, sentence=SENTENCES[code])
    assert "CANARY-4711" not in said.model_dump_json()


def test_a_full_disk_is_told_although_it_cannot_be_logged(make: Callable[..., Made]) -> None:
    federation, node, outbox = make()
    node.gateway.journal._path = Path("/dev/full")
    node._take(
        sign(federation.coordinator, Admit(run="run-1", document=federation.values, digest=federation.digest))
    )
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
    request = sign(
        federation.coordinator, Admit(run="run-1", document=federation.values, digest=federation.digest)
    )
    node._take(request)
    assert outbox.posted == []
    assert federation.journal("alpha")[-1]["event"] == "dropped"
    peers.write_text(text)
    federation.allow("alpha", [])
    node._take(request)
    assert len(outbox.wait(1)) == 1


# -- a run, from its admission to its end ----------------------------------------------------------


def admit(federation: Federation) -> Signed:
    request = Admit(run="run-1", document=federation.values, digest=federation.digest)
    return sign(federation.coordinator, request)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def no_run(node: Node) -> None:
    until(lambda: not node._runs)


def noted(federation: Federation, event: str) -> list[dict[str, Any]]:
    return [line for line in federation.journal("alpha") if line["event"] == event]


def set_up(federation: Federation, node: Node, outbox: Outbox, *, epoch: int = 1) -> None:
    """Take alpha's process through a key epoch with the other two gateways."""
    tell = lambda message: node._take(sign(federation.coordinator, message))  # noqa: E731
    request = federation.epoch(epoch=epoch)
    federation.number = epoch
    tell(request)
    adverts = [outbox.wait_for("advert", epoch)[-1]]
    others = ("beta", "gamma")
    adverts += [advert for site in others if (advert := federation.gateways[site].begin_epoch(request))]
    tell(federation.relay("advert", adverts))
    inbox: dict[str, list[Signed]] = {site: [] for site in federation.sites}
    said = [outbox.wait_for("bundles", epoch)[-1].payload]
    made: Any = [federation.gateways[site].relay(federation.relay("advert", adverts)) for site in others]
    for bundles in (*said, *[bundle.model_dump(mode="json") for bundle in made]):
        for bundle in map(Signed.model_validate, bundles["statements"]):
            inbox[bundle.payload["receiver"]].append(bundle)
    tell(federation.relay("bundle", inbox["alpha"]))
    mine = Signed.model_validate(outbox.wait_for("blobs", epoch)[-1].payload["statement"])
    rest: Any = [federation.gateways[site].relay(federation.relay("bundle", inbox[site])) for site in others]
    statements = [mine, *[blobs.statement for blobs in rest]]
    tell(federation.relay("recovery", statements))
    ready: Any = [
        federation.gateways[site].relay(federation.relay("recovery", statements)) for site in others
    ]
    ready.append(outbox.wait_for("ready", epoch)[-1])
    tell(federation.relay("ready", ready))
    for site in others:
        federation.gateways[site].relay(federation.relay("ready", ready))


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
    node._take(sign(federation.coordinator, End(run="run-1", state="SUCCEEDED")))
    no_run(node)
    assert echo.ended >= 1
    assert outbox.of("failed") == []


def test_what_comes_too_late_is_noted_and_no_failure(running: Running) -> None:
    federation, node, outbox, _ = running

    def late(signed: Signed) -> None:
        if signed.payload["type"] == "contribution" and signed.payload["slot"] == 0:
            raise ProtocolError("protocol.late", "The run is elsewhere.")

    outbox.refuse = late
    node._take(sign(federation.coordinator, federation.manifest(1)))
    until(lambda: noted(federation, "late"))
    node._take(sign(federation.coordinator, federation.manifest(2)))
    (said,) = outbox.wait_for("contribution")
    assert said.payload["slot"] == 1
    assert [line["type"] for line in noted(federation, "late")] == ["contribution"]
    assert outbox.of("failed") == []
    assert "run-1" in node._runs


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
            known.append("run-1" in node._runs or "run-1" in node.gateway._runs)

    outbox.refuse = watch
    echo.faults.append({"code": "run.not_finite", "message": "CANARY-4711", "hint": ""})
    node._take(sign(federation.coordinator, federation.manifest(1)))
    (failed,) = outbox.wait_for("failed")
    assert (failed.payload["code"], known) == ("run.not_finite", [False])
    assert "CANARY-4711" not in failed.model_dump_json()
    node._take(admit(federation))
    assert outbox.wait_for("admission", 2)[1].payload["accepted"]
    with pytest.raises(ProtocolError, match="epoch 1 of run-1 was used before"):
        node.gateway.begin_epoch(federation.epoch())


def test_a_site_that_had_been_given_up_answers_again_and_takes_part_in_a_new_epoch(running: Running) -> None:
    """Its line was cut, its process never ended: one thread and one worker serve the run before and after."""
    federation, node, outbox, echo = running
    thread = node._runs["run-1"]
    node._take(sign(federation.coordinator, federation.manifest(1)))
    outbox.wait_for("contribution")
    node._take(admit(federation))
    assert outbox.wait_for("admission", 2)[1].payload["accepted"]
    for site in ("beta", "gamma"):
        assert federation.admit(site).accepted
    set_up(federation, node, outbox, epoch=2)
    node._take(sign(federation.coordinator, federation.manifest(2, slot=0)))
    assert outbox.wait_for("contribution", 2)[1].payload["epoch"] == 2
    assert node._runs["run-1"] is thread
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
    assert federation.journal("alpha")[-1]["event"] == "end"


def test_a_ledger_that_cannot_be_written_at_the_end_is_told(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, node, outbox, _ = running
    broken = StorageError("storage.ledger_damaged", "entry 3", "")
    monkeypatch.setattr(node.gateway, "forget", lambda run: (_ for _ in ()).throw(broken))
    node._runs["run-1"].inbox.put(object())  # nothing that can be answered
    (failed,) = outbox.wait_for("failed")
    assert failed.payload["code"] == "site.failed"
    no_run(node)
