"""Cosigning between running sites, over a real link: nodes ask when they start and when a run has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.members.peers import Peer, Peers, write_peers
from plasmid.gateway.node import Node
from plasmid.gateway.pause import pause, resume
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.messages import LogCheckpoint, LogCosignature, sign
from plasmid.uplink import link as link_module
from plasmid.uplink.link import LinkClient
from support.federation.live_link import LiveLink

NAMES = ("alpha", "beta", "gamma")


class NoLauncher:
    """Nothing is trained here."""

    level = "none"

    def launch(self, log: Path) -> Any:
        raise OSError("no worker here")


class Running:
    """Three sites over one link; each is started by name, and all end with the test."""

    def __init__(self, live: LiveLink) -> None:
        self.live = live
        self.keys = {name: live.member(name)[1] for name in NAMES}
        self.nodes: dict[str, Node] = {}
        self.threads: list[threading.Thread] = []
        for name in NAMES:
            home = self.home(name)
            home.write_config(SiteConfig(name=name, organisation=f"{name}-org"))
            peers = [
                Peer(name=peer, organisation=f"{peer}-org", key=self.keys[peer].public)
                for peer in NAMES
                if peer != name
            ]
            write_peers(home.peers, Peers(coordinator=live.identity.public, sites=peers))

    def home(self, name: str) -> SiteHome:
        return SiteHome(self.live.folder / name)

    def start(self, name: str) -> None:
        node = Node(self.home(name), self.keys[name], launcher=NoLauncher())  # type: ignore[arg-type]
        thread = threading.Thread(target=node.serve, daemon=True)
        thread.start()
        self.nodes[name] = node
        self.threads.append(thread)

    def cosigned(self, name: str) -> dict[str, int]:
        files = AuditLog(self.home(name).audit).files
        return {peer: note.checkpoint.size for peer, note in files.cosigned_notes().items()}

    def end(self) -> None:
        for node in self.nodes.values():
            node.close()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        for node in self.nodes.values():
            node.witness.join(30)
            assert not node.witness.is_alive()
        for node in self.nodes.values():
            node.link.close()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(link_module, "POLL_S", 0.5)  # a node ends at its next poll
    with LiveLink(tmp_path) as live:
        made = Running(live)
        yield made
        made.end()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sites_that_start_cosign_one_another(running: Running) -> None:
    for name in NAMES:
        running.start(name)
    for name in NAMES:
        others = set(NAMES) - {name}
        until(lambda name=name, others=others: set(running.cosigned(name)) == others)
    alpha = running.keys["alpha"].public
    for peer, note in AuditLog(running.home("alpha").audit).files.cosigned_notes().items():
        note.check("alpha", alpha)
        assert note.cosigned(peer, running.keys[peer].public) is not None
    # a run that has ended has its end cosigned, too
    node = running.nodes["alpha"]
    node.gateway.audit.write("end", run="run-1")
    size = node.gateway.audit.checkpoint().checkpoint.size
    node.forget("run-1")
    until(lambda: all(seen >= size for seen in running.cosigned("alpha").values()))
    failed = [entry for name in NAMES for entry in running.nodes[name].gateway.audit.entries()]
    assert [entry for entry in failed if entry["result"] != "ok"] == []


def test_a_site_asks_no_sooner_than_it_is_heard(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its peers answer is not kept for one that does not poll."""
    running.start("beta")
    until(lambda: running.nodes["beta"].heard)
    poll = LinkClient.poll

    def late(self: LinkClient, boot: str, after: int) -> Any:
        if not boot:
            time.sleep(2.0)
        return poll(self, boot, after)

    monkeypatch.setattr(LinkClient, "poll", late)
    running.start("alpha")
    until(lambda: "beta" in running.cosigned("alpha") and "alpha" in running.cosigned("beta"))


def test_one_that_starts_later_is_asked_once_it_is_there(running: Running) -> None:
    """alpha had asked it in vain, just before."""
    running.start("alpha")
    until(lambda: running.nodes["alpha"].witness._unanswered == {"beta", "gamma"})
    running.start("beta")
    until(lambda: "beta" in running.cosigned("alpha") and "alpha" in running.cosigned("beta"))
    until(lambda: running.nodes["alpha"].witness._unanswered == {"gamma"})
    time.sleep(0.5)  # it goes to and fro no more
    sizes = [len(running.nodes[name].gateway.audit.entries()) for name in ("alpha", "beta")]
    time.sleep(1.0)
    assert [len(running.nodes[name].gateway.audit.entries()) for name in ("alpha", "beta")] == sizes


def test_a_paused_site_neither_asks_nor_answers(running: Running) -> None:
    pause(running.home("beta"), by="ada", reason="a test")
    running.start("beta")
    running.start("alpha")
    running.start("gamma")
    until(lambda: "gamma" in running.cosigned("alpha"))
    assert running.cosigned("beta") == {}
    assert "beta" not in running.cosigned("alpha")
    resume(running.home("beta"), by="ada")
    running.nodes["alpha"].witness.ask()
    until(lambda: "beta" in running.cosigned("alpha"))


def test_the_link_passes_on_the_newest_of_each_sender_and_opens_nothing(running: Running) -> None:
    live = running.live
    alpha, gamma = (live.client(live_credential(running, name)) for name in ("alpha", "gamma"))
    try:
        identity = running.keys["alpha"].identity()

        def offer(number: int, receiver: str = "gamma") -> None:
            message = LogCheckpoint(site="alpha", receiver=receiver, note="x" * number, old=0, proof=[])
            alpha.post(sign(identity, message))

        offer(1)  # gamma is not there
        boot, waiting = gamma.request("GET", "/v1/site/messages", params={"wait_s": 0.0}).json().values()
        assert waiting == []
        for number in (1, 2, 3):
            offer(number)
        answer = LogCosignature(site="alpha", receiver="gamma", origin="o", size=1)
        alpha.post(sign(identity, answer))
        offer(9, "nobody")
        got = gamma.poll(boot, 0)[1]
        said = [(signed.payload["type"], signed.payload.get("note")) for _, signed in got]
        assert said == [("log_checkpoint", "xxx"), ("log_cosignature", None)]
        assert set(live.server._switchboard._mailboxes) == {"gamma"}
    finally:
        alpha.close()
        gamma.close()


def live_credential(running: Running, name: str) -> Any:
    from plasmid.uplink.enrol import Credential

    return Credential(running.home(name).folder)
