"""A coordinator with one site on its side: it keeps all that was ever said, and opens whatever can be opened.

Rules
-----
1. It opens a sum as soon as it has the shares; the colluder's own are always among them, for any survivors.
2. Its moves are single messages or whole phases; what a site refuses, it does without.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hostile import protocol
from hostile.opening import Attempt, Opened, Told, follows, opened, start
from hostile.protocol import Vector
from hostile.world import COLLUDER, World
from plasmid.core.errors import PlasmidError
from plasmid.gateway.admission import Answer
from plasmid.planner.attempts import attempt_plan, attempts
from plasmid.protocol.messages import (
    Admit,
    Blobs,
    Bundles,
    Manifest,
    Relay,
    RelayKind,
    Signed,
    Start,
    Total,
)
from plasmid.secagg.coordinator import CoordinatorEpoch
from plasmid.secagg.statements import Advert, Contribution, Recovery, Shares, survivors_digest

RUNS = ("run-1", "run-2", "run-3")
SET_UP: tuple[RelayKind, ...] = ("advert", "bundle", "recovery", "ready")


class Coordinator:
    """See the module's rules.

    Attributes
    ----------
    runs
        The message that admits each run.
    messages
        All that it sent; what is only played again is not in it twice.
    said
        What sites said, by type of statement, and what the colluder signed besides.
    template
        A manifest of which the fields that no attempt changes are taken.
    epochs
        By run and number: the coordinator's half of a key epoch, and its c.
    keys
        By the digest of a key epoch's adverts: the group's key, which the colluder gives away.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.runs: dict[str, Admit] = {}
        self.messages: list[Any] = []
        self.said: dict[str, list[Signed]] = defaultdict(list)
        self.epochs: dict[tuple[str, int], tuple[CoordinatorEpoch, int]] = {}
        self.attempts: list[Attempt] = []
        self.sums: list[Opened] = []
        self._blobs: dict[str, Blobs] = {}
        self.keys: dict[str, bytes] = {}
        self._dealt: dict[tuple[str, int], Vector] = {}
        self._tried: set[tuple[str, tuple[str, ...], int]] = set()
        self.template: Manifest | None = None

    def begin(self) -> None:
        """Have every site admit every run, and seal its first key epoch."""
        federation = self.world.federation
        for label in RUNS:
            run = federation.new_run(label)
            self.runs[run] = federation.admitting()
            for site in self.world.sites:
                self.send(site, self.runs[run])
            self.key_epoch(run, 1, self.world.sites)
        self.template = federation.manifest()

    def copied(self) -> Coordinator:
        """Return one that knows the same, and learns on its own."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            setattr(other, name, copy.copy(value) if name not in ("world", "template") else value)
        other.said = defaultdict(list, {kind: list(said) for kind, said in self.said.items()})
        return other

    # -- messages ----------------------------------------------------------------------------------

    def send(self, site: str, message: Any, *, again: bool = False) -> Any:
        """Return what *site* answers to *message*, once it is kept."""
        if not again:
            self.messages.append(message)
        said = self.world.answer(site, message)
        if isinstance(said, Answer):
            self.said["contribution"].append(said.contribution)
            for attempt in self.attempts:
                if attempt.digest == said.contribution.payload["manifest"]:
                    attempt.bodies[site] = said
        elif isinstance(said, Bundles):
            self.said["bundle"] += said.statements
        elif isinstance(said, Blobs):
            self.said["recovery"].append(said.statement)
            self._blobs[said.statement.signature] = said
        elif isinstance(said, Signed):
            self.said[said.payload["type"]].append(said)
            if said.payload["type"] == "shares":
                self._open(Shares.model_validate(said.payload))
        if isinstance(message, Relay) and message.kind == "ready" and site == COLLUDER:
            self._ask_colluder(message)
        return said

    def _ask_colluder(self, message: Relay) -> None:
        known = self.world.gateways[COLLUDER]._runs.get(message.run)
        if known is not None and known.epoch is not None and known.epoch.sealed:
            self.keys[known.epoch.rho] = protocol.group_key(known.epoch)
            self._dealt.setdefault((message.run, message.epoch), protocol.dealt(known.epoch))

    def relay(
        self, site: str, kind: RelayKind, said: Sequence[Signed], *, run: str, epoch: int, slot: int = 0
    ) -> None:
        """Show *site* statements."""
        self.send(site, Relay(run=run, epoch=epoch, slot=slot, kind=kind, statements=list(said)))

    # -- key epochs --------------------------------------------------------------------------------

    def epoch(
        self, site: str, run: str, number: int, roster: Sequence[str], c: int, begins: Start | None
    ) -> None:
        """Have *site* begin a key epoch."""
        federation, slots = self.world.federation, attempts(self.world.document)
        asked = {"run": run, "epoch": number, "roster": sorted(roster), "slots": slots, "c": c}
        self.send(site, federation.epoch(**asked, begins=begins))

    def newest(self, kind: RelayKind, run: str, number: int, *, to: str = "") -> list[Signed]:
        """Return what each site said last in this key epoch, to *to* where it is for one site."""
        found = {
            said.signer: said
            for said in self.said[kind]
            if (said.payload["run"], said.payload["epoch"]) == (run, number)
            and (kind != "bundle" or said.payload["receiver"] == to)
        }
        return [found[site] for site in sorted(found)]

    def key_epoch(
        self,
        run: str,
        number: int,
        roster: Sequence[str],
        c: int = 1,
        *,
        begins: Start | None = None,
        needs: int = 3,
    ) -> None:
        """Go through a key epoch as far as the sites of *roster* go.

        The colluder says that it has verified the state with which the epoch *begins*, for *needs* sites.
        """
        for site in roster:
            self.epoch(site, run, number, roster, c, begins)
        if len(self.newest("advert", run, number)) < len(roster):
            return
        for kind in SET_UP:
            for site in roster:
                said = self.newest(kind, run, number, to=site)
                if kind == "ready" and begins is not None:
                    said = [self._vouched(one, begins, needs) for one in said]
                self.relay(site, kind, said, run=run, epoch=number)
        self.hold(run, number, c)

    def _vouched(self, ready: Signed, begins: Start, needs: int) -> Signed:
        if ready.signer != COLLUDER or begins.round == 1:
            return ready
        said = {"round": begins.round, "state": begins.state, "needs": needs}
        return protocol.signed_as(ready, self.world.colluder, verified=said)

    def hold(self, run: str, number: int, c: int = 1) -> None:
        """Keep the coordinator's half of a key epoch, if the statements of its sites make one."""
        adverts = [Advert.model_validate(said.payload) for said in self.newest("advert", run, number)]
        recoveries = [said for said in self.newest("recovery", run, number) if said.signature in self._blobs]
        given = {
            said.signer: (Recovery.model_validate(said.payload), self._blobs[said.signature].sealed)
            for said in recoveries
        }
        try:
            self.epochs[run, number] = CoordinatorEpoch(adverts, given, c=c), c
        except PlasmidError as error:
            self.world.refused[f"opening: {error.code}"] += 1

    # -- attempts ----------------------------------------------------------------------------------

    def attempt(
        self,
        *,
        run: str,
        epoch: int,
        slot: int,
        round_: int,
        state: Vector,
        total: Total | None,
        invited: Sequence[str],
    ) -> Attempt:
        """Return an attempt of which nobody has heard yet."""
        held, c = self.epochs[run, epoch]
        world = self.world
        plan = attempt_plan(
            world.document, world.shape, sites=len(held.roster), c=c, planned=world.federation.planned
        )
        assert self.template is not None, "it began"
        begins = start(world, round_, state, total)
        made = protocol.manifest(
            self.template,
            plan,
            run=run,
            epoch=epoch,
            slot=slot,
            round=round_,
            rho=held.rho,
            state=begins.state,
            total=total,
            invited=[site for site in held.roster if site in invited],
        )
        self.attempts.append(Attempt(made, state, made.digest()))
        return self.attempts[-1]

    def agree(
        self, site: str, attempt: Attempt, survivors: Sequence[str], again: Signed | None = None
    ) -> None:
        """Show *site* a survivor list of *attempt*, with what the colluder signed *again*."""
        said = [
            again if again and name == COLLUDER else attempt.bodies[name].contribution
            for name in survivors
            if name in attempt.bodies
        ]
        self._relay_of(site, "contribution", said, attempt)

    def ask_shares(self, site: str, attempt: Attempt, survivors: Sequence[str]) -> None:
        """Show *site* all consents to a survivor list of *attempt*, with the colluder's."""
        said = [attempt.bodies[name].contribution for name in survivors if name in attempt.bodies]
        agreed = survivors_digest(Contribution.model_validate(one.payload) for one in said)
        found = {
            one.signer: one
            for one in self.said["consent"]
            if (one.payload["manifest"], one.payload["survivors"]) == (attempt.digest, agreed)
        }
        if found and COLLUDER in survivors:
            anyones = next(iter(found.values()))
            found[COLLUDER] = protocol.signed_as(anyones, self.world.colluder, verified=True)
        self._relay_of(site, "consent", list(found.values()), attempt)

    def _relay_of(self, site: str, kind: RelayKind, said: Sequence[Signed], attempt: Attempt) -> None:
        about = attempt.manifest
        self.relay(site, kind, said, run=about.run, epoch=about.epoch, slot=about.slot)

    # -- sums --------------------------------------------------------------------------------------

    def _open(self, last: Shares) -> None:
        """Open the sum of which *last* is a share, if there are enough by now."""
        survivors = tuple(sorted(last.self_shares))
        attempt = next((one for one in self.attempts if one.digest == last.manifest), None)
        held, _ = self.epochs.get((last.run, last.epoch), (None, 0))
        if attempt is None or held is None or any(site not in attempt.bodies for site in survivors):
            return
        if any(one.attempt is attempt and one.survivors == survivors for one in self.sums):
            return
        shares = [said for said in self.said["shares"] if said.payload["manifest"] == last.manifest]
        if (last.run, last.epoch) in self._dealt:
            given = self._dealt[last.run, last.epoch]
            shares.append(
                protocol.shares_of(
                    given, self.world.colluder, attempt.manifest, roster=held.roster, survivors=survivors
                )
            )
        try:
            given_by = [Shares.model_validate(said.payload) for said in shares]
            self.sums.append(opened(self.world, held, attempt, survivors, given_by))
        except PlasmidError as error:
            self.world.refused[f"opening: {error.code}"] += 1

    def follows(self, after: Opened, told: Told | None = None) -> Vector:
        """Return the state that follows from a sum, or from what is told instead of it."""
        about = after.attempt
        return follows(
            self.world,
            told or after.told,
            before=about.state,
            round_=about.manifest.round,
            encoding=about.manifest.encoding(),
        )
