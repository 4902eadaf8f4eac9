"""The node's part in cosigning audit logs: one thread, so that nothing else waits for it.

Rules
-----
1. The site asks its confirmed peers when the coordinator, found or started anew, has answered its first poll
   (what peers answer is not kept for one that does not poll), and whenever a run has ended.
2. A peer that asks and has not cosigned this site's newest checkpoint is asked in turn: one that has not
   answered the last time (it was not there, perhaps) at once; others at most once in ``RETURN_S``, as each
   cosignature is an entry in the cosigner's log, so two sites could go on for ever.
3. Whatever goes wrong here is logged and said at home, and ends nothing but this exchange. A log that was
   rolled back lets nothing leave: that is the audit log's to see to.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from pydantic import BaseModel

from plasmid.core.errors import PlasmidError
from plasmid.core.files import storage_error
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.members.cosigning import Cosigning
from plasmid.gateway.pause import paused
from plasmid.protocol.messages import LogCheckpoint, LogCosignature, Signed

log = logging.getLogger(__name__)
RETURN_S = 600.0
KINDS = ("log_checkpoint", "log_cosignature")
"""The types of messages that are for this thread."""

Post = Callable[[BaseModel], PlasmidError | None]
"""Signs a message and sends it to the coordinator; returns why it could not be sent."""


class Witness(threading.Thread):
    """See the module's rules; start it once."""

    def __init__(self, gateway: Gateway, post: Post) -> None:
        super().__init__(name="witness", daemon=True)
        self._gateway, self._post = gateway, post
        self._cosigning = Cosigning(gateway.home, gateway.identity, gateway.audit)
        self._inbox: queue.SimpleQueue[Signed | None] = queue.SimpleQueue()
        self._asked: dict[str, float] = {}
        self._unanswered: set[str] = set()
        self._ended = threading.Event()

    def end(self) -> None:
        """End the thread after what it is at."""
        self._ended.set()
        self._inbox.put(None)

    def ask(self) -> None:
        """Have the peers cosign the newest checkpoint."""
        self._inbox.put(None)

    def take(self, signed: Signed) -> None:
        """Take what a peer says."""
        self._inbox.put(signed)

    def run(self) -> None:
        """Ask and answer until :meth:`end`."""
        while True:
            signed = self._inbox.get()
            if self._ended.is_set():
                return
            try:
                if paused(self._gateway.home) is None:
                    self.step(signed)
            except PlasmidError as error:
                self._refused(signed, error)
            except OSError as error:
                self._refused(signed, storage_error(error, self._gateway.home.audit))

    def step(self, signed: Signed | None) -> None:
        """Ask the peers, or take one message and say what there is to say."""
        if signed is None:
            for offer in self._cosigning.offers():
                self._offer(offer)
            return
        said = self._cosigning.open(signed)
        if isinstance(said, LogCosignature):
            self._unanswered.discard(said.site)
            again = self._cosigning.take(said)
            if again is not None:
                self._post(again)
            return
        answer, problem = self._cosigning.answer(said)
        if problem is not None:
            log.error("%s", problem)
        self._post(answer)
        self._return(said)

    def _return(self, said: LogCheckpoint) -> None:
        lately = time.monotonic() - self._asked.get(said.site, -RETURN_S) < RETURN_S
        if lately and said.site not in self._unanswered:
            return
        for offer in self._cosigning.offers(to=said.site):
            self._offer(offer)

    def _offer(self, offer: LogCheckpoint) -> None:
        self._asked[offer.receiver] = time.monotonic()
        self._unanswered.add(offer.receiver)
        self._post(offer)

    def _refused(self, signed: Signed | None, error: PlasmidError) -> None:
        log.error("cosigning: %s", error)
        try:
            self._gateway.audit.write(
                "cosigned",
                actor="gateway" if signed is None else "coordinator",
                rule=error.code,
                reason=error.message,
                result="failed",
            )
        except PlasmidError:  # said above; the log says nothing any more
            return
