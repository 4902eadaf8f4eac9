"""Mailboxes between the coordinator and its sites. One event loop, no locks, memory only.

Rules
-----
1. To a site: messages are numbered per site and kept until the site acknowledges them by asking for
   later ones; a new ``boot`` name tells it that numbering starts again. Who asks under another is answered
   at once, so that it knows that it is heard.
2. From a site of the run: a message is kept under (type, epoch, slot, site), for the *place* (epoch, slot)
   where the run is. The same bytes again change nothing, other bytes are refused, and what belongs to another
   place comes too late; moving on drops what was said before. An admission that waits for approvals is
   replaced by the site's next one.
3. :meth:`Switchboard.collect` waits for a set of sites and ends when each has spoken, failed or fallen silent
   for ``SILENCE_S``, at its deadline, or when the run is stopped. It says who is missing, and why.
4. What one site says to another is passed on unopened (:meth:`Switchboard.pass_on`): it belongs to no run.
5. Who is expelled is gone from every run, for good, and its poll ends. Notices stand: every site gets them,
   also one that begins to poll later.
6. A poll that is open is no sign of life: its site may have been killed in the meantime. A site that fell
   silent is there again when it has begun to poll since, or begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from plasmid.core.errors import LinkError, ProtocolError, RunFailed
from plasmid.protocol.messages import Failed, Heartbeat, Signed

SILENCE_S = 20.0
MAX_WAITING_MESSAGES = 1000
_REVOKED = "it was revoked [link.revoked]"


@dataclass
class _Mailbox:
    next_seq: int = 1
    waiting: list[tuple[int, Signed]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Polls:
    """When a site last began to poll, until when it waits, and when it last did so with another boot name."""

    begun: float = 0.0
    until: float = -math.inf
    anew: float = -math.inf


@dataclass
class _Run:
    sites: frozenset[str]
    place: tuple[int, int] = (0, 0)
    said: dict[str, dict[str, Signed]] = field(default_factory=lambda: defaultdict(dict))
    failures: dict[str, Failed] = field(default_factory=dict)
    pulses: dict[str, Heartbeat] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    stopped: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def why_gone(self, site: str, start: float, now: float) -> str:
        """Return why nothing more is to be expected of *site*, empty if something is."""
        if site in self.failures:
            failure = self.failures[site]
            return f"{failure.sentence} [{failure.code}]"
        heard = self.seen.get(site)  # one that was never heard is starting, and has until the deadline
        if heard is not None and now - heard > SILENCE_S and now - start > SILENCE_S / 4:
            return f"it has been silent for {SILENCE_S:.0f} s"
        return ""


@dataclass(frozen=True)
class Collected:
    """What came of a wait: the messages by site, and why each other site is missing.

    Of the missing, nothing more is to be expected of those in ``gone``; the others were only too slow.
    """

    got: dict[str, Signed]
    missing: dict[str, str]
    gone: frozenset[str]


class Switchboard:
    """All mailboxes of one coordinator."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(8)
        self._mailboxes: dict[str, _Mailbox] = defaultdict(_Mailbox)
        self._runs: dict[str, _Run] = {}
        self._polls: dict[str, _Polls] = defaultdict(_Polls)
        self._expelled: set[str] = set()
        self._standing: list[Signed] = []

    def expel(self, name: str) -> None:
        """Let a site take part in nothing any more."""
        self._expelled.add(name)
        self._mailboxes[name].arrived.set()
        for run in self._runs.values():
            run.changed.set()

    def expelled(self, sites: Sequence[str]) -> list[str]:
        """Return which of *sites* are expelled."""
        return [site for site in sites if site in self._expelled]

    def announce(self, signed: Signed) -> None:
        """Tell every site, now or when it comes."""
        self._standing.append(signed)
        for site in set(self._mailboxes) - self._expelled:
            self.send(site, signed)

    def open_run(self, run: str, sites: Sequence[str]) -> None:
        """Accept messages for *run* from *sites* from now on."""
        self._runs.setdefault(run, _Run(frozenset(sites)))

    def takes_part(self, run: str, site: str) -> bool:
        """Return whether *run* goes on, and *site* is of it."""
        known = self._runs.get(run)
        return known is not None and site in known.sites and site not in self._expelled

    def move_on(self, run: str, epoch: int, slot: int) -> None:
        """Take *run* to another epoch and slot (0 during set-up); what was said before is dropped."""
        known = self._runs.get(run)
        if known is not None:
            known.place = (epoch, slot)
            known.said.clear()

    def readmit(self, run: str, sites: Sequence[str]) -> list[str]:
        """Return those of *sites*, which dropped out, that are there again; what befell them is forgotten."""
        known = self._runs.get(run)
        if known is None:
            return []
        online = set(self.online())
        back = [site for site in sites if site in online and self._is_back(known, site)]
        for site in back:
            known.failures.pop(site, None)
            known.seen.pop(site, None)
        return back

    def hear_again(self, run: str, kind: str, sites: Sequence[str]) -> list[str]:
        """Forget what *sites* said of *kind* and what befell them; return those that can be asked."""
        known = self._runs.get(run)
        if known is None:
            return []
        online = set(self.online())
        for site in sites:
            known.said[kind].pop(site, None)
            known.failures.pop(site, None)
            known.seen.pop(site, None)
        return [site for site in sites if site in online]

    def _is_back(self, run: _Run, site: str) -> bool:
        heard, polls = run.seen.get(site), self._polls[site]
        if heard is None or site in run.failures or time.monotonic() - heard <= SILENCE_S:
            return True
        return polls.anew > heard or polls.begun > heard + SILENCE_S / 2

    def close_run(self, run: str) -> None:
        """Forget *run*; messages for it are dropped from now on."""
        self._runs.pop(run, None)

    def stop_run(self, run: str) -> None:
        """Make every wait for *run* end with ``run.stopped``."""
        if run in self._runs:
            self._runs[run].stopped = True
            self._runs[run].changed.set()

    # -- to sites ------------------------------------------------------------------------------

    def send(self, site: str, signed: Signed) -> None:
        """Put a message into a site's mailbox."""
        mailbox = self._mailboxes[site]
        mailbox.waiting.append((mailbox.next_seq, signed))
        mailbox.next_seq += 1
        del mailbox.waiting[:-MAX_WAITING_MESSAGES]
        mailbox.arrived.set()

    def pass_on(self, sender: str, receiver: str, signed: Signed) -> None:
        """Put what one site says to another into its mailbox; nothing happens if that site is not there.

        Of each sender and type the newest is kept, so that a site cannot push out what others have sent.
        """
        if receiver not in self.online():
            return
        kind, mailbox = signed.payload.get("type"), self._mailboxes[receiver]
        mailbox.waiting = [
            (seq, said)
            for seq, said in mailbox.waiting
            if (said.signer, said.payload.get("type")) != (sender, kind)
        ]
        self.send(receiver, signed)

    async def receive(self, site: str, boot: str, after: int, wait_s: float) -> list[tuple[int, Signed]]:
        """Return the messages above *after*, waiting up to *wait_s* for one if it knows the ``boot`` name.

        Raises
        ------
        LinkError
            ``link.revoked``: the site is expelled, or was while it waited.
        """
        mailbox, polls, now = self._mailboxes[site], self._polls[site], time.monotonic()
        polls.begun, polls.until = now, now + wait_s
        known = boot == self.boot
        if not known:
            after, polls.anew = 0, now
            waiting = [said for _, said in mailbox.waiting]
            for standing in self._standing:
                if standing not in waiting:
                    self.send(site, standing)
        mailbox.waiting = [item for item in mailbox.waiting if item[0] > after]
        if known and not mailbox.waiting and site not in self._expelled:
            mailbox.arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(mailbox.arrived.wait(), wait_s)
        if site in self._expelled:
            raise LinkError(
                "link.revoked", f"{site} is a member no more.", "Ask the coordinator's operator why."
            )
        return list(mailbox.waiting)

    def online(self) -> list[str]:
        """Return the sites that are polling, or were until a moment ago."""
        now = time.monotonic()
        polling = {site for site, polls in self._polls.items() if polls.until + 5.0 > now}
        return sorted(polling - self._expelled)

    # -- from sites ----------------------------------------------------------------------------

    def take(self, site: str, message: Any, signed: Signed) -> None:
        """Keep a verified message of *site*.

        Raises
        ------
        ProtocolError
            ``protocol.replay``: the run is over or not for this site, or the site said something else before;
            ``protocol.late``: the message belongs to another epoch or slot than the run's present one.
        """
        run = self._runs.get(message.run)
        if run is None or site not in run.sites:
            raise ProtocolError("protocol.replay", f"{message.run} is over, unknown or not for {site}.")
        run.seen[site] = time.monotonic()
        if isinstance(message, Heartbeat):
            run.pulses[site] = message
            return
        if isinstance(message, Failed):
            run.failures.setdefault(site, message)
        else:
            place = (getattr(message, "epoch", run.place[0]), getattr(message, "slot", run.place[1]))
            if place != run.place:
                raise ProtocolError(
                    "protocol.late", f"{message.type} of {site} is for {place}, the run is at {run.place}."
                )
            said = run.said[message.type]
            if site in said and said[site].payload.get("pending"):
                del said[site]  # it waited for approvals then
            known = said.setdefault(site, signed)
            if known.signature != signed.signature:
                raise ProtocolError("protocol.replay", f"{site} has said something else before.")
        run.changed.set()

    def pulses(self, run: str) -> dict[str, tuple[int, int, int]]:
        """Return (round, step, steps) by site."""
        known = self._runs.get(run)
        return {} if known is None else {s: (p.round, p.step, p.steps) for s, p in known.pulses.items()}

    async def collect(
        self, run: str, kind: str, sites: Sequence[str], *, timeout_s: float, enough: int | None = None
    ) -> Collected:
        """Wait until each of *sites* has sent its message of type *kind*, or cannot any more.

        Parameters
        ----------
        enough
            Stop waiting as soon as so many have; None waits for all.

        Raises
        ------
        RunFailed
            ``run.stopped``.
        """
        known = self._runs.get(run)
        if known is None:
            raise RunFailed("run.stopped", f"the run {run} is over.")
        start = time.monotonic()
        while True:
            if known.stopped:
                raise RunFailed("run.stopped", "The run was stopped.", "Start it again when you are ready.")
            now = time.monotonic()
            said = known.said[kind]
            got = {site: said[site] for site in sites if site in said and site not in self._expelled}
            gone = {
                site: _REVOKED if site in self._expelled else known.why_gone(site, start, now)
                for site in sites
                if site not in got
            }
            late = now - start > timeout_s
            if late or len(got) >= (len(sites) if enough is None else enough) or all(gone.values()):
                waited = f"it did not answer within {timeout_s:.0f} s" if late else "it was not waited for"
                missing = {site: why or waited for site, why in gone.items()}
                return Collected(got, missing, frozenset(site for site, why in gone.items() if why))
            known.changed.clear()
            try:
                await asyncio.wait_for(known.changed.wait(), max(0.05, min(1.0, start + timeout_s - now)))
            except TimeoutError:
                continue
