"""One site's node with a link and a worker in memory: what it posts and uploads is kept, nothing leaves."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from plasmid.core.errors import LinkError, SiteFailed
from plasmid.gateway.node import Node
from plasmid.protocol.body import pack
from plasmid.protocol.channel import Channel, ChannelClosed
from plasmid.protocol.messages import Signed, sign
from support.federation.in_memory import Federation


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

    def sample(self, run: str, manifest: str, part: str, size: int) -> bytes:
        raise LinkError("link.no_body", "nothing is summed here.")

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


class Echo:
    """A launcher of workers that are threads: they answer zeros, or the next error of ``faults``."""

    level = "none"

    def __init__(self) -> None:
        self.computed: list[dict[str, Any]] = []
        self.faults: list[dict[str, str]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.ended = 0

    def launch(self, log: Path, **_: Any) -> Any:
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._work, args=(theirs,), daemon=True).start()
        channel = Channel(ours)

        def end() -> None:
            self.ended += 1
            with contextlib.suppress(OSError):
                channel.close()

        def why() -> SiteFailed:
            return SiteFailed("site.worker_died", "The worker ended unexpectedly.")

        return SimpleNamespace(channel=channel, end=end, why=why)

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


def admit(federation: Federation) -> Signed:
    """Return the coordinator's message that asks for the run."""
    request = federation.admitting()
    return sign(federation.coordinator, request)


def until(condition: Callable[[], Any]) -> None:
    """Wait for *condition*, a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def no_run(node: Node) -> None:
    """Wait until no run is under way."""
    until(lambda: not node._runs)


def noted(federation: Federation, event: str) -> list[dict[str, Any]]:
    """Return alpha's entries of one action."""
    return [line for line in federation.log("alpha") if line["action"] == event]


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
    until(lambda: (now := node.gateway.run(federation.run).epoch) and now.sealed)
