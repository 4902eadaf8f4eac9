"""What a site makes of the public states of a run: each must follow from the one before and its total.

Rules
-----
1. The first state is the computation's own, made again here, or that of the adapter which the document names.
   From then on the site re-runs the pure ``advance`` on the total that the next manifest carries, then the
   server's step, and compares (:data:`RELATIVE`, :data:`ABSOLUTE`: what rounding may do between two
   machines, nothing more).
2. A state that does not follow ends this site's part in the run; it is not admitted again.
3. What cannot be re-run is not held against anybody, and counted as not re-run: a server's optimiser without
   a rule here, a total that was not published, rounds that this site missed or a restart made it forget.
   Whoever knows all totals also knows when a run that may end early is over, and which state it releases
   (:mod:`plasmid.recipes.stopping`).
4. In memory only. Nothing here leaves; the countersignature says how many steps were re-run.
*Claim*: nobody proves that the totals are honest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.privacy.rotation import padded_length, unrotate
from plasmid.protocol.attestation import Result
from plasmid.protocol.body import Body, body_bytes, unpack
from plasmid.protocol.messages import Manifest, Total
from plasmid.protocol.server_step import ByPart, rule_of
from plasmid.recipes.beside import advanced
from plasmid.recipes.stopping import Choice, loss_in, stop_of

RELATIVE = 1e-5
ABSOLUTE = 1e-6
"""In units of the largest value of the state."""
TOTAL_DTYPE = np.dtype("<f8")


Fetch = Callable[[str, int], Body]
"""Returns the published body of a digest and a size."""


@dataclass(frozen=True)
class Published:
    """A sum as the coordinator publishes it: its body, and over how many sites it is."""

    body: Body
    sites: int


@dataclass(frozen=True)
class Answered:
    """A round to which this site contributed: the digests of manifest and state, and m - c."""

    manifest: str
    state: str
    honest: int


class Following:
    """One run. See the module's rules.

    Attributes
    ----------
    answered
        By round; of several attempts the last one.
    attempts
        Attempts at training rounds that this site answered.
    rerun
        How many steps were re-run.
    complete
        Whether this began with the run's first round: no restart has made it forget one.
    """

    def __init__(self, document: Any, digest: str, shape: api.Shape) -> None:
        self._document, self._digest, self._shape = document, digest, shape
        self._computation = api.load(document.computation)
        federation = getattr(document, "federation", None)
        server = getattr(federation, "server", None)
        self._has_server = server is not None
        rule = None if server is None else rule_of(document, shape.state)
        self._server: ByPart | None = rule[0] if rule else None
        self._remembers = rule is not None and rule[1]
        self._stop = stop_of(document)
        self._choice = Choice(self._stop) if self._stop else None
        self._best: tuple[str, NDArray[Any]] | None = None
        self._at: tuple[int, str, NDArray[Any]] | None = None
        self._missed = False
        self.complete = False
        self.answered: dict[int, Answered] = {}
        self.attempts = 0
        self.rerun = 0

    @property
    def state_bytes(self) -> int:
        """The size of a body with a state."""
        return body_bytes("state", self._shape.state.size, self._shape.dtype)

    @property
    def last(self) -> NDArray[Any]:
        """The newest state, read-only."""
        assert self._at is not None, "there was a state"
        return self._at[2]

    @property
    def _total_length(self) -> int:
        size = self._shape.schema.size
        return padded_length(size) if self._document.privacy.rotation == "hadamard" else size

    def take(self, manifest: Manifest, fetch: Fetch) -> NDArray[Any]:
        """Fetch the state that *manifest* names, with the total that it carries, and :meth:`adopt` it."""
        before = None
        if manifest.total is not None:
            before = self.published(manifest.round, manifest.total, fetch)
        body = fetch(manifest.state, manifest.state_bytes)
        state = self.adopt(manifest.round, manifest.state, body, before)
        if self._choice is not None and self._choice.over:
            raise _differs(manifest.round, f"the run was over after {len(self._choice.losses)} rounds")
        return state

    def published(self, round_: int, total: Total, fetch: Fetch) -> Published:
        """Fetch a *total* from which the state of *round_* shall follow. Raises as :meth:`adopt`."""
        if total.size != body_bytes("total", self._total_length, TOTAL_DTYPE):
            raise _differs(round_, f"a total of {total.size} bytes")
        return Published(fetch(total.digest, total.size), total.sites)

    def adopt(self, round_: int, digest: str, body: Body, before: Published | None) -> NDArray[Any]:
        """Take the state of *round_*, whose *body* has *digest*; return it [n], read-only.

        Parameters
        ----------
        before
            The sum of the round before; None where it was not published.

        Raises
        ------
        ProtocolError
            ``protocol.step``: it does not follow; ``protocol.body``.
        """
        size, dtype = self._shape.state.size, self._shape.dtype
        state = unpack(body, "state", length=size, dtype=dtype)
        if self._at is not None and self._at[0] == round_:
            if self._at[1] != digest:
                raise _differs(round_, "another state than in the attempt before")
            return state
        if self._at is None:
            self.complete = round_ == 1
        if round_ == 1:
            self._check_first(state)
        elif before is not None and self._can_rerun(round_):
            self._judge(round_ - 1, before)
            self._compare(round_, self._step(round_ - 1, before), state)
            self.rerun += 1
        else:
            self._missed = True
        self._at = (round_, digest, state)
        return state

    def conclude(self, result: Result, fetch: Fetch) -> NDArray[Any]:
        """Return the released state [n] of a run whose *result* is stated.

        Raises
        ------
        ProtocolError
            ``protocol.step``: it does not follow, or is another than the losses choose; ``protocol.body``.
        """
        total = self.published(result.rounds + 1, result.total, fetch)
        body = fetch(result.state, self.state_bytes)
        if self._stop is None or self._stop.release == "last":
            state = self.adopt(result.rounds + 1, result.state, body, total)
            known = not self._missed
        else:
            state = unpack(body, "state", length=self._shape.state.size, dtype=self._shape.dtype)
            known = not self._missed and self._can_rerun(result.rounds + 1)
            if known:
                self._judge(result.rounds, total)
                self.rerun += 1
        if self._choice is not None and known:
            self._check_choice(result, self._choice)
        return state

    def _check_choice(self, result: Result, choice: Choice) -> None:
        """Refuse another end, or another state, than the losses of all rounds choose."""
        said = result.held_back
        if said is None or said.model_dump() != choice.as_json():
            raise _differs(result.rounds + 1, "other losses of held back rows, or another choice")
        if not choice.over and result.rounds < self._document.rounds:
            raise _differs(result.rounds + 1, f"the run had no reason to end after {result.rounds} rounds")
        if said.release == "best" and (self._best is None or self._best[0] != result.state):
            raise _differs(result.rounds + 1, "another state than that of the lowest loss")

    def _judge(self, round_: int, total: Published) -> None:
        """Note the loss of the state with which *round_* began, which is the one at hand."""
        if self._choice is None or self._missed:
            return
        assert self._at is not None, "there was a state before"
        if self._choice.add(loss_in(api.Sum(self._values(total), total.sites, round_), self._shape)):
            self._best = self._at[1:]

    def _values(self, before: Published) -> NDArray[Any]:
        """Return the numbers of a total, [length of a vector]."""
        total = unpack(before.body, "total", length=self._total_length, dtype=TOTAL_DTYPE)
        if self._document.privacy.rotation == "hadamard":
            total = unrotate(total, seed=bytes.fromhex(self._digest), length=self._shape.schema.size)
        return total

    def _check_first(self, state: NDArray[Any]) -> None:
        if not hasattr(self._computation, "begins"):
            self._compare(1, self._computation.initial(self._document, self._shape), state)
        elif not self._computation.begins(self._document, self._shape, state):
            raise _differs(1, "another adapter than the document names")

    def _can_rerun(self, round_: int) -> bool:
        if self._at is None or self._at[0] != round_ - 1 or (self._has_server and self._server is None):
            return False
        return not (self._missed and self._remembers)

    def _step(self, round_: int, before: Published) -> NDArray[Any]:
        assert self._at is not None, "there was a state before"
        if before.sites < 1:
            raise _differs(round_ + 1, "a sum over no site")
        state, document = self._at[2], self._document
        summed = api.Sum(self._values(before), before.sites, round_)
        averaged = advanced(self._computation, document, self._shape, state, summed)
        return averaged if self._server is None else self._server.step(round_, state, averaged)

    def _compare(self, round_: int, own: NDArray[Any], stated: NDArray[Any]) -> None:
        largest = float(np.abs(own).max(initial=0.0))
        if not np.allclose(stated, own, rtol=RELATIVE, atol=ABSOLUTE * largest):
            off = float(np.abs(stated.astype(np.float64) - own).max())
            raise _differs(round_, f"off by up to {off:.3g}")


def _differs(round_: int, how: str) -> ProtocolError:
    return ProtocolError(
        "protocol.step",
        f"the state of round {round_} does not follow from the published totals: {how}.",
        "The coordinator does not do what the recipe says, or runs another release. Ask its operator.",
    )
