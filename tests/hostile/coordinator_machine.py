"""A hostile coordinator as a state machine: hypothesis chooses its schedule, invariants hold after each step.

Each rule is a move of :class:`hostile.coordinator.Coordinator`. Most choose among what an honest coordinator
would send, what it sent before, and what it never would.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hostile import protocol
from hostile.choices import (
    AGO,
    ANSWERING,
    BEGINS,
    LIES,
    MANY,
    MOST,
    SITE,
    SOME,
    SPOILT,
    STATES,
    TAGS,
    TOTALS,
    WISHED,
    back,
)
from hostile.coordinator import SET_UP, Coordinator
from hostile.invariants import INVARIANTS
from hostile.moves import Moves
from hostile.stage import stage
from hostile.world import COLLUDER
from plasmid.protocol.messages import RelayKind
from support.federation.attacks import FOUR


class CoordinatorMachine(Moves, RuleBasedStateMachine):
    """See the module's docstring.

    Attributes
    ----------
    unit
        Whether the runs promise differential privacy.
    settles
        Whether the states of a run come near each other, as those of a model that is as good as trained; then
        fewer rules end a run with a lie.
    without
        The defence that is off, for a control.
    unchecked
        Invariants that are not looked at.
    counts
        Over all schedules: steps, schedules, invariants checked, opened sums, refusals by code ...
    """

    unit: ClassVar[bool] = False
    settles: ClassVar[bool] = False
    without: ClassVar[str] = ""
    unchecked: ClassVar[frozenset[str]] = frozenset()
    counts: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self._playing = ExitStack()
        self.seen: Coordinator = stage(unit=self.unit).copied()
        self.world = self.seen.world
        self.world.reset()
        self.world.settles = self.settles
        self._playing.enter_context(self.world.playing(without=self.without))
        self.run, self.begun, self.broken = next(iter(self.seen.runs)), 1, set[str]()
        self._before = Counter(self.world.refused)
        self._checked = [one for one in INVARIANTS if one.__name__ not in self.unchecked]
        self.counts["schedules"] += 1

    def teardown(self) -> None:
        """Count, and put back what was patched."""
        self._playing.close()
        self.counts["opened sums"] += len(self.seen.sums)
        self.counts["schedules with an opened sum"] += bool(self.seen.sums)
        self.counts["messages"] += len(self.seen.messages)
        self.counts["states taken"] += len(self.world.taken)
        self.counts.update(self.world.refused - self._before)

    # -- moves -------------------------------------------------------------------------------------

    @initialize(rounds=st.sampled_from((0, 1, 1, 2, 3)), survivors=MANY)
    def begin(self, rounds: int, survivors: tuple[str, ...]) -> None:
        """Most schedules begin with a sum, since an attack needs one to compare with."""
        for _ in range(rounds):
            self._next_round("next", "true", survivors, FOUR)

    @rule(site=SITE, how=st.sampled_from(("restart", "restart", "forget", "forget", "all restart")))
    def lose(self, site: str, how: str) -> None:
        if how == "forget":
            self.world.forget(site, self.run)
        else:
            for lost in FOUR if how == "all restart" else [site]:
                self.world.restart(lost)
        self.broken.add(self.run)

    @rule(lost=st.sampled_from(((), ("alpha",), FOUR)))
    def ask_twice(self, lost: tuple[str, ...]) -> None:
        """A slot is masked, sites restart, and all are asked for it again, in the same key epoch."""
        self._repair()
        made = self._ask("next", "true", FOUR)
        for site in lost:
            self.world.restart(site)
            self.broken.add(self.run)
        self._ask_again(made)

    @rule(
        roster=MOST,
        further=st.sampled_from((1, 1, 0, -1)),
        c=st.sampled_from((1, 1, 1, 2, 0)),
        turns=st.sampled_from((False, False, True)),
        begins=BEGINS,
        needs=st.sampled_from((3, 3, 2, 1)),
    )
    def key_epoch(
        self, roster: tuple[str, ...], further: int, c: int, turns: bool, begins: str, needs: int
    ) -> None:
        if turns:
            self._turn()
        self.begun += further > 0
        number = max(1, self.begun + min(0, further))
        self.seen.key_epoch(self.run, number, roster, c, begins=self._begins(begins), needs=needs)

    @rule(where=st.sampled_from(SET_UP), how=SPOILT, at=SOME)
    def spoil_a_key_epoch(self, where: RelayKind, how: str, at: tuple[str, ...]) -> None:
        self.begun += 1
        for site in FOUR:
            self.seen.epoch(site, self.run, self.begun, FOUR, 1, self._begins("next"))
        for kind in SET_UP:
            for site in FOUR:
                said = self.seen.newest(kind, self.run, self.begun, to=site)
                if kind == where and site in at:
                    said = self._spoil(said, kind, how)
                self.seen.relay(site, kind, said, run=self.run, epoch=self.begun)
        self.seen.hold(self.run, self.begun)
        self.broken.add(self.run)

    @rule(
        round_=st.sampled_from(("next", "next", "next", "same", "old", "beyond")),
        state=st.sampled_from(STATES),
        total=st.sampled_from(TOTALS),
        invited=MANY,
        sites=MANY,
        slot=st.sampled_from(("next", "next", "next", "next", "skipping one", "last", "first")),
        ago=AGO,
        careful=st.sampled_from((True, True, True, False)),
        tag=TAGS,
        answers=ANSWERING,
    )
    def attempt(
        self,
        round_: str,
        state: str,
        total: str,
        invited: tuple[str, ...],
        sites: tuple[str, ...],
        slot: str,
        ago: int,
        careful: bool,
        tag: str,
        answers: str,
    ) -> None:
        self.world.answering.how = answers if total in (*LIES, "old") else "true"
        if careful:
            self._repair()
        summed = max((one.attempt.manifest.round for one in self.sums), default=0)
        rounds = {"next": summed + 1, "same": max(1, summed), "old": 1, "beyond": summed + 2}
        epoch = back(self.epochs, 0 if careful else ago)
        (chosen, said), new = self._claim(state, total, ago, tag=tag), self._slot(epoch)
        made = self.seen.attempt(
            run=self.run,
            epoch=epoch,
            slot={"next": new, "skipping one": new + 1, "last": max(0, new - 1), "first": 0}[slot],
            round_=rounds[round_],
            state=chosen,
            total=None if rounds[round_] == 1 and careful else said,
            invited=invited,
        )
        self._deliver(sites, made)
        if careful:
            self._open(made, sorted(made.bodies), FOUR)

    @rule(survivors=MOST, shown=MOST)
    def honest_round(self, survivors: tuple[str, ...], shown: tuple[str, ...]) -> None:
        """As an honest coordinator has it; to whom it shows the survivor list is its own affair."""
        self.world.answering.how = "true"
        self._next_round("next", "true", survivors, shown)

    @precondition(lambda self: self.sums)
    @rule(
        state=st.sampled_from(("told", "told", "first")),
        total=st.sampled_from(("none", *LIES)),
        left_out=SITE,
        tag=TAGS,
        answers=ANSWERING,
    )
    def sum_once_more(self, state: str, total: str, left_out: str, tag: str, answers: str) -> None:
        """The attack: the next round at a state that was summed, over all sites but one."""
        self.world.answering.how = answers
        fewer = tuple(site for site in FOUR if site != left_out)
        self._next_round(state, total, fewer, fewer, tag)

    @precondition(lambda self: not self.settles)
    @rule(wished=st.sampled_from(WISHED), sites=MANY)
    def make_a_sum_up(self, wished: str, sites: tuple[str, ...]) -> None:
        """A round is answered and never summed; the next one begins as if it were, where one likes."""
        self._next_made_up(wished, sites)

    @precondition(lambda self: self.sums and not self.settles)
    @rule(total=st.sampled_from(LIES), sites=MANY)
    def colluder_signs_again(self, total: str, sites: tuple[str, ...]) -> None:
        """After a sum was opened the colluder signs the body that makes it a lie, for *sites* to see."""
        self.world.answering.how = "signed again"
        self._sign_again(total, sites)
        self._next_round("told", total, sites, FOUR, "right")

    @precondition(lambda self: len(self.sums) > 1)
    @rule(site=SITE, left_out=SITE)
    def forgetting(self, site: str, left_out: str) -> None:
        """A site loses what it remembers of the run, is admitted again, and takes part in the next round."""
        self.world.forget(site, self.run)
        self.broken.add(self.run)
        fewer = tuple(one for one in FOUR if one != left_out)
        self._next_round("next", "true", fewer, fewer)

    @precondition(lambda self: self.attempts)
    @rule(ago=AGO, sites=SOME)
    def deliver_late(self, ago: int, sites: Iterable[str]) -> None:
        self._deliver(sites, back(self.attempts, ago))

    @precondition(lambda self: self.attempts)
    @rule(ago=AGO, survivors=MOST, sites=SOME, what=st.sampled_from(("survivors", "consents")))
    def show(self, ago: int, survivors: tuple[str, ...], sites: Iterable[str], what: str) -> None:
        step = self.seen.agree if what == "survivors" else self.seen.ask_shares
        for site in sites:
            step(site, back(self.attempts, ago), survivors)

    @precondition(lambda self: self.attempts)
    @rule(ago=AGO, left_out=SOME, sites=MOST)
    def open_sum(self, ago: int, left_out: tuple[str, ...], sites: tuple[str, ...]) -> None:
        made = back(self.attempts, ago)
        there = sorted(made.bodies)
        fewer = [site for site in there if site not in left_out[:1]]
        self._open(made, fewer if len(left_out) < len(FOUR) else there, sites)

    @rule(ago=st.integers(0, 200), site=SITE, moved=st.booleans(), slot=st.integers(0, 3))
    def replay(self, ago: int, site: str, moved: bool, slot: int) -> None:
        message = back(self.seen.messages, ago)
        names = set(type(message).model_fields) if moved else set()
        place = {"run": self.run, "epoch": max(self.epochs), "slot": slot}
        changes = {name: value for name, value in place.items() if name in names}
        self.seen.send(site, message.model_copy(update=changes), again=not moved)

    @precondition(lambda self: self.attempts)
    @rule(kind=st.sampled_from(("contribution", "consent")), ago=AGO, which=AGO)
    def colluder_signs(self, kind: str, ago: int, which: int) -> None:
        known, chosen = self.seen.said[kind], back(self.attempts, ago)
        if known:
            about = chosen.manifest
            place = {"run": about.run, "epoch": about.epoch, "slot": about.slot, "manifest": chosen.digest}
            if kind == "contribution":
                place["round"] = about.round
            self.seen.said[kind].append(protocol.signed_as(back(known, which), self.world.colluder, **place))

    @precondition(lambda self: self.attempts)
    @rule(ago=AGO, tag=st.binary(min_size=7, max_size=7))
    def colluder_tags(self, ago: int, tag: bytes) -> None:
        """The colluder's contribution says another tag, so that its sum's total does not fit."""
        answer = back(self.attempts, ago).bodies.get(COLLUDER)
        if answer is not None:
            other = protocol.signed_as(
                answer.contribution, self.world.colluder, tag=b64encode(bytes(1) + tag).decode()
            )
            back(self.attempts, ago).bodies[COLLUDER] = replace(answer, contribution=other)

    # -- what must hold ----------------------------------------------------------------------------

    @invariant()
    def hold(self) -> None:
        self.counts["steps"] += 1
        for one in self._checked:
            self.counts["invariants checked"] += 1
            broken = next(one(self.seen), None)
            assert broken is None, f"{one.__name__}: {broken}"


def machine(**changes: Any) -> type[CoordinatorMachine]:
    """Return a machine with counts of its own, and with *changes* of its attributes."""
    return type("Machine", (CoordinatorMachine,), {"counts": Counter(), **changes})
