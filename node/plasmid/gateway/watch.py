"""What a running node notices beside its messages: the owner's pause, and the age of its certificate.

Rules
-----
1. A pause is acted on within :data:`LOOK_S`, whichever process wrote it; an approval likewise.
2. The certificate is renewed when a third of its life is left; if that fails, it is tried again, and the node
   goes on with the old one. One that another process has renewed is taken up.
3. A policy that stops to parse is said in the node's log, once, with file and line; the gateway refuses
   whatever would leave from then on.
4. What is kept of past runs is purged when its time is over, once an hour.
5. Nothing that goes wrong here ends the node.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from plasmid.core.clock import Clock, now, stamp
from plasmid.core.errors import PlasmidError
from plasmid.gateway.pause import check_running
from plasmid.gateway.policy.conditions import policy_problem
from plasmid.gateway.retention import purge_expired
from plasmid.gateway.status import write_status
from plasmid.uplink.enrol import Credential
from plasmid.uplink.membership import renew, validity

if TYPE_CHECKING:
    from plasmid.gateway.node import Node

log = logging.getLogger(__name__)
LOOK_S = 0.25
STATUS_S = 2.0
CERTIFICATE_S = 60.0
RETRY_S = 600.0
RETENTION_S = 3600.0


class Watch:
    """Looks after one node; :meth:`run` is its thread."""

    def __init__(self, node: Node, *, clock: Clock = now) -> None:
        self._node, self._clock = node, clock
        self._started = stamp(clock())
        self._credential = Credential(node.gateway.home.folder)
        self._shown = self._changed()
        self._policy = policy_problem(node.gateway.home)
        self._next_status = self._next_certificate = self._next_retention = 0.0

    def run(self, ended: threading.Event) -> None:
        """Look until *ended* is set."""
        while not ended.wait(LOOK_S):
            try:
                self.look()
            except (PlasmidError, OSError) as error:
                log.warning("%s", error)

    def look(self) -> None:
        """Act on what has changed since the last look."""
        try:
            check_running(self._node.gateway.home)
        except PlasmidError as paused:
            self._node.end_all(paused)
        self._node.waiting.look()
        self._look_at_policy()
        if time.monotonic() >= self._next_status:
            self._next_status = time.monotonic() + STATUS_S
            self._say()
        self._take_up()
        if time.monotonic() >= self._next_certificate:
            self._next_certificate = time.monotonic() + CERTIFICATE_S
            self._renew()
        if time.monotonic() >= self._next_retention:
            self._next_retention = time.monotonic() + RETENTION_S
            purge_expired(self._node.gateway.home, self._node.gateway.audit, clock=self._clock)

    def _look_at_policy(self) -> None:
        problem = policy_problem(self._node.gateway.home)
        if problem != self._policy:
            self._policy = problem
            log.error("%s", f"{problem}\nNothing leaves." if problem else "the policy can be read again.")

    def _changed(self) -> int:
        return self._credential.certificate.stat().st_mtime_ns

    def _take_up(self) -> None:
        changed = self._changed()
        if changed != self._shown:
            self._shown = changed
            self._node.link.reload()

    def _renew(self) -> None:
        if not validity(self._credential.certificate).is_due(self._clock()):
            return
        self._next_certificate = time.monotonic() + RETRY_S
        made = renew(self._credential, self._node.keys, clock=self._clock)
        self._take_up()
        self._node.gateway.audit.write("rotated", until=stamp(made.ends))

    def _say(self) -> None:
        node = self._node
        write_status(
            node.gateway.home,
            since=self._started,
            isolation=node.gateway.isolation,
            time=stamp(self._clock()),
            coordinator={
                "url": node.link.url,
                "heard": stamp(node.heard) if node.heard else None,
                "end_to_end": node.link.end_to_end,
            },
            certificate_ends=stamp(validity(self._credential.certificate).ends),
            runs={
                run: {"round": round_, "step": step, "steps": steps}
                for run, (round_, step, steps) in node.pulses().items()
            },
        )
