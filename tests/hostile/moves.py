"""Moves of several messages, as an honest coordinator makes them: mend a run, ask, open a sum."""

from __future__ import annotations

from collections.abc import Iterable

from hostile import protocol
from hostile.choices import Choices
from hostile.opening import Attempt, start
from hostile.world import COLLUDER
from plasmid.secagg.samples import body_root
from support.federation.attacks import FOUR


class Moves(Choices):
    """The run at hand, and what is done with it.

    Attributes
    ----------
    begun
        The highest number of a key epoch that was asked for, of any run.
    broken
        Runs of which the last key epoch is of no use any more, as far as the coordinator can tell.
    """

    begun: int
    broken: set[str]

    def _turn(self) -> None:
        """Go on with the next run."""
        runs = list(self.seen.runs)
        self.run = runs[(runs.index(self.run) + 1) % len(runs)]

    def _admit(self) -> None:
        for site in FOUR:
            if not self.world.knows(site, self.run):
                self.seen.send(site, self.seen.runs[self.run])

    def _deliver(self, sites: Iterable[str], made: Attempt) -> None:
        for site in sites:
            self.seen.send(site, made.manifest)
        if not made.bodies:
            self.broken.add(self.run)

    def _open(self, made: Attempt, survivors: Iterable[str], sites: Iterable[str]) -> None:
        chosen, asked = list(survivors), list(sites)
        for step in (self.seen.agree, self.seen.ask_shares):
            for site in asked:
                step(site, made, chosen)

    def _repair(self) -> bool:
        """Do what an honest coordinator does when a key epoch is over too early; return whether it was."""
        if self.run not in self.broken:
            return False
        self._admit()
        self.begun += 1
        self.seen.key_epoch(self.run, self.begun, FOUR, begins=self._begins("next"))
        self.broken -= {self.run}
        return True

    def _ask(self, state: str, total: str, sites: Iterable[str], tag: str = "copied") -> Attempt:
        """Ask *sites* for the round that comes next."""
        epoch, round_ = self.epochs[-1], self._round
        chosen, said = (self._first(), None) if round_ == 1 else self._claim(state, total, tag=tag)
        made = self.seen.attempt(
            run=self.run,
            epoch=epoch,
            slot=self._slot(epoch),
            round_=round_,
            state=chosen,
            total=said,
            invited=FOUR,
        )
        self._deliver(sites, made)
        return made

    def _ask_again(self, last: Attempt) -> None:
        """Begin the key epoch of *last* once more, and ask for it anew."""
        about = last.manifest
        self._admit()
        begins = start(self.world, about.round, last.state, about.total)
        self.seen.key_epoch(self.run, about.epoch, FOUR, begins=begins)
        made = self.seen.attempt(
            run=self.run,
            epoch=about.epoch,
            slot=about.slot,
            round_=about.round,
            state=last.state,
            total=about.total,
            invited=about.invited,
        )
        self._deliver(FOUR, made)

    def _next_round(
        self, state: str, total: str, survivors: Iterable[str], shown: Iterable[str], tag: str = "copied"
    ) -> None:
        """Ask for the next round and open it; where nobody answers any more, go on with another run."""
        repaired, chosen = self._repair(), tuple(survivors)
        made = self._ask(state, total, chosen, tag)
        self._open(made, chosen, shown)
        if repaired and not made.bodies:
            self._turn()

    def _next_made_up(self, wished: str, survivors: Iterable[str]) -> None:
        """Ask for the next round and open nothing; ask for the one after it at a *wished* state."""
        self._repair()
        last = self._ask("next", "true", FOUR)
        about = last.manifest
        if not last.bodies or about.round == self.world.document.rounds:
            return
        state, total = self._made_up(last, wished)
        made = self.seen.attempt(
            run=self.run,
            epoch=about.epoch,
            slot=self._slot(about.epoch),
            round_=about.round + 1,
            state=state,
            total=total,
            invited=FOUR,
        )
        self._deliver(FOUR, made)
        self._open(made, survivors, FOUR)

    def _sign_again(self, lie: str, sites: Iterable[str]) -> None:
        """Show *sites* another body of the colluder in the last sum: the one that makes a *lie* of it fit."""
        last = self.sums[-1]
        if COLLUDER not in last.survivors:
            return
        self._claim("told", lie, tag="right")
        (body,) = self.world.answering.fitting(last.attempt.digest, COLLUDER).values()
        own = last.attempt.bodies[COLLUDER].contribution
        other = protocol.signed_as(own, self.world.colluder, body=body_root(body))
        for site in sites:
            self.seen.agree(site, last.attempt, last.survivors, other)
