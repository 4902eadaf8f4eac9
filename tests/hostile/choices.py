"""What a coordinator of a run chooses from: all that is proper, most that was, some that never is."""

from __future__ import annotations

from itertools import combinations
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st

from attacks import FOUR
from hostile import protocol
from hostile.coordinator import Attempt, Coordinator, Opened
from hostile.protocol import Vector
from hostile.world import World
from plasmid.protocol.messages import RelayKind, Signed, Total

T = TypeVar("T")

AGO = st.sampled_from((0, 0, 0, 0, 1, 1, 2, 3, 5, 8, 13))
"""How far back to reach among what was there: mostly not at all."""
SITE = st.sampled_from(FOUR)
SOME = st.sampled_from([part for size in (4, 3, 2, 1) for part in combinations(FOUR, size)])
MOST = st.sampled_from([FOUR, FOUR, *combinations(FOUR, 3)])
MANY = st.sampled_from([FOUR, FOUR, FOUR, FOUR, *combinations(FOUR, 3)])
STATES = ("next", "last", "first", "old", "near", "far")
TOTALS = ("none", "true", "zeros", "forged", "old", "other")
SPOILT = st.sampled_from(("an older one", "one of another run", "one left out", "signed by delta"))


def back(found: list[T], ago: int) -> T:
    """Return the element that is *ago* from the end, or the first."""
    return found[-1 - min(ago, len(found) - 1)]


class Choices:
    """The run at hand, as the coordinator knows it."""

    seen: Coordinator
    world: World
    run: str

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts of the run at hand."""
        return [one for one in self.seen.attempts if one.manifest.run == self.run]

    @property
    def sums(self) -> list[Opened]:
        """The sums of the run at hand."""
        return [one for one in self.seen.sums if one.attempt.manifest.run == self.run]

    @property
    def epochs(self) -> list[int]:
        """The numbers of the key epochs of the run at hand that the coordinator holds; the first always."""
        return sorted(number for run, number in self.seen.epochs if run == self.run)

    def _first(self) -> Vector:
        return np.asarray(self.world.computation.initial(self.world.document, self.world.shape))

    def _state(self, kind: str, ago: int) -> Vector:
        before = [self._first(), *(one.state for one in self.attempts)]
        match kind:
            case "next" if self.sums:
                return self.seen.follows(back(self.sums, ago))
            case "last":
                return before[-1]
            case "old":
                return back(before, ago)
            case "near":
                old = back(before, ago)
                return (old * (1 + 1e-7) + 1e-9).astype(old.dtype)
            case "far":
                return before[-1] + np.asarray(0.37, before[-1].dtype)
            case _:
                return before[0]

    def _total(self, kind: str, state: Vector, ago: int) -> Total | None:
        last = self.sums[-1] if self.sums else None
        if kind == "none":
            return None
        if kind == "true":
            return None if last is None else last.total
        if kind == "old":
            return back(self.sums, ago).total if self.sums else None
        sites = len(last.survivors) if last else len(FOUR)
        before = last.attempt.state if last else self._first()
        values = {
            "zeros": np.zeros(self.world.shape.schema.size),
            "forged": (state.astype(np.float64) - before) * sites,
            "other": last.values if last else before,
        }[kind]
        return self.seen.total(values, sites=sites + (kind == "other"), like=last)

    def _slot(self, epoch: int) -> int:
        used = [one.manifest.slot for one in self.attempts if one.manifest.epoch == epoch]
        return max(used, default=-1) + 1

    def _spoil(self, said: list[Signed], kind: RelayKind, how: str) -> list[Signed]:
        known = self.seen.said[kind]
        if not said:
            return said
        if how == "one left out":
            return said[1:]
        if how == "signed by delta":
            field = {"bundle": "sender"}.get(kind, "site")
            return [*said[1:], protocol.signed_as(said[0], self.world.colluder, **{field: "delta"})]
        other = [one for one in known if (one.payload["run"] != self.run) == (how == "one of another run")]
        mine = [one for one in other if one.signer == said[0].signer]
        return [mine[0], *said[1:]] if mine else said
