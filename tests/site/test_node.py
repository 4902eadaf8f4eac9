"""The site's loop, with a link in memory: what it drops, what it says, and the seeds of its batches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from in_memory import Federation
from plasmid.core.errors import DataError, ProtocolError
from plasmid.gateway.disclosure import SENTENCES
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admission, Admit, End, Failed, Signed, StopRequest, open_signed, sign
from plasmid.site import node as node_module
from plasmid.site.node import Node, local_seed


class Outbox:
    """A link that keeps what is posted."""

    def __init__(self) -> None:
        self.posted: list[Signed] = []
        self.arrived = threading.Condition()

    def post(self, signed: Signed) -> None:
        with self.arrived:
            self.posted.append(signed)
            self.arrived.notify_all()

    def wait(self, count: int) -> list[Signed]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.posted) >= count, 30)
            return list(self.posted)


class NoLauncher:
    """A launcher that cannot start anything."""

    def launch(self, log: Path) -> Any:
        raise OSError("no worker here: CANARY-4711")


Made = tuple[Federation, Node, Outbox]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Made]:
    def made(**settings: Any) -> Made:
        federation, outbox = Federation(tmp_path, **settings), Outbox()
        monkeypatch.setattr(node_module.Credential, "connect", lambda *_, **__: outbox)
        return federation, Node(federation.home("alpha"), launcher=NoLauncher()), outbox

    return made


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
