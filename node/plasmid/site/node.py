"""The site's process: it polls, lets the gateway decide, and sends what the gateway signed.

Rules
-----
1. One thread polls, one beats, one per run works; the gateway's heartbeat goes on while a worker trains.
2. ``end`` is acted on by the polling thread at once, so that a run stops while its worker trains.
3. Every error of a run is logged here in full and leaves as a code with a constant sentence.
4. With ``until_stdin_closes`` the process ends when whoever started it does.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from plasmid.core.errors import LinkError, PlasmidError, ProtocolError, SiteFailed, StorageError, place
from plasmid.gateway.disclosure import public
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.home import SiteHome
from plasmid.gateway.terms import sampling
from plasmid.protocol.body import unpack
from plasmid.protocol.messages import (
    Admit,
    Ask,
    End,
    Epoch,
    Failed,
    Heartbeat,
    Manifest,
    Relay,
    Signed,
    sign,
)
from plasmid.protocol.plan import AUDIT_LENGTH
from plasmid.site.enrol import Credential
from plasmid.training.launcher import Launcher, LocalLauncher
from plasmid.training.session import WorkerSession

log = logging.getLogger(__name__)
HEARTBEAT_S = 2.0
STOP_GRACE_S = 5.0


@dataclass
class _Pulse:
    round: int = 0
    step: int = 0
    steps: int = 0


class _Run(threading.Thread):
    """One admitted run: takes the coordinator's messages in order."""

    def __init__(self, node: Node, run: str) -> None:
        super().__init__(name=run, daemon=True)
        self.node, self.run_id = node, run
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.pulse = _Pulse()
        self.ended = threading.Event()
        gateway = node.gateway
        self._session = WorkerSession(node.launcher, gateway.home.folder / "worker.log")

    def run(self) -> None:
        """Answer messages until the run ends."""
        problem: Exception | None = None
        try:
            admitted = self.node.gateway.run(self.run_id)
            document = admitted.document.model_dump(mode="json")
            self._session.open(document, admitted.base, admitted.table)
            while not self.ended.is_set():
                for message in self._waiting():
                    self._answer(message)
        except Exception as error:  # noqa: BLE001 - whatever it was, the run must be told, in constant words
            problem = error
        self._session.end()
        try:
            self.node.forget(self.run_id)
        except PlasmidError as error:  # the ledger cannot be written
            problem = problem or error
        if problem is not None and not self.ended.is_set():  # told last: the run may be admitted anew at once
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

    def end(self, reason: str) -> None:
        """Stop training at the next step; kill the worker if it does not listen."""
        if self.ended.is_set():
            return
        self.ended.set()
        self.inbox.put(None)
        self.node.note("end", run=self.run_id, reason=reason)

        def finish() -> None:
            try:
                self._session.stop()
            except SiteFailed:  # the worker has gone already
                return
            self.join(STOP_GRACE_S)
            self._session.end()

        threading.Thread(target=finish, daemon=True).start()

    def _answer(self, message: Admit | Epoch | Relay | Manifest) -> None:
        node, gateway = self.node, self.node.gateway
        if isinstance(message, Admit):  # the coordinator had given this site up
            admission = gateway.answer(message)
            node.post(admission)
            if not admission.accepted:
                self.ended.set()
        elif isinstance(message, Epoch):
            advert = gateway.begin_epoch(message)
            if advert is not None:
                self._say(advert)
        elif isinstance(message, Relay):
            said = gateway.relay(message)
            if said is not None:
                self._say(said if isinstance(said, Signed) else sign(gateway.identity, said))
        else:
            answer = gateway.contribute(message, self._compute)
            node.link.upload(answer.digest, answer.body, run=self.run_id)
            self._say(answer.contribution)

    def _say(self, signed: Signed) -> None:
        """Send what this site says; that it comes too late is the coordinator's to say, and no failure."""
        try:
            self.node.link.post(signed)
        except ProtocolError as error:
            if error.code != "protocol.late":
                raise
            self.node.note("late", run=self.run_id, type=str(signed.payload["type"]))

    def _compute(self, manifest: Manifest) -> Any:
        gateway = self.node.gateway
        admitted = gateway.run(self.run_id)
        document, shape = admitted.document, admitted.shape
        body = self.node.link.download(manifest.state, manifest.state_bytes)
        state = unpack(body, "state", length=shape.schema.size, dtype=shape.dtype)
        self.pulse = _Pulse(manifest.round)

        def progress(step: int, steps: int) -> None:
            self.pulse = _Pulse(manifest.round, step, steps)

        audit = manifest.phase == "audit"
        return self._session.compute(
            state,
            order={
                "phase": manifest.phase,
                "seed": local_seed(document.seed, gateway.site, manifest.round),
                "sampling": sampling(document, admitted.terms),
            },
            length=AUDIT_LENGTH if audit else shape.schema.size,
            dtype=np.dtype(np.float64) if audit else shape.dtype,
            progress=progress,
        )


