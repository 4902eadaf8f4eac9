"""What a coordinator of a run chooses from: all that is proper, most that was, some that never is."""

from __future__ import annotations

from base64 import b64encode
from itertools import combinations
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st

from hostile import protocol
from hostile.answering import ANSWERS
from hostile.coordinator import Coordinator
from hostile.opening import Attempt, Opened, Told, follows, forged, published, start, tagged
from hostile.protocol import Vector
from hostile.world import COLLUDER, World
from plasmid.protocol.messages import RelayKind, Signed, Start, Total, wire
from plasmid.secagg.ring import TAIL
from support.federation.attacks import FOUR

T = TypeVar("T")

AGO = st.sampled_from((0, 0, 0, 0, 1, 1, 2, 3, 5, 8, 13))
"""How far back to reach among what was there: mostly not at all."""
SITE = st.sampled_from(FOUR)
SOME = st.sampled_from([part for size in (4, 3, 2, 1) for part in combinations(FOUR, size)])
MOST = st.sampled_from([FOUR, FOUR, *combinations(FOUR, 3)])
MANY = st.sampled_from([FOUR, FOUR, FOUR, FOUR, *combinations(FOUR, 3)])
STATES = ("next", "told", "told", "last", "first", "old", "near", "far")
LIES = ("zeros", "k times", "a word", "other sites", "fits")
TOTALS = ("true", "true", "true", "true", "none", "old", *LIES)
"""A site whose coordinator lies takes no further part in the run: too many lies leave little to try."""
TAGS = st.sampled_from(("right", "right", "copied"))
"""By the group's key, or what was at hand: the tag of the true total, or made of it without the key."""
ANSWERING = st.sampled_from(("true", "true", "fits", *ANSWERS))
WISHED = ("near", "far", "first")
BEGINS = st.sampled_from(("next", "next", "next", "none", "first", "zeros", "old", "no total"))
SPOILT = st.sampled_from(
    (
        "an older one",
        "one of another run",
        "one left out",
        "signed by delta",
        "reminding falsely",
        "another commitment",
    )
)


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

    @property
    def _round(self) -> int:
        """The round that comes next: after the last that was summed, if there is one."""
        summed = max((one.attempt.manifest.round for one in self.sums), default=0)
        return min(summed + 1, self.world.document.rounds)

    def _state(self, kind: str, ago: int, told: Told | None) -> Vector:
        before = [self._first(), *(one.state for one in self.attempts)]
        match kind:
            case "next" if self.sums:
                return self.seen.follows(back(self.sums, ago))
            case "told" if self.sums:
                return self.seen.follows(self.sums[-1], told)
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

    def _claim(
        self, state: str, total: str, ago: int = 0, *, tag: str = "copied"
    ) -> tuple[Vector, Total | None]:
        """Return a state, and the total from which the coordinator says it follows."""
        if not self.sums:
            return self._state(state, ago, None), None
        last = self.sums[-1]
        base, encoding = last.attempt.state, last.attempt.manifest.encoding()
        told = back(self.sums, ago).told if total == "old" else last.told
        if total in LIES and total != "fits":
            told = forged(total, told, gain=base, encoding=encoding)
        chosen = self._state(state, ago, told)
        if total == "fits":
            told = forged(total, told, gain=chosen - base, encoding=encoding)
        if tag == "right" and total in (*LIES, "old"):
            told = self._tagged(told, last.attempt)
        self.world.answering.claimed[last.attempt.digest] = told.words
        return chosen, None if total == "none" else published(self.world, told)

    def _tagged(self, told: Told, attempt: Attempt) -> Told:
        key = self.seen.keys.get(attempt.manifest.rho or "")
        return tagged(told, key, attempt) if key else told

    def _made_up(self, attempt: Attempt, wished: str) -> tuple[Vector, Total]:
        """Return a state after *attempt*, which was never opened, and a total that fits, with its tag."""
        about, encoding = attempt.manifest, attempt.manifest.encoding()
        words = np.zeros(encoding.length + TAIL, encoding.dtype)
        survivors = tuple(site for site in about.invited if site in attempt.bodies)
        gain = self._state(wished, 0, None) - attempt.state
        told = forged("fits", Told(words, survivors, bytes(8)), gain=gain, encoding=encoding)
        state = follows(self.world, told, before=attempt.state, round_=about.round, encoding=encoding)
        return state, published(self.world, self._tagged(told, attempt))

    def _begins(self, kind: str, ago: int = 0) -> Start | None:
        """Return the state with which an epoch begins; an honest one for "next", while nothing was broken."""
        if kind == "none" or not (self.attempts or self.sums):
            return None
        state, total = {
            "zeros": ("told", "zeros"),
            "old": ("old", "old"),
            "no total": ("next", "none"),
            "first": ("first", "true"),
        }.get(kind, ("next", "true"))
        chosen, said = self._claim(state, total, ago)
        if self._round == 1:
            chosen, said = self._first(), None
        return start(self.world, self._round, chosen, said)

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
            return [*said[1:], protocol.signed_as(said[0], self.world.colluder)]
        if how == "reminding falsely":
            return [self._reminding(one) if one.signer == COLLUDER else one for one in said]
        if how == "another commitment" and kind == "advert":
            return [self._committing(one) if one.signer == COLLUDER else one for one in said]
        other = [one for one in known if (one.payload["run"] != self.run) == (how == "one of another run")]
        mine = [one for one in other if one.signer == said[0].signer]
        return [mine[0], *said[1:]] if mine else said

    def _reminding(self, said: Signed) -> Signed:
        """Return a bundle of the colluder that reminds its receiver of the newest words of anyone."""
        words = [
            wire(one).decode() for kind in ("contribution", "consent") for one in self.seen.said[kind][-1:]
        ]
        if said.payload["type"] != "bundle":
            return said
        return protocol.signed_as(said, self.world.colluder, heard=words)

    def _committing(self, advert: Signed) -> Signed:
        """Return an advert of the colluder that commits to another part of the group's key than it deals."""
        return protocol.signed_as(advert, self.world.colluder, group_commitment=b64encode(bytes(32)).decode())
