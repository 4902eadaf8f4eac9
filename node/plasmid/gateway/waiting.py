"""The runs that wait for approvals at a running node: it looks at them again when something has changed.

Rules
-----
1. The gateway decides; this only asks it again: when an approval, a revocation, a person's record or the
   policy came or went, and at a run's deadline.
2. The coordinator hears when the count changes, and when the run is admitted or refused.
3. Approvers are told once for each run that begins to wait, on a thread of its own; what came of that is in
   the log.
4. Nothing here outlives the node: the coordinator sends the request again to a node that is new.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasmid.core.clock import parse
from plasmid.core.errors import PlasmidError
from plasmid.gateway.notify import Notify, tell
from plasmid.gateway.policy.file import read_policy
from plasmid.protocol.messages import Admission, Admit, Ask

if TYPE_CHECKING:
    from plasmid.gateway.node import Node

log = logging.getLogger(__name__)

Version = tuple[object, ...]
"""Changes with anything on disk that decides whether a run must wait."""


@dataclass
class _Waiting:
    request: Admit
    said: Admission
    expires: str
    seen: Version
    late: bool = False


class WaitingRuns:
    """See the module's rules. Safe to use from several threads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runs: dict[str, _Waiting] = {}
        self._lock = threading.Lock()

    def note(self, request: Admit, admission: Admission, seen: Version) -> bool:
        """Take in what the gateway answered to *request*; return whether it is news to the coordinator.

        Parameters
        ----------
        seen
            The :meth:`version` from before the gateway looked.
        """
        if self._node.gateway.began_to_wait(request.run):
            self.tell()
        with self._lock:
            pending = admission.pending
            if pending is None or pending.expires is None:
                self._runs.pop(request.run, None)
                return True
            known = self._runs.get(request.run)
            self._runs[request.run] = _Waiting(request, admission, pending.expires, seen)
            return known is None or known.said != admission

    def known(self, request: Ask | Admit) -> Admission | None:
        """Return what was answered to *request* before, if nothing has changed since."""
        with self._lock:
            known = self._runs.get(request.run)
            same = known is not None and not known.late and self.version(known.request) == known.seen
            return known.said if known is not None and same else None

    def end(self, run: str) -> None:
        """Forget *run*, which is over."""
        with self._lock:
            self._runs.pop(run, None)
        self._node.gateway.stop_waiting(run)

    def look(self) -> None:
        """Ask the gateway again about each run for which something has changed, or whose time is up."""
        with self._lock:
            waiting = list(self._runs.values())
        for one in waiting:
            late = self._node.gateway.approvals.time() >= parse(one.expires)
            seen = self.version(one.request)
            if (late and not one.late) or seen != one.seen:
                one.seen, one.late = seen, late
                threading.Thread(
                    target=self._node.admit, args=(one.request,), kwargs={"again": True}, daemon=True
                ).start()  # it may read a table or import a model

    def tell(self) -> None:
        """Tell the approvers that a run has begun to wait."""
        try:
            notify = read_policy(self._node.gateway.home.policy).notify
        except PlasmidError as error:
            log.warning("%s", error)
            return
        threading.Thread(target=self._tell, args=(notify,), name="notify", daemon=True).start()

    def _tell(self, notify: Notify) -> None:
        for channel, problem in tell(notify):
            self._node.note(
                "approval.told",
                reason=problem or None,
                result="failed" if problem else "ok",
                channel=channel,
            )
            if problem:
                log.warning("could not tell the approvers by %s: %s", channel, problem)

    def version(self, request: Ask | Admit) -> Version:
        """Return what changes with the approvals, the people, the policy and the site's settings."""
        home = self._node.gateway.home
        recipe = str(request.request.payload.get("digest"))
        paths = (home.policy, home.people, home.folder / "site.yaml")
        times = (path.stat().st_mtime_ns if path.exists() else 0 for path in paths)
        return (self._node.gateway.approvals.files.version(recipe), *times)
