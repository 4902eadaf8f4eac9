"""The rounds of a run: a secure sum each, the computation's step, the server's optimiser, the next state.

Rules
-----
1. A state, and the total from which it follows, are published before the manifest that names both; the ones
   before the last are deleted only when their successors are on disk and recorded.
2. After the last round, the sites audit the final state where the document asks for it.
3. A document may say that its run ends early, and which state it then releases
   (:mod:`plasmid.recipes.stopping`): the best one takes the last one's place.
4. The last total is published only where sites are to countersign what came of it: a question's total is for
   those who may receive its answer.
5. A run also ends where no further sum would be agreed to
   (:class:`~plasmid.coordinator.secure_sum.NearState`).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.coordinator.plan import Job
from plasmid.coordinator.secure_sum import NearState, Opened, Phase, State
from plasmid.dp.canary_audit import Audit
from plasmid.dp.rotation import unrotate
from plasmid.link.bodies import Bodies
from plasmid.protocol.body import pack
from plasmid.recipes.beside import advanced
from plasmid.recipes.stopping import Choice, loss_in, stop_of
from plasmid.strategies.server import optimiser_of


class Recorded(Protocol):
    """Where the end of a round is noted."""

    def end_round(self, run: str, round_: int, state: str, /) -> None:
        """Note that *round_* ended with the state of that digest."""


class Surroundings(Protocol):
    """What the rounds need of a run's :class:`~plasmid.coordinator.context.RunContext`."""

    @property
    def run(self) -> str:
        """The run's id."""

    @property
    def bodies(self) -> Bodies:
        """Where states are published."""

    @property
    def runs(self) -> Recorded:
        """Where rounds are recorded."""


class Sums(Protocol):
    """What sums the sites' vectors: :class:`~plasmid.coordinator.secure_sum.SecureSum`, or a simulation's."""

    def total(self, round_: int, state: State, *, phase: Phase = "train") -> Opened:
        """Return the sum of one round. Raises NearState."""


class Rounds:
    """All rounds of one run.

    Attributes
    ----------
    done
        How many rounds there were so far.
    near_state
        Whether the run ended early by :class:`~plasmid.coordinator.secure_sum.NearState`.
    choice
        Of the released state, by what the sites held back; None where the document says nothing about it.
    """

    def __init__(self, context: Surroundings, job: Job, sums: Sums) -> None:
        self._context, self._job, self._sums = context, job, sums
        self._computation = api.load(job.document.computation)
        self._state = State("", 0)
        self._summed: Opened | None = None
        stop = stop_of(job.document)
        self.choice = Choice(stop) if stop else None
        self.done, self.near_state = 0, False

    @property
    def last(self) -> State:
        """The newest state as it was published; after all rounds, the one that is released."""
        return self._state

    def run(self) -> NDArray[Any]:
        """Run every round, until the run is over, and return the state that is released."""
        job, context = self._job, self._context
        server = getattr(job.document.federation, "server", None)
        optimiser = optimiser_of(job.document, job.shape.state) if server else None
        state = best = api.first_state(self._computation, job.document, job.shape, self._given())
        self._publish(state)
        for round_ in range(1, job.document.rounds + 1):
            before, began = self._state, state
            try:
                state = self._round(round_, began)
            except NearState:
                self.near_state = True
                break
            if optimiser:
                state = optimiser.step(round_, began, state)
            best = began if self._is_best() else best
            self.done = round_
            ends = round_ == job.document.rounds or (self.choice is not None and self.choice.over)
            self._publish(state, last=ends)
            context.runs.end_round(context.run, round_, self._state.digest)
            self._forget(before)
            if ends:
                break
        return self._released(best) if self.choice and self.choice.releases_best else state

    def _is_best(self) -> bool:
        """Return whether the state with which the last round began is the best that was judged so far."""
        if self.choice is None or self._summed is None:
            return False
        summed = api.Sum(self._summed.values, len(self._summed.survivors), self.done + 1)
        return self.choice.add(loss_in(summed, self._job.shape))

    def _released(self, best: NDArray[Any]) -> NDArray[Any]:
        """Publish *best* in place of the last state."""
        last = self._state
        self._state = State(self._context.bodies.publish(pack("state", best)), last.size, last.total)
        self._forget(State(last.digest, last.size, last.total))
        return best

    def _given(self) -> bytes | None:
        """Return what the requester gave, where the document names something."""
        named = getattr(self._job.document, "given", None)
        return None if named is None else self._context.bodies.given(named)

    def audit(self) -> Audit:
        """Return the canary audit of the last state, over all sites that are left."""
        document, privacy = self._job.document, self._job.document.privacy
        opened = self._sums.total(document.rounds + 1, self._state, phase="audit")
        stated = privacy.audit.max_audited_epsilon
        return Audit.of_sum(
            opened.values,
            sites=len(opened.survivors),
            canaries=privacy.audit.canaries,
            epsilon=privacy.epsilon if stated is None else stated,
            delta=privacy.delta or 0.0,
        )

    def _publish(self, state: NDArray[Any], *, last: bool = False) -> None:
        bodies, total = self._context.bodies, None
        if self._summed is not None and (not last or api.makes_adapter(self._computation)):
            total = self._summed.publish(bodies)
        body = pack("state", state)
        self._state = State(bodies.publish(body), len(body), total)

    def _forget(self, before: State) -> None:
        """Delete what was published for a state that has a successor, unless it is also the successor's."""
        now, bodies = self._state, self._context.bodies
        kept = {now.digest, now.total.digest if now.total else ""}
        for digest in {before.digest, before.total.digest if before.total else before.digest} - kept:
            bodies.published(digest).unlink(missing_ok=True)

    def _round(self, round_: int, state: NDArray[Any]) -> NDArray[Any]:
        """Return what the computation makes of one secure sum."""
        job = self._job
        self._summed = self._sums.total(round_, self._state)
        total, sites = self._summed.values, len(self._summed.survivors)
        if job.document.privacy.rotation == "hadamard":
            total = unrotate(total, seed=bytes.fromhex(job.digest), length=job.shape.schema.size)
        summed = api.Sum(total, sites, round_)
        return np.asarray(advanced(self._computation, job.document, job.shape, state, summed))
