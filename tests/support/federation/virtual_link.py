"""A coordinator's link without network, Ray or real time: real gateways answer through the real switchboard.

Whenever the coordinator waits, the clock jumps and every living site takes its messages. What a site is about
to say can be intercepted (:meth:`VirtualLink.on`): it vanishes, is late, fails, or says something else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.coordinator import context as context_module
from plasmid.coordinator.context import RunContext
from plasmid.coordinator.database import Runs
from plasmid.core.clock import now, stamp
from plasmid.core.errors import LinkError, PlasmidError, ProtocolError
from plasmid.gateway.sentences import public
from plasmid.link import switchboard as switchboard_module
from plasmid.link.bodies import Bodies
from plasmid.link.server import LinkServer
from plasmid.link.switchboard import Switchboard
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.messages import (
    Admit,
    Ask,
    Conclude,
    End,
    Epoch,
    Failed,
    Heartbeat,
    Manifest,
    Revoked,
    Signed,
    UnitTerms,
    open_signed,
    sign,
)
from plasmid.protocol.revocation import Revocation
from support.federation.in_memory import Federation

POLL_S = 20.0
Interception = Callable[["VirtualLink", str, Signed], Signed | None]
"""Gets what a site is about to say; returns what it says instead, None for nothing."""


@dataclass
class _Site:
    boot: str = ""
    after: int = 0
    polls_until: float = 0.0
    alive: bool = True


@dataclass
class _Rule:
    site: str
    kind: str
    place: dict[str, int]
    do: Interception
    times: int


class VirtualLink:
    """Stands for the link server, and runs the sites.

    Parameters
    ----------
    compute
        ``compute(site, manifest)`` is the raw vector of *site*.

    Attributes
    ----------
    now
        The clock, in seconds.
    late
        (site, kind) of what came too late.
    said
        (site, kind, epoch, slot) of all that was said in time.
    """

    def __init__(
        self,
        federation: Federation,
        folder: Path,
        patch: pytest.MonkeyPatch,
        *,
        compute: Callable[[str, Manifest], np.ndarray],
    ) -> None:
        self.federation, self.compute = federation, compute
        self.now = 1000.0
        self.late: list[tuple[str, str]] = []
        self.said: list[tuple[str, str, int, int]] = []
        self._rules: list[_Rule] = []
        self._withheld: list[tuple[float, str, Signed]] = []
        self.bodies = Bodies(folder / "bodies")
        federation.serve(self)
        patch.setattr(switchboard_module, "time", SimpleNamespace(monotonic=lambda: self.now))
        waits = SimpleNamespace(wait_for=self._wait_for, Event=asyncio.Event)
        patch.setattr(switchboard_module, "asyncio", waits)
        patch.setattr(context_module, "ray", SimpleNamespace(get=lambda answer: answer))
        self.board = Switchboard()
        self._server = object.__new__(LinkServer)
        self._server._switchboard, self._server._bodies = self.board, self.bodies
        self._sites = {site: _Site() for site in federation.sites}
        self.board.open_run(federation.run, list(federation.sites))
        self.pump()  # every site is connected

    # -- as the coordinator sees it ----------------------------------------------------------------

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        function = getattr(self._server, method)
        return SimpleNamespace(remote=lambda *arguments: _finish(function(*arguments)))

    def context(self, runs: Runs) -> RunContext:
        """Return the surroundings of the federation's run."""
        federation = self.federation
        return RunContext(
            run=federation.run,
            runs=runs,
            bodies=self.bodies,
            link=self,
            identity=federation.coordinator,
        )

    # -- what a test makes happen ------------------------------------------------------------------

    def on(self, site: str, kind: str, do: Interception, *, times: int = 1, **place: int) -> None:
        """Let *do* have what *site* is about to say of *kind* at *place* (``epoch``, ``slot``, ``round``)."""
        self._rules.append(_Rule(site, kind, place, do, times))

    def revoke(self, site: str) -> None:
        """Have the coordinator put a site out, as its operator's statement makes it do."""
        said = Revocation(
            name=site,
            role="site",
            key=self.federation.identities[site].public,
            revoked=stamp(now()),
            reason="its disk was stolen",
        )
        statement = Envelope.of(said).signed(self.federation.coordinator)
        self.board.expel(site)
        self.board.announce(sign(self.federation.coordinator, Revoked(statement=statement)))

    def kill(self, site: str) -> None:
        """End a site's process."""
        self._sites[site].alive = False

    def revive(self, site: str) -> None:
        """Connect a site again whose process had gone on in the meantime."""
        self._sites[site].alive = True

    def restart(self, site: str) -> None:
        """Start a site's process again, over the same folder."""
        self.federation.restart(site)
        self._sites[site] = _Site()

    def withhold(self, site: str, signed: Signed, seconds: float) -> None:
        """Have *site* say *signed* only in so many *seconds*."""
        self._withheld.append((self.now + seconds, site, signed))

    # -- the sites ---------------------------------------------------------------------------------

    async def _wait_for(self, awaitable: Coroutine[Any, Any, Any], wait_s: float) -> None:
        awaitable.close()
        if wait_s > 0:
            self.now += wait_s
            self.pump()
        raise TimeoutError

    def pump(self) -> None:
        """Let every living site beat, and answer what it got."""
        due = [item for item in self._withheld if item[0] <= self.now]
        self._withheld = [item for item in self._withheld if item[0] > self.now]
        for _, site, signed in due:
            self._deliver(site, signed)
        for site, state in self._sites.items():
            for run in list(self.federation.gateways[site]._runs) if state.alive else ():
                beat = Heartbeat(run=run, site=site, round=0, step=0, steps=0)
                if run in self.board._runs:
                    self.board.take(site, beat, None)  # type: ignore[arg-type]
        for site in self._sites:
            self._poll(site)

    def _poll(self, site: str) -> None:
        state = self._sites[site]
        waiting = any(seq > state.after for seq, _ in self.board._mailboxes[site].waiting)
        if not state.alive or not (waiting or self.now >= state.polls_until or not state.boot):
            return
        try:
            got = _finish(self.board.receive(site, state.boot, state.after if state.boot else 0, 0.0))
        except LinkError:
            state.alive = False  # it was revoked
            return
        state.boot, state.polls_until = self.board.boot, self.now + POLL_S
        self.board._polls[site].until = state.polls_until  # it goes on waiting, were it killed or not
        for seq, signed in got:
            state.after = seq
            if self._sites[site] is state and state.alive:
                self._take(site, signed)

    def _take(self, site: str, signed: Signed) -> None:
        gateway = self.federation.gateways[site]
        message = gateway.open(signed)
        said: Any = None
        try:
            match message:
                case Admit() | Ask():
                    said = gateway.answer(message)
                case Epoch():
                    said = gateway.begin_epoch(message)
                case Manifest():
                    answer = gateway.contribute(message, lambda manifest: self.compute(site, manifest))
                    body, digest = answer.body, answer.digest
                    self.bodies.take_chunk(message.run, site, digest, 0, len(body), body, digest)
                    said = answer.contribution
                case Conclude():
                    said = gateway.countersign(message)
                case End():
                    gateway.forget(message.run)
                case Revoked():
                    gateway.revoke(message.statement)
                case _:
                    said = gateway.relay(message)
        except PlasmidError as error:
            gateway.forget(message.run)
            code, sentence = public(error)
            said = Failed(run=message.run, site=site, code=code, sentence=sentence)
        if said is not None:
            self._say(site, said if isinstance(said, Signed) else sign(gateway.identity, said))

    def download(self, digest: str, size: int) -> bytes:
        """Return a published body."""
        body = self.bodies.published(digest).read_bytes()
        assert len(body) == size
        return body

    def sample(self, run: str, manifest: str, part: str, size: int) -> bytes:
        """Return what the link serves of an opened sum."""
        assert self.board.takes_part(run, self.federation.sites[0])
        sample, _ = self.bodies.read_sample(run, manifest, part, 0)
        assert len(sample) == size
        return sample

    def _say(self, site: str, signed: Signed) -> None:
        payload = signed.payload
        for rule in self._rules:
            here = all(payload.get(name) == value for name, value in rule.place.items())
            if rule.times and (rule.site, rule.kind) == (site, payload["type"]) and here:
                rule.times -= 1
                instead = rule.do(self, site, signed)
                if instead is None:
                    return
                signed = instead
        self._deliver(site, signed)

    def _deliver(self, site: str, signed: Signed) -> None:
        message = open_signed(signed, self.federation.identities[site].public)
        try:
            self.board.take(site, message, signed)
            place = (signed.payload.get("epoch", 0), signed.payload.get("slot", 0))
            self.said.append((site, message.type, *place))
        except ProtocolError as error:
            if error.code not in ("protocol.late", "protocol.replay"):
                raise
            self.late.append((site, message.type))


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


