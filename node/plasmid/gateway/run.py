"""One run at one site: a thread that takes the coordinator's messages in order and answers each.

Rules
-----
1. Every error of a run goes to the node, which logs it in full; it leaves as a code with a constant sentence.
2. That a run is over is told once, last of all: it may be admitted anew at once.
3. The owner's pause is asked for again before each thing that leaves.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.core.errors import PlasmidError, ProtocolError, SiteFailed
from plasmid.disclosure.rules import layout_of, people_key
from plasmid.gateway.gateway import Summed
from plasmid.gateway.own_adapter import make_own, makes_own, own_of
from plasmid.gateway.pause import check_running
from plasmid.gateway.session import Progress, WorkerSession
from plasmid.gateway.site_parameters import sampling
from plasmid.planner.attempts import AUDIT_LENGTH
from plasmid.protocol.messages import Admit, Conclude, End, Epoch, Manifest, Relay, Signed, sign

if TYPE_CHECKING:
    from plasmid.gateway.node import Node

log = logging.getLogger(__name__)
STOP_GRACE_S = 5.0


@dataclass
class Pulse:
    """How far a run is at this site: the round, and the step of so many in it."""

    round: int = 0
    step: int = 0
    steps: int = 0


class SiteRun(threading.Thread):
    """One admitted run: takes the coordinator's messages in order."""

    def __init__(self, node: Node, run: str) -> None:
        super().__init__(name=run, daemon=True)
        self.node, self.run_id = node, run
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.pulse = Pulse()
        self.ended, self._ending = threading.Event(), threading.Lock()
        gateway = node.gateway
        base = gateway.run(run).base
        self.makes_own, self.at_home = makes_own(gateway.run(run)), False
        self._session = WorkerSession(
            node.launcher,
            gateway.home.folder / "worker.log",
            read=[] if base is None else [base.path],
            notice=self._sandboxed,
        )

    def run(self) -> None:
        """Answer messages until the run ends."""
        problem: Exception | None = None
        try:
            admitted = self.node.gateway.run(self.run_id)
            document = admitted.document.model_dump(mode="json")
            rows = None if admitted.opened is None else admitted.opened.descriptor
            self._session.open(document, admitted.base, rows, site=self.node.gateway.site)
            while not self.ended.is_set():
                for message in self._waiting():
                    self._answer(message)
        except Exception as error:  # noqa: BLE001 - whatever it was, the run must be told, in constant words
            problem = error
        first = self._is_first_to_end()
        self._session.end()
        try:
            self.node.forget(self.run_id)
        except PlasmidError as error:  # the ledger cannot be written
            problem = problem or error
        if problem is not None and first:  # told last: it may be admitted anew at once
            self.node.report(self.run_id, problem)

    def _waiting(self) -> list[Any]:
        """Wait for messages; return them without the manifests that something later has overtaken."""
        messages = [self.inbox.get()]
        while not self.inbox.empty():
            messages.append(self.inbox.get())
        begins = [index for index, said in enumerate(messages) if isinstance(said, Manifest | Epoch | Admit)]
        return [
            message
            for index, message in enumerate(messages)
            if message is not None and not (isinstance(message, Manifest) and index < begins[-1])
        ]

    def _is_first_to_end(self) -> bool:
        """Mark the run as ended; return whether it was not, so that its end is told once."""
        with self._ending:
            first = not self.ended.is_set()
            if first:
                self.node.is_over(self.run_id)
            self.ended.set()
        return first

    def end(self, reason: str, *, actor: str = "coordinator") -> bool:
        """Stop training at the next step; kill the worker if it does not listen.

        Return whether the run had not ended before.
        """
        if not self._is_first_to_end():
            return False
        self.node.note("end", actor=actor, run=self.run_id, reason=reason)
        self.inbox.put(None)

        def finish() -> None:
            try:
                self._session.stop()
            except SiteFailed:  # the worker has gone already
                return
            self.join(STOP_GRACE_S)
            self._session.end()

        threading.Thread(target=finish, daemon=True).start()
        return True

    def _answer(self, message: Admit | Epoch | Relay | Manifest | Conclude | End) -> None:
        node, gateway = self.node, self.node.gateway
        if isinstance(message, Admit):  # the coordinator had given this site up
            admission = gateway.answer(message)
            node.post(admission)
            if not admission.accepted:
                self._is_first_to_end()
        elif isinstance(message, Epoch):
            advert = gateway.begin_epoch(message)
            if advert is not None:
                self._say(advert)
        elif isinstance(message, Relay):
            said = gateway.relay(message)
            if said is not None:
                self._say(said if isinstance(said, Signed) else sign(gateway.identity, said))
        elif isinstance(message, Conclude):
            self._say(sign(gateway.identity, gateway.countersign(message)))
            self._make_own()
        elif isinstance(message, End):
            self.end(message.state)
        else:
            answer = gateway.contribute(message, self._compute)
            check_running(gateway.home)
            node.link.upload(answer.digest, answer.body, run=self.run_id)
            self._say(answer.contribution)

    def _make_own(self) -> None:
        """Make the site's own adapter; that it cannot be made is this site's matter alone."""
        if not self.makes_own:
            return
        self.at_home = True
        node, admitted = self.node, self.node.gateway.run(self.run_id)
        round_ = admitted.document.rounds + 1
        seed = local_seed(admitted.document.seed, node.gateway.site, round_)
        try:
            make_own(node.gateway, admitted, self._session, seed=seed, progress=self._pulsing(round_))
        except PlasmidError as error:
            log.error("run %s: no adapter of this site's own: %s", self.run_id, error)
            node.note("personal.failed", run=self.run_id, rule=error.code, reason=str(error), result="failed")

    def _pulsing(self, round_: int) -> Progress:
        self.pulse = Pulse(round_)

        def progress(step: int, steps: int) -> None:
            self.pulse = Pulse(round_, step, steps)

        return progress

    def _sandboxed(self, text: str) -> None:
        """Log what the sandbox refused the worker."""
        self.node.note("sandbox", actor="worker", run=self.run_id, reason=text, result="refused")

    def _say(self, signed: Signed) -> None:
        """Send what this site says; that it comes too late is the coordinator's to say, and no failure."""
        check_running(self.node.gateway.home)
        try:
            self.node.link.post(signed)
        except ProtocolError as error:
            if error.code != "protocol.late":
                raise
            self.node.note("late", run=self.run_id, result="noted", type=str(signed.payload["type"]))

    def _compute(self, manifest: Manifest) -> Any:
        gateway = self.node.gateway
        admitted = gateway.run(self.run_id)
        document, shape = admitted.document, admitted.shape
        audit = manifest.phase == "audit"
        layout, opened = layout_of(document), admitted.opened
        vector = self._session.compute(
            admitted.following.last,
            cells=None if layout is None or opened is None else (layout, opened.rows),
            order={
                "cells": None if layout is None else people_key(gateway.home.data_key()).hex(),
                "phase": manifest.phase,
                "round": manifest.round,
                "seed": local_seed(document.seed, gateway.site, manifest.round),
                "sampling": sampling(document, admitted.terms),
            },
            length=AUDIT_LENGTH if audit else shape.schema.size,
            dtype=np.dtype(np.float64) if audit else shape.dtype,
            progress=self._pulsing(manifest.round),
            own=own_of(gateway, admitted, manifest.round),
            keeps=admitted.personal.size,
        )
        kept = self._session.personal
        if kept is not None:
            gateway.personal.keep(gateway.audit, self.run_id, manifest.round, admitted.personal, kept)
        if self._session.figures is not None:
            gateway.personal.tell(gateway.audit, self.run_id, "gain", self._session.figures)
        return vector if layout is None else Summed(vector, self._session.evidence)


def local_seed(seed: int, site: str, round_: int) -> int:
    """Return the seed of one site's batches in one round: 63 bits of SHA-256, public and reproducible."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{site}|{round_}".encode()).digest()[:8], "big") >> 1