def local_seed(seed: int, site: str, round_: int) -> int:
    """Return the seed of one site's batches in one round: 63 bits of SHA-256, public and reproducible."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{site}|{round_}".encode()).digest()[:8], "big") >> 1


class Node:
    """A running site."""

    def __init__(self, home: SiteHome, *, launcher: Launcher | None = None) -> None:
        self.gateway = Gateway(home)
        self.launcher = launcher or LocalLauncher()
        self.link = Credential(home.folder).connect()
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def serve(self) -> None:
        """Poll until :meth:`close`."""
        self.gateway.journal.write("started")
        threading.Thread(target=self._beat, daemon=True).start()
        boot, after = "", 0
        while not self._closing.is_set():
            try:
                answered, messages = self.link.poll(boot, after)
            except LinkError as error:
                if error.code != "link.unreachable":
                    raise
                log.warning("%s", error)
                time.sleep(1.0)
                continue
            except ValidationError:
                log.warning("the coordinator sent something that is not a signed message")
                time.sleep(1.0)
                continue
            boot = answered
            for seq, signed in messages:
                after = seq
                self._take(signed)

    def close(self) -> None:
        """End all runs and stop polling."""
        self._closing.set()
        with self._lock:
            running = list(self._runs.values())
        for run in running:
            run.end("the site is stopping")
        for run in running:
            run.join(2.0)

    def forget(self, run: str) -> None:
        """Drop a run that has ended."""
        try:
            self.gateway.forget(run)
        finally:
            with self._lock:
                self._runs.pop(run, None)

    def report(self, run: str, error: Exception) -> None:
        """Log *error* in full at home and tell the coordinator its code and constant sentence."""
        code, sentence = public(error)
        detail = str(error) if isinstance(error, PlasmidError) else place(error)
        log.error("run %s: %s %s", run, code, detail)
        unlogged = self.note("failed", run=run, code=code, detail=detail)
        if unlogged is not None:
            code, sentence = public(unlogged)
        self.post(Failed(run=run, site=self.gateway.site, code=code, sentence=sentence))

    def note(self, event: str, **facts: str) -> StorageError | None:
        """Write a line to the log about what lets nothing out; return why it could not be written."""
        try:
            self.gateway.journal.write(event, **facts)
        except StorageError as error:
            log.error("%s", error)
            return error
        return None

    def _take(self, signed: Signed) -> None:
        try:
            message = self.gateway.open(signed)
            with self._lock:
                run = self._runs.get(getattr(message, "run", ""))
            if isinstance(message, Ask) or (isinstance(message, Admit) and run is None):
                threading.Thread(target=self._admit, args=(message,), daemon=True).start()
            elif isinstance(message, End):
                if run is not None:
                    run.end(message.state)
            elif isinstance(message, Admit | Epoch | Relay | Manifest):
                if run is None:
                    self.report(
                        message.run, ProtocolError("run.unknown", f"{message.run} is not known here.")
                    )
                else:
                    run.inbox.put(message)
            else:
                raise ProtocolError("protocol.malformed", f"a coordinator does not send {message.type!r}.")
        except PlasmidError as error:
            self.note("dropped", code=error.code, detail=error.message)
            log.warning("dropped a message: %s", error)

    def _admit(self, request: Ask | Admit) -> None:
        run: _Run | None = None
        try:
            admission = self.gateway.answer(request)
            if admission.accepted and isinstance(request, Admit):
                run = _Run(self, request.run)
                with self._lock:
                    self._runs[request.run] = run
                run.start()
        except Exception as error:  # noqa: BLE001 - a site that cannot answer says so instead of going silent
            self.report(request.run, error)
            return
        problem = self.post(admission)
        if run is not None and problem is not None and problem.code == "protocol.replay":
            run.end("it was over before this site had answered")

    def _beat(self) -> None:
        while not self._closing.wait(HEARTBEAT_S):
            with self._lock:
                pulses = {run_id: run.pulse for run_id, run in self._runs.items()}
            for run_id, pulse in pulses.items():
                self.post(
                    Heartbeat(
                        run=run_id,
                        site=self.gateway.site,
                        round=pulse.round,
                        step=pulse.step,
                        steps=pulse.steps,
                    )
                )

    def post(self, message: BaseModel) -> PlasmidError | None:
        """Sign and send a message; return why it could not be sent, which is logged here."""
        try:
            self.link.post(sign(self.gateway.identity, message))
        except PlasmidError as error:
            log.warning("could not send %s: %s", type(message).__name__, error)
            return error
        return None
