"""The site's process: it polls, lets the gateway decide, and sends what the gateway signed.

Rules
-----
1. One thread polls, one beats, one per run works; the gateway's heartbeat goes on while a worker trains.
2. ``end`` is acted on by the polling thread at once, so that a run stops while its worker trains.
3. Every error of a run (:class:`plasmid.gateway.run.SiteRun`) is logged here in full and leaves as a code.
4. With ``until_stdin_closes`` the process ends when whoever started it does.
5. The owner's pause ends every run within a second; it is asked for again before each thing that leaves.
6. That a run is over here is told once: what the coordinator had sent before it heard so is passed over.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from plasmid.core.clock import now
from plasmid.core.errors import LinkError, PlasmidError, ProtocolError, place
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import KeyStore
from plasmid.gateway.policy.conditions import check_start
from plasmid.gateway.run import STOP_GRACE_S, SiteRun
from plasmid.gateway.status import holding
from plasmid.gateway.waiting import WaitingRuns
from plasmid.gateway.watch import Watch
from plasmid.gateway.witness import KINDS, Witness
from plasmid.isolation.launcher import Launcher, LocalLauncher, available, sweep
from plasmid.protocol.messages import (
    Admit,
    Ask,
    Conclude,
    End,
    Epoch,
    Failed,
    Heartbeat,
    Manifest,
    Relay,
    Revoked,
    Signed,
    sign,
)
from plasmid.uplink.enrol import Credential

log = logging.getLogger(__name__)
HEARTBEAT_S = 2.0
AGAIN_S = 5.0
_PASSING = {"link.unreachable", "link.proxy", "link.refused", "link.signature", "link.clock", "link.busy"}
"""What a node outlives: somebody in between, a clock, a coordinator that is away. It says so and goes on."""


class Node:
    """A running site."""

    def __init__(self, home: SiteHome, keys: KeyStore, *, launcher: Launcher | None = None) -> None:
        config = home.config()
        check_start(home)
        self.launcher = launcher or LocalLauncher(
            available(config.isolation), limits=config.limits, devices=config.devices
        )
        self.keys = keys
        self.link = Credential(home.folder).connect(keys)
        self.gateway = Gateway(home, keys, source=self.link, isolation=self.launcher.level)
        self.heard: datetime | None = None
        self._runs: dict[str, SiteRun] = {}
        self._early: dict[str, list[Any]] = {}
        self._over: set[str] = set()
        self.waiting = WaitingRuns(self)
        self._lock, self._admitting = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self.witness = Witness(self.gateway, self.post)

    def serve(self) -> None:
        """Poll until :meth:`close`. Raises StorageError (``storage.in_use``) if one runs from this folder."""
        with holding(self.gateway.home):
            self.gateway.audit.verify()
            sweep(self.gateway.home.folder)
            self.gateway.audit.write("started", isolation=self.launcher.level)
            threading.Thread(target=self._beat, daemon=True).start()
            watch = Watch(self)
            threading.Thread(target=watch.run, args=(self._closing,), daemon=True).start()
            self.witness.start()
            self._poll()

    def _poll(self) -> None:
        boot, after, end_to_end = "", 0, None
        while not self._closing.is_set():
            try:
                answered, messages = self.link.poll(boot, after)
            except LinkError as error:
                if error.code not in _PASSING:
                    raise
                log.warning("%s", error)
                self._closing.wait(1.0 if error.code == "link.unreachable" else AGAIN_S)
                continue
            if self.link.end_to_end is not end_to_end:
                end_to_end = self.link.end_to_end
                self.note("connected", end_to_end=end_to_end)
            if answered != boot:
                self.witness.ask()
            boot, self.heard = answered, now()
            for seq, signed in messages:
                after = seq
                self._take(signed)

    def close(self) -> None:
        """End all runs and stop polling."""
        self._closing.set()
        self.witness.end()
        with self._lock:
            running = list(self._runs.values())
        for run in running:
            run.end("the site is stopping")
        for run in running:
            run.join(2.0)

    def pulses(self, *, at_home: bool = True) -> dict[str, tuple[int, int, int]]:
        """Return (round, step, steps) of each run under way, with those that go on *at_home* alone."""
        with self._lock:
            found = {run: each for run, each in self._runs.items() if at_home or not each.at_home}
            return {run: (each.pulse.round, each.pulse.step, each.pulse.steps) for run, each in found.items()}

    def end_all(self, reason: PlasmidError) -> None:
        """End every run here, as its owner wants, and tell the coordinator why in constant words."""
        with self._lock:
            running = [run for run in self._runs.values() if not run.ended.is_set()]
        for run in running:
            if run.end(reason.message, actor="owner"):
                self.report(run.run_id, reason)

    def forget(self, run: str) -> None:
        """Drop a run that has ended."""
        try:
            self.gateway.forget(run)
        finally:
            with self._lock:
                self._runs.pop(run, None)
            self.witness.ask()

    def report(self, run: str, error: Exception) -> None:
        """Log *error* in full at home and tell the coordinator its code and constant sentence."""
        code, sentence = self.gateway.public(error)
        detail = str(error) if isinstance(error, PlasmidError) else place(error)
        log.error("run %s: %s %s", run, code, detail)
        unlogged = self.note("failed", run=run, rule=code, reason=detail, result="failed")
        if unlogged is not None:
            code, sentence = self.gateway.public(unlogged)
        self.is_over(run)
        if self.post(Failed(run=run, site=self.gateway.site, code=code, sentence=sentence)) is not None:
            self._over.discard(run)

    def is_over(self, run: str) -> None:
        """Pass over what still comes of *run*, from before its end is told until it is admitted anew."""
        self._over.add(run)

    def note(self, action: str, **entry: Any) -> PlasmidError | None:
        """Write an entry to the log about what lets nothing out; return why it could not be written."""
        try:
            self.gateway.audit.write(action, **entry)
        except PlasmidError as error:
            log.error("%s", error)
            return error
        return None

    def _take(self, signed: Signed) -> None:
        if signed.payload.get("type") in KINDS:
            self.witness.take(signed)
            return
        try:
            message = self.gateway.open(signed)
            name = getattr(message, "run", "")
            with self._lock:
                run = self._runs.get(name)
                over = run is None or run.ended.is_set()
                if isinstance(message, Admit) and over:
                    self._early.setdefault(name, [])
                elif over and name in self._early:
                    self._early[name].append(message)
                    return
            if isinstance(message, Ask) or (isinstance(message, Admit) and over):
                threading.Thread(target=self.admit, args=(message,), daemon=True).start()
            elif isinstance(message, End):
                self._end(name, run, message.state)
            elif isinstance(message, Revoked):
                self.gateway.revoke(message.statement)
            elif isinstance(message, Admit | Epoch | Relay | Manifest | Conclude):
                if run is None and message.run in self._over:
                    log.info("passed over %s of %s, which is over here", message.type, message.run)
                elif run is None:
                    self.report(
                        message.run, ProtocolError("run.unknown", f"{message.run} is not known here.")
                    )
                else:
                    run.inbox.put(message)
            else:
                raise ProtocolError("protocol.malformed", f"a coordinator does not send {message.type!r}.")
        except PlasmidError as error:
            self.note("dropped", actor="coordinator", rule=error.code, reason=error.message, result="refused")
            log.warning("dropped a message: %s", error)

    def admit(self, request: Ask | Admit, *, again: bool = False) -> None:
        """Answer *request* and start the run on a yes; one run is admitted at a time, and only once.

        Parameters
        ----------
        again
            The coordinator has an answer already, and only hears a new one.
        """
        if isinstance(request, Ask):
            self._admit(request, again=again)
            return
        with self._admitting:
            run = self._runs.get(request.run)
            if run is not None and run.ended.is_set():
                run.join(2 * STOP_GRACE_S)  # it was told to rest, and is asked again
            if request.run not in self._runs:
                self._admit(request, again=again)
            self._catch_up(request.run)

    def _catch_up(self, name: str) -> None:
        """Take what came while the run was admitted anew: the coordinator had heard an earlier yes."""
        with self._lock:
            early, run = self._early.pop(name, []), self._runs.get(name)
        for message in early:
            if isinstance(message, End):
                self._end(name, run, message.state)
            elif run is not None:
                run.inbox.put(message)

    def _end(self, name: str, run: SiteRun | None, state: str) -> None:
        """End *run* as the coordinator says; without one, end its waiting for approvals."""
        if run is None:
            self.waiting.end(name)
        elif state == "SUCCEEDED" and run.makes_own:
            run.inbox.put(End(run=name, state=state))  # after what was said before
        else:
            run.end(state)

    def _admit(self, request: Ask | Admit, *, again: bool) -> None:
        run: SiteRun | None = None
        try:
            seen = self.waiting.version(request)
            known = None if again else self.waiting.known(request)
            admission = known or self.gateway.answer(request)
            if isinstance(request, Admit) and not self.waiting.note(request, admission, seen) and again:
                return
            if admission.accepted and isinstance(request, Admit):
                run = SiteRun(self, request.run)
                with self._lock:
                    self._runs[request.run] = run
                self._over.discard(request.run)
                run.start()
        except Exception as error:  # noqa: BLE001 - a site that cannot answer says so instead of going silent
            if isinstance(request, Admit) and run is None:  # admitted, but its worker could not be started
                self.gateway.forget(request.run)
            self.report(request.run, error)
            return
        problem = self.post(admission)
        if problem is not None and problem.code == "protocol.replay":
            if run is not None:
                run.end("it was over before this site had answered")
            else:
                self.waiting.end(request.run)

    def _beat(self) -> None:
        while not self._closing.wait(HEARTBEAT_S):
            for run, (round_, step, steps) in self.pulses(at_home=False).items():
                self.post(Heartbeat(run=run, site=self.gateway.site, round=round_, step=step, steps=steps))

    def post(self, message: BaseModel) -> PlasmidError | None:
        """Sign and send a message; return why it could not be sent, which is logged here."""
        try:
            self.link.post(sign(self.gateway.identity, message))
        except PlasmidError as error:
            log.warning("could not send %s: %s", type(message).__name__, error)
            return error
        return None
