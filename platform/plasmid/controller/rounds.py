"""The rounds of a run: a secure sum each, the computation's step, the server's optimiser, the next state.

Rules
-----
1. A state, and the total from which it follows, are published before the manifest that names both; the ones
   before the last are deleted only when their successors are on disk and recorded.
2. After the last round, the sites audit the final state where the document asks for it.
3. The last total is published only where sites are to countersign what came of it: a question's total is for
   those who may receive its answer.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.controller.plan import Job
from plasmid.controller.secure_sum import Phase, State
from plasmid.federation.server import ServerOptimiser, build_strategy
from plasmid.link.bodies import Bodies
from plasmid.privacy.audit import Audit
from plasmid.privacy.rotation import unrotate
from plasmid.protocol.body import pack
from plasmid.protocol.messages import Total


class Recorded(Protocol):
    """Where the end of a round is noted."""

    def end_round(self, run: str, round_: int, state: str, /) -> None:
        """Note that *round_* ended with the state of that digest."""


class Surroundings(Protocol):
    """What the rounds need of a run's :class:`~plasmid.controller.context.RunContext`."""

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
    """What sums the sites' vectors: :class:`~plasmid.controller.secure_sum.SecureSum`, or a simulation's."""

    def total(self, round_: int, state: State, *, phase: Phase = "train") -> tuple[NDArray[np.float64], int]:
        """Return the decoded sum of one round, float64 [length], and over how many sites it is."""


class Rounds:
    """All rounds of one run."""

    def __init__(self, context: Surroundings, job: Job, sums: Sums) -> None:
        self._context, self._job, self._sums = context, job, sums
        self._computation = api.load(job.document.computation)
        self._state = State("", 0)
        self._summed: tuple[NDArray[Any], int] | None = None

    @property
    def last(self) -> State:
        """The newest state, as it was published."""
        return self._state

    def run(self) -> NDArray[Any]:
        """Run every round and return the last state."""
        job, context = self._job, self._context
        server = getattr(job.document.federation, "server", None)
        optimiser = server and ServerOptimiser(
            build_strategy(server.strategy, server.options), job.shape.state
        )
        state = api.first_state(self._computation, job.document, job.shape, self._given())
        self._publish(state)
        for round_ in range(1, job.document.rounds + 1):
            before = self._state
            if optimiser:
                state = optimiser.step(round_, state, self._secure_mean(round_))
            else:
                state = self._round(round_, state)
            self._publish(state, last=round_ == job.document.rounds)
            context.runs.end_round(context.run, round_, self._state.digest)
            self._forget(before)
        return state

    def _given(self) -> bytes | None:
        """Return what the requester gave, where the document names something."""
        named = getattr(self._job.document, "given", None)
        return None if named is None else self._context.bodies.given(named)

    def audit(self) -> Audit:
        """Return the canary audit of the last state, over all sites that are left."""
        document, privacy = self._job.document, self._job.document.privacy
        total, sites = self._sums.total(document.rounds + 1, self._state, phase="audit")
        stated = privacy.audit.max_audited_epsilon
        return Audit.of_sum(
            total,
            sites=sites,
            canaries=privacy.audit.canaries,
            epsilon=privacy.epsilon if stated is None else stated,
            delta=privacy.delta or 0.0,
        )

    def _secure_mean(self, round_: int) -> Any:
        schema = self._job.shape.state

        def secure(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return dict(schema.unflatten(self._round(round_, schema.flatten(arrays))))

        return secure

    def _publish(self, state: NDArray[Any], *, last: bool = False) -> None:
        bodies, total = self._context.bodies, None
        if self._summed is not None and (not last or api.makes_adapter(self._computation)):
            summed, sites = self._summed
            body = pack("total", np.asarray(summed, np.float64))
            total = Total(digest=bodies.publish(body), size=len(body), sites=sites)
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
        total, sites = self._summed = self._sums.total(round_, self._state)
        if job.document.privacy.rotation == "hadamard":
            total = unrotate(total, seed=bytes.fromhex(job.digest), length=job.shape.schema.size)
        return np.asarray(
            self._computation.advance(job.document, job.shape, state, api.Sum(total, sites, round_))
        )
