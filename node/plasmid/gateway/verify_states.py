"""Verify that each public state of a run equals advance(state before, opened sum), and that sum by its tag.

Rules
-----
1. The first state is the computation's own, made again here, or that of the adapter which the document names.
   From then on the site re-runs the pure ``advance`` on the total that comes with the next state, then the
   server's step, and compares (:data:`RELATIVE`, :data:`ABSOLUTE`: what rounding may do between two
   machines, nothing more).
2. A total is verified first: :mod:`plasmid.gateway.totals`.
3. A state or total that does not follow ends this site's part in the run; it is not admitted again.
4. **No unverified step** where sums are masked. A site that missed rounds takes the state that at least theta
   sites of the epoch that made it (all others, where theta is all), and more than c, sign to have verified;
   no other one. Where the server's optimiser remembers the rounds that it missed, it goes on with verified
   totals, and its consents say that it has not verified the state (:mod:`plasmid.secagg.attempt` wants more
   than c that have). So say those of a site that agreed to no sum of the round before, and has the tag alone.
5. Without masks there is no tag, and every vector has its own noise: what a site missed is counted as not
   re-run.
6. Without a privacy unit no sum is agreed to at a state near one that was summed over other sites
   (:mod:`plasmid.secagg.near_states`).
7. Whoever knows all totals also knows when a run that may end early is over, and which state it releases
   (:mod:`plasmid.recipes.stopping`).
8. In memory only. The countersignature says how many steps were re-run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.dp.rotation import unrotate
from plasmid.gateway.totals import Answered, Published, Source, differs, verified
from plasmid.protocol.body import Body, body_bytes, unpack
from plasmid.protocol.messages import Start, Total
from plasmid.recipes.beside import advanced
from plasmid.recipes.stopping import Choice, loss_in, stop_of
from plasmid.release.attestation import Result
from plasmid.release.server_step import ByPart, rule_of
from plasmid.secagg.near_states import Summed
from plasmid.secagg.ring import decode_sum
from plasmid.secagg.samples import Shown
from plasmid.secagg.statements import Verified

RELATIVE = 1e-5
ABSOLUTE = 1e-6
"""In units of the largest value of the state."""


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
    verified
        Whether the newest state was verified here, or signed by enough sites that have.
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
        self._own = False
        self._awaited: Start | None = None
        self._vouched: tuple[int, str] | None = None
        self._summed = Summed()
        self._masked = document.privacy.protect == "masked"
        self.verified = self.complete = False
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

    def begin(self, start: Start | None, source: Source) -> None:
        """Take the state with which a key epoch begins, or wait for :meth:`follow` where rounds were missed.

        Raises
        ------
        ProtocolError
            ``protocol.manifest``: after the first round no state is named; as :meth:`take`.
        """
        self._awaited = None
        if start is None:
            if self._masked and self._at is not None and self.answered:
                raise ProtocolError("protocol.manifest", "the epoch names no state to begin with.")
        elif start.round == 1 or not self._masked or self._follows(start):
            self.take(start, source)
        else:
            self._awaited = start

    def _follows(self, start: Start) -> bool:
        """Return whether *start* is the state at hand, or the total before it was for this site's answer."""
        at = self._at
        return at is not None and (at[0] == start.round or start.round - 1 in self.answered)

    @property
    def statement(self) -> Verified | None:
        """The newest state, if this site has verified it by a re-run; None in round 1, which all verify."""
        if self._at is None or not self._own or self._at[0] - 1 not in self.answered:
            return None
        return Verified(round=self._at[0], state=self._at[1], needs=self.answered[self._at[0] - 1].needs)

    def follow(self, statements: Iterable[Verified | None], *, c: int) -> None:
        """Take on the state that was waited for if enough sites, one each of *statements*, have verified it.

        Raises
        ------
        ProtocolError
            ``protocol.unverified``.
        """
        start, self._awaited = self._awaited, None
        if start is None:
            return
        said = Counter(
            one.needs for one in statements if one and (one.round, one.state) == (start.round, start.state)
        )
        if not any(count >= max(needs, c + 1) for needs, count in said.items()):
            raise _unverified(start.round, f"{said.total()} sites say that they have verified it")
        self._vouched = (start.round, start.state)

    def take(self, start: Start, source: Source) -> NDArray[Any]:
        """Fetch the state *start*, with the total from which it follows, and :meth:`adopt` it."""
        if self._at is not None and self._at[:2] == (start.round, start.state):
            return self._at[2]
        before = None if start.total is None else self.published(start.round, start.total, source)
        body = source.download(start.state, start.state_bytes)
        state = self.adopt(start.round, start.state, body, before)
        if self._choice is not None and self._choice.over:
            raise differs(start.round, f"the run was over after {len(self._choice.losses)} rounds")
        return state

    def published(self, round_: int, total: Total, source: Source) -> Published | None:
        """Fetch a *total* from which the state of *round_* shall follow; None if this site can't verify it.

        Raises
        ------
        ProtocolError
            ``protocol.step``: it is not the sum of the round before; ``protocol.body``.
        """
        answered = self.answered.get(round_ - 1)
        if answered is None:
            return None
        words = verified(round_, answered, total, source)
        try:
            values = decode_sum(words, answered.encoding, len(total.survivors))
        except ProtocolError as error:
            raise differs(round_, "a total that so many sites cannot have") from error
        if self._document.privacy.rotation == "hadamard":
            values = unrotate(values, seed=bytes.fromhex(self._digest), length=self._shape.schema.size)
        return Published(values, len(total.survivors), answered.is_sampled)

    def check_near(self, round_: int, survivors: Iterable[str]) -> None:
        """Refuse, without a privacy unit, a sum over *survivors* at a state that others have summed.

        Raises
        ------
        ProtocolError
            ``protocol.near_state``.
        """
        if self._document.privacy.unit == "none" and self._summed.is_near(self.last, survivors):
            raise ProtocolError(
                "protocol.near_state",
                f"the state of round {round_} is nearly one that was summed over other sites: the two sums "
                "would tell the update of a site.",
                "The run ends with its last state. A privacy unit allows more rounds.",
            )

    def consented(self, round_: int, survivors: dict[str, Shown]) -> None:
        """Note that this site agrees to the sum of *round_* over *survivors*, in order, as shown."""
        self._summed.add(self.last, survivors)
        self.answered[round_] = replace(self.answered[round_], survivors=survivors)

    def adopt(self, round_: int, digest: str, body: Body, before: Published | None) -> NDArray[Any]:
        """Take the state of *round_*, whose *body* has *digest*; return it [n], read-only.

        Parameters
        ----------
        before
            The sum of the round before; None where this site cannot verify it.

        Raises
        ------
        ProtocolError
            ``protocol.step``: it does not follow; ``protocol.unverified``: this site cannot verify it, and
            not enough others say that they have; ``protocol.body``.
        """
        size, dtype = self._shape.state.size, self._shape.dtype
        state = unpack(body, "state", length=size, dtype=dtype)
        if self._at is not None and self._at[0] == round_:
            if self._at[1] != digest:
                raise differs(round_, "another state than in the attempt before")
            return state
        if self._at is None:
            self.complete = round_ == 1
        rerun = before is not None and self._can_rerun(round_)
        vouched = self._vouched == (round_, digest)
        if round_ == 1:
            self._check_first(state)
        elif before is not None and rerun:
            self._judge(round_ - 1, before)
            self._compare(round_, self._step(round_ - 1, before), state)
            self.rerun += before.sampled
        elif self._masked and not vouched and before is None:
            raise _unverified(round_, "this site missed the round before")
        else:
            self._missed = True
        self._own = round_ == 1 or (before is not None and rerun and before.sampled)
        self.verified = self._own or vouched
        self._at = (round_, digest, state)
        return state

    def conclude(self, result: Result, source: Source) -> NDArray[Any]:
        """Return the released state [n] of a run whose *result* is stated.

        Raises
        ------
        ProtocolError
            ``protocol.step``: it does not follow, or is another than the losses choose; ``protocol.body``.
        """
        total = self.published(result.rounds + 1, result.total, source)
        body = source.download(result.state, self.state_bytes)
        if self._stop is None or self._stop.release == "last":
            state = self.adopt(result.rounds + 1, result.state, body, total)
            known = not self._missed
        else:
            state = unpack(body, "state", length=self._shape.state.size, dtype=self._shape.dtype)
            known = not self._missed and total is not None and self._can_rerun(result.rounds + 1)
            if total is not None and known:
                self._judge(result.rounds, total)
                self.rerun += total.sampled
        if self._choice is not None and known:
            self._check_choice(result, self._choice)
        return state

    def _check_choice(self, result: Result, choice: Choice) -> None:
        """Refuse another end, or another state, than the losses of all rounds choose."""
        said = result.held_back
        if said is None or said.model_dump() != choice.as_json():
            raise differs(result.rounds + 1, "other losses of held back rows, or another choice")
        may_end = choice.over or result.near_state
        if not may_end and result.rounds < self._document.rounds:
            raise differs(result.rounds + 1, f"the run had no reason to end after {result.rounds} rounds")
        if said.release == "best" and (self._best is None or self._best[0] != result.state):
            raise differs(result.rounds + 1, "another state than that of the lowest loss")

    def _judge(self, round_: int, total: Published) -> None:
        """Note the loss of the state with which *round_* began, which is the one at hand."""
        if self._choice is None or self._missed:
            return
        assert self._at is not None, "there was a state before"
        if self._choice.add(loss_in(api.Sum(total.values, total.sites, round_), self._shape)):
            self._best = self._at[1:]

    def _check_first(self, state: NDArray[Any]) -> None:
        if not hasattr(self._computation, "begins"):
            self._compare(1, self._computation.initial(self._document, self._shape), state)
        elif not self._computation.begins(self._document, self._shape, state):
            raise differs(1, "another adapter than the document names")

    def _can_rerun(self, round_: int) -> bool:
        if self._at is None or self._at[0] != round_ - 1 or (self._has_server and self._server is None):
            return False
        return not (self._missed and self._remembers)

    def _step(self, round_: int, before: Published) -> NDArray[Any]:
        assert self._at is not None, "there was a state before"
        state, document = self._at[2], self._document
        summed = api.Sum(before.values, before.sites, round_)
        averaged = advanced(self._computation, document, self._shape, state, summed)
        return averaged if self._server is None else self._server.step(round_, state, averaged)

    def _compare(self, round_: int, own: NDArray[Any], stated: NDArray[Any]) -> None:
        largest = float(np.abs(own).max(initial=0.0))
        if not np.allclose(stated, own, rtol=RELATIVE, atol=ABSOLUTE * largest):
            off = float(np.abs(stated.astype(np.float64) - own).max())
            raise differs(round_, f"off by up to {off:.3g}")


def _unverified(round_: int, why: str) -> ProtocolError:
    return ProtocolError(
        "protocol.unverified",
        f"the state of round {round_} cannot be verified here: {why}.",
        "This site takes part again once enough sites that were there have verified a state.",
    )