# -- interceptions ---------------------------------------------------------------------------------


def vanish(link: VirtualLink, site: str, signed: Signed) -> None:
    """The site's process ends before it says this."""
    link.kill(site)


def fall_silent(link: VirtualLink, site: str, signed: Signed) -> Signed:
    """The site's process ends as soon as it has said this."""
    link.kill(site)
    return signed


def fails(link: VirtualLink, site: str, signed: Signed) -> Signed:
    """The site says that it cannot go on."""
    run = signed.payload["run"]
    link.federation.gateways[site].forget(run)
    failed = Failed(run=run, site=site, code="site.worker_died", sentence="The worker ended.")
    return sign(link.federation.identities[site], failed)


def late(seconds: float) -> Interception:
    """The site says it so many *seconds* later."""

    def withhold(link: VirtualLink, site: str, signed: Signed) -> None:
        link.withhold(site, signed, seconds)

    return withhold


def says(**changes: Any) -> Interception:
    """The site says it with other fields."""

    def change(link: VirtualLink, site: str, signed: Signed) -> Signed:
        identity = link.federation.identities[site]
        message = open_signed(signed, identity.public)
        values = {name: make(getattr(message, name)) for name, make in changes.items()}
        return sign(identity, message.model_copy(update=values))

    return change


def meanwhile(do: Callable[[VirtualLink], None]) -> Interception:
    """The site says it after something else has happened."""

    def first(link: VirtualLink, site: str, signed: Signed) -> Signed:
        do(link)
        return signed

    return first


# -- what most tests begin with --------------------------------------------------------------------


def admit_all(link: VirtualLink) -> dict[str, UnitTerms | None]:
    """Have every site admit the run, and return their terms."""
    federation = link.federation
    federation.admit_all()
    link.pump()  # a first heartbeat: only a site that was heard can fall silent
    return {site: federation.gateways[site].run(federation.run).terms for site in federation.sites}


def vectors(sites: Iterable[str], length: int, *, bound: float = 1.0) -> Mapping[str, np.ndarray]:
    """Return a fixed float32 vector for each site, within ±*bound*."""
    source = np.random.default_rng(7)
    return {site: source.uniform(-bound, bound, length).astype(np.float32) for site in sites}
