"""Mailboxes between the coordinator and its sites. One event loop, no locks, memory only.

Rules
-----
1. To a site: messages are numbered per site and kept until the site acknowledges them by asking for
   later ones; a new ``boot`` name tells it that numbering starts again.
2. From a site of the run: a message is kept under (run, type, round, site). The same bytes again change
   nothing; other bytes, and rounds that the run does not have, are refused.
3. :meth:`Switchboard.collect` waits for a set of sites and ends early when one of them fails, falls
   silent for ``SILENCE_S``, or the run is stopped. Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from plasmid.core.errors import ProtocolError, RunFailed
from plasmid.protocol.messages import Failed, Heartbeat, Signed

SILENCE_S = 20.0
MAX_WAITING_MESSAGES = 1000


@dataclass
class _Mailbox:
    next_seq: int = 1
    waiting: list[tuple[int, Signed]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Run:
    sites: frozenset[str]
    rounds: int
    said: dict[tuple[str, int], dict[str, Signed]] = field(default_factory=lambda: defaultdict(dict))
    failures: dict[str, Failed] = field(default_factory=dict)
    pulses: dict[str, Heartbeat] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    stopped: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Switchboard:
    """All mailboxes of one coordinator."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(8)
        self._mailboxes: dict[str, _Mailbox] = defaultdict(_Mailbox)
        self._runs: dict[str, _Run] = {}
        self._last_poll: dict[str, float] = {}

    def open_run(self, run: str, sites: Sequence[str], rounds: int) -> None:
        """Accept messages for *run* from *sites*, about rounds up to *rounds*, from now on."""
        self._runs.setdefault(run, _Run(frozenset(sites), rounds))

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

    async def receive(self, site: str, boot: str, after: int, wait_s: float) -> list[tuple[int, Signed]]:
        """Return the messages above *after*, waiting up to *wait_s* for one."""
        mailbox = self._mailboxes[site]
        if boot != self.boot:
            after = 0
        mailbox.waiting = [item for item in mailbox.waiting if item[0] > after]
        self._last_poll[site] = time.monotonic() + wait_s
        if not mailbox.waiting:
            mailbox.arrived.clear()
            try:
                await asyncio.wait_for(mailbox.arrived.wait(), wait_s)
            except TimeoutError:
                return []
        return list(mailbox.waiting)

    def online(self) -> list[str]:
        """Return the sites that are polling, or were until a moment ago."""
        now = time.monotonic()
        return sorted(site for site, until in self._last_poll.items() if until + 5.0 > now)

    # -- from sites ----------------------------------------------------------------------------

    def take(self, site: str, message: Any, signed: Signed) -> None:
        """Keep a verified message of *site*. Raises ProtocolError (``protocol.replay``)."""
        run = self._runs.get(message.run)
        if run is None or site not in run.sites or getattr(message, "round", 0) > run.rounds:
            raise ProtocolError("protocol.replay", f"{message.run} is over, unknown or not for {site}.")
        run.seen[site] = time.monotonic()
        if isinstance(message, Heartbeat):
            run.pulses[site] = message
            return
        if isinstance(message, Failed):
            run.failures.setdefault(site, message)
        else:
            key = (message.type, getattr(message, "round", 0))
            known = run.said[key].setdefault(site, signed)
            if known.signature != signed.signature:
                raise ProtocolError("protocol.replay", f"{site} has said something else before.")
        run.changed.set()

    def pulses(self, run: str) -> dict[str, tuple[int, int, int]]:
        """Return (round, step, steps) by site."""
        known = self._runs.get(run)
        return {} if known is None else {s: (p.round, p.step, p.steps) for s, p in known.pulses.items()}

    async def collect(
        self,
        run: str,
        kind: str,
        sites: Sequence[str],
        *,
        round_: int = 0,
        timeout_s: float,
        watch: bool = True,
    ) -> dict[str, Signed]:
        """Return the messages of type *kind* from all *sites*.

        Parameters
        ----------
        watch
            End as soon as a site fails or falls silent. Without it, return what has come by the deadline.

        Raises
        ------
        RunFailed
            ``run.stopped``, ``run.site_failed``, ``run.site_lost`` or ``run.deadline``.
        """
        known = self._runs.get(run)
        if known is None:
            raise RunFailed("run.stopped", f"the run {run} is over.")
        start = time.monotonic()
        while True:
            if known.stopped:
                raise RunFailed("run.stopped", "The run was stopped.", "Start it again when you are ready.")
            got = known.said[(kind, round_)]
            missing = [site for site in sites if site not in got]
            gone = [site for site in missing if site in known.failures]
            if not missing or (not watch and len(gone) == len(missing)):
                return {site: got[site] for site in sites if site in got}
            now = time.monotonic()
            if watch:
                for site in sites:
                    if site in known.failures:
                        failure = known.failures[site]
                        raise RunFailed(
                            "run.site_failed",
                            f"the site {site} cannot go on: {failure.sentence} [{failure.code}]",
                            f"Its owner finds the details in the log of {site}.",
                        )
                for site in missing:
                    if now - known.seen.get(site, start) > SILENCE_S and now - start > SILENCE_S / 4:
                        raise RunFailed(
                            "run.site_lost",
                            f"the site {site} has been silent for {SILENCE_S:.0f} s.",
                            "Check that its process and network are up, then start the run again.",
                        )
            if now - start > timeout_s:
                if not watch:
                    return {site: got[site] for site in sites if site in got}
                raise RunFailed(
                    "run.deadline",
                    f"{', '.join(missing)} did not answer with {kind} within {timeout_s:.0f} s.",
                    "Raise federation.round_timeout_s, or leave that site out.",
                )
            known.changed.clear()
            remaining = start + timeout_s - now
            try:
                await asyncio.wait_for(known.changed.wait(), max(0.05, min(1.0, remaining)))
            except TimeoutError:
                continue
