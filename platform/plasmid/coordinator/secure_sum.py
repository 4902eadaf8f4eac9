"""The secure sums of a run: key epochs, attempts, drop-outs, and the spare attempts that they may cost.

    manifest -> contribution -> consent -> shares -> sum

Rules
-----
1. The coordinator sums words; it holds no key that opens a contribution.
2. An attempt uses one slot. Sites that fail, fall silent or are late drop out of it; with fewer than m
   survivors, or theta consents or answers, it is void, and the round is attempted again on a new slot.
3. The attempts of a run are counted, spare ones included; the sites' ledgers have reserved no more.
4. Without a privacy unit a round is not attempted again once a site may have consented: no site would take
   part.
5. A new key epoch begins when the slots of the last one are used, or too few of its sites are left. Sites
   that are back by then, after a restart, are asked again.
6. The sum is decoded only if its tail is zero and its range possible; else the run ends. Its words and the
   sum of its tags are what sites verify, and samples of its bodies, which are kept until the next one opens.
7. Without a privacy unit nobody is asked to agree to a sum at a state near one that was summed over other
   sites, since no site would (:mod:`plasmid.secagg.near_states`): the run ends with that state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plasmid.coordinator.context import RunContext
from plasmid.coordinator.key_epoch import SETUP_TIMEOUT_S, DroppedOut, begin, set_up
from plasmid.coordinator.plan import Job, check_roster, colluders
from plasmid.coordinator.screening import same_consents, sound_bodies
from plasmid.coordinator.summing import sum_bodies
from plasmid.core.errors import ProtocolError, RunFailed
from plasmid.link.bodies import Bodies
from plasmid.link.switchboard import Collected
from plasmid.planner.attempts import AttemptPlan, attempt_plan, audit_plan
from plasmid.protocol.body import body_bytes, pack, unpack
from plasmid.protocol.messages import (
    Admission,
    Admit,
    Epoch,
    Manifest,
    Planned,
    Signed,
    Start,
    Total,
    UnitTerms,
)
from plasmid.release.attestation import Round
from plasmid.secagg import tags
from plasmid.secagg.coordinator import CoordinatorEpoch
from plasmid.secagg.keystream import Pad
from plasmid.secagg.near_states import NEAR, Summed
from plasmid.secagg.ring import TAIL, Words, decode_sum
from plasmid.secagg.statements import EPOCH_SLOTS, PROTOCOL, Contribution, Shares

Phase = Literal["train", "audit"]


NEAR_AT_SITES = 1.5
"""How much further than a site the coordinator looks: both measure a distance within a few per cent."""


class NearState(Exception):
    """The round's state is near one that was summed over other sites; the run ends with it."""


class _Void(Exception):
    """An attempt failed before any site may have consented, or under a privacy unit."""


@dataclass(frozen=True)
class State:
    """The public state as the sites fetch it: digest and size of its body.

    ``total`` is the sum from which it follows, also published; None before the first round, and where no site
    is to see it.
    """

    digest: str
    size: int
    total: Total | None = None

    def start(self, round_: int) -> Start:
        """Return this as the state with which *round_* begins."""
        return Start(round=round_, state=self.digest, state_bytes=self.size, total=self.total)


@dataclass(frozen=True)
class Opened:
    """A sum over *survivors*, in order: its numbers, float64 [length], its words, and the sum of its tags."""

    values: NDArray[np.float64]
    words: Words
    survivors: tuple[str, ...]
    tag: bytes | None

    def publish(self, bodies: Bodies) -> Total:
        """Publish the words; return how sites find and verify them."""
        body = pack("total", self.words)
        return Total(
            digest=bodies.publish(body), size=len(body), survivors=list(self.survivors), tag=self.tag
        )


@dataclass
class Account:
    """What was done, for the result.

    Attributes
    ----------
    attempts
        Attempts at training rounds, the void ones included.
    survivors
        The sites of each training round's sum.
    epochs
        Of each key epoch that was used: n, c, theta and m.
    rounds
        The manifest of each sum, the audit's included, and over whom it is.
    """

    attempts: int = 0
    survivors: list[list[str]] = field(default_factory=list)
    epochs: list[dict[str, int]] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)


class SecureSum:
    """See the module's rules.

    Parameters
    ----------
    terms
        The admitted sites, each with what it made of the document's epsilon (None without a unit).
    organisations
        Of every invited site.
    """

    def __init__(
        self,
        context: RunContext,
        job: Job,
        terms: Mapping[str, UnitTerms | None],
        organisations: Mapping[str, str],
    ) -> None:
        self._context, self._job, self._organisations = context, job, organisations
        self._terms = dict(terms)
        self._gone: dict[str, str] = {}
        self._roster: list[str] = []
        self._number = self._slot = self._slots = 0
        self._c = 0
        self._planned: Planned | None = None
        self._epoch: CoordinatorEpoch | None = None
        self._left = int(job.document.federation.spare_attempts)
        self._summed = Summed(NEAR * NEAR_AT_SITES)
        self.account = Account()

    def begin(self) -> None:
        """Set up the first key epoch. Raises as :meth:`total`."""
        self._begin_epoch(1, None)

    def total(self, round_: int, state: State, *, phase: Phase = "train") -> Opened:
        """Return the sum of one round.

        Raises
        ------
        NearState
            See the module's rule 7.
        ------
        RunFailed
            ``run.no_attempts``: the spare attempts are used up; ``run.sum_lost``: too few sites are left to
            open a sum to which some have agreed; ``run.stopped``.
        RecipeError
            ``recipe.too_few_sites``, ``recipe.colluders``: too few sites are left for a key epoch.
        ProtocolError
            ``protocol.garbage_sum``, or what a site said breaks the protocol.
        """
        while True:
            if not self._slot < self._slots or len(self._alive()) < self._least():
                self._begin_epoch(round_, state)
            try:
                return self._attempt(round_, state, phase)
            except _Void as void:
                if self._left < 1:
                    raise self._no_attempts(round_, str(void)) from void
                self._left -= 1
                self._context.runs.say(self._context.run, f"round {round_} is attempted again: {void}")

    def _no_attempts(self, round_: int, why: str) -> RunFailed:
        return RunFailed(
            "run.no_attempts",
            f"round {round_} failed ({why}) and the run's spare attempts are used up.{self._who_is_gone()}",
            "Settle what ails those sites, or raise federation.spare_attempts.",
        )

    def _who_is_gone(self) -> str:
        return "".join(f"\n  {site}: {reason}" for site, reason in sorted(self._gone.items()))

    @property
    def planned(self) -> Planned | None:
        """What the first key epoch fixed for the whole run; None before it."""
        return self._planned

    @property
    def rho(self) -> str | None:
        """Digest of the current epoch's adverts; None where nothing is masked."""
        return self._epoch.rho if self._epoch else None

    # -- key epochs --------------------------------------------------------------------------------

    def _alive(self) -> list[str]:
        return [site for site in self._roster if site not in self._gone]

    def _least(self) -> int:
        return self._plan("train").min_sites if self._roster else 1

    def _begin_epoch(self, round_: int, state: State | None) -> None:
        """Take all who are there through a key epoch; without those who drop out of it, again."""
        to_come = self._job.document.rounds + 1 - round_ + 1 + self._left  # one more for an audit
        self._readmit()
        while True:
            out = self._context.expelled(sorted(set(self._terms) - set(self._gone)))
            self._drop(dict.fromkeys(out, "it was revoked"), "is a member no more")
            roster = sorted(set(self._terms) - set(self._gone))
            organisations = {site: self._organisations[site] for site in roster}
            self._c = colluders(organisations, self._job.document.federation.colluding_organisations)
            check_roster(self._job, roster, self._gone, self._c)
            rate = max((term.rate for term in self._terms.values() if term), default=0.0)
            self._planned = self._planned or self._job.planned(len(roster), self._c, rate)
            self._roster, self._number = roster, self._number + 1
            self._slot, self._slots = 0, min(EPOCH_SLOTS, to_come)
            request = Epoch(
                run=self._context.run,
                epoch=self._number,
                roster=roster,
                slots=self._slots,
                c=self._c,
                planned=self._planned,
                begins=None if state is None else state.start(round_),
            )
            try:
                if self._job.masked:
                    self._epoch = set_up(self._context, request)
                else:
                    begin(self._context, request)
                break
            except DroppedOut as dropped:
                self._drop(dropped.missing, f"left the set-up of key epoch {self._number}")
        plan = self._plan("train")
        figures = {"n": len(roster), "c": self._c, "theta": plan.theta, "m": plan.min_sites}
        self.account.epochs.append(figures)
        said = ", ".join(f"{name} = {value}" for name, value in figures.items())
        self._context.runs.say(self._context.run, f"key epoch {self._number}: {said}")

    def _readmit(self) -> None:
        """Ask the sites that dropped out, and are connected again, to take part from the next epoch on."""
        context = self._context
        back = context.readmit(sorted(self._gone))
        if not back:
            return
        asked, project = context.runs.asked(context.run)
        request = Admit(run=context.run, request=asked, project=project)
        context.move_on(0, 0)
        context.send((site, request) for site in back)
        collected = context.collect("admission", back, timeout_s=SETUP_TIMEOUT_S)
        for site, signed in collected.got.items():
            admission = Admission.model_validate(signed.payload)
            if admission.accepted and admission.terms == self._terms[site]:
                del self._gone[site]
                context.runs.say(context.run, f"{site} is back")
            else:
                why = "on other terms than before" if admission.accepted else admission.sentence
                context.runs.say(context.run, f"{site} does not come back: {why}")

    def _drop(self, missing: Mapping[str, str], what: str) -> None:
        for site, why in sorted(missing.items()):
            self._gone[site] = why
            self._context.runs.say(self._context.run, f"{site} {what}: {why}")

    # -- an attempt --------------------------------------------------------------------------------

    def _plan(self, phase: Phase) -> AttemptPlan:
        assert self._planned is not None, "an epoch has begun"
        job, sites = self._job, len(self._roster)
        if phase == "audit":
            return audit_plan(job.document, sites=sites, c=self._c, planned=self._planned)
        return attempt_plan(job.document, job.shape, sites=sites, c=self._c, planned=self._planned)

    def _attempt(self, round_: int, state: State, phase: Phase) -> Opened:
        context, plan = self._context, self._plan(phase)
        encoding = plan.encoding
        size = body_bytes("words", encoding.length + TAIL, encoding.dtype)
        context.expect(size)
        manifest = self._manifest(round_, state, phase, plan)
        self._slot += 1
        self.account.attempts += phase == "train"
        context.runs.begin_round(context.run, round_, manifest.digest())
        context.move_on(manifest.epoch, manifest.slot)
        context.send((site, manifest) for site in manifest.invited)
        timeout_s = self._job.document.federation.round_timeout_s
        came = context.collect("contribution", manifest.invited, timeout_s=timeout_s)
        self._note(came, f"dropped out of round {round_}")
        bodies = sound_bodies(context, came.got, manifest)
        if len(bodies) < plan.min_sites:
            raise _Void(f"{len(bodies)} of {len(manifest.invited)} sites contributed, {plan.min_sites} must")
        survivors, contributions = tuple(sorted(bodies)), {site: came.got[site] for site in bodies}
        pads: list[Pad] = []
        opening, tag = b"", None
        if self._epoch:
            self._check_near(round_, state, survivors)
            pads, opening = self._open(manifest, contributions)
            tag = _tag_of(contributions, pads)
        total = sum_bodies(list(bodies.values()), encoding, pads)
        decoded = decode_sum(total, encoding, len(bodies))
        if self._epoch and phase == "train":
            context.bodies.keep(context.run, manifest.digest(), bodies, opening)
        for body in bodies.values():
            body.unlink(missing_ok=True)
        self.account.rounds.append(Round(manifest=manifest, sites=sorted(bodies)))
        if phase == "train":
            self.account.survivors.append(sorted(bodies))
        if len(bodies) < len(self._terms):
            context.runs.say(context.run, f"round {round_}: a sum over {', '.join(sorted(bodies))}")
        return Opened(decoded, total, survivors, tag)

    def _check_near(self, round_: int, state: State, survivors: tuple[str, ...]) -> None:
        """Raise :class:`NearState` where no site without a privacy unit would agree to a sum."""
        job = self._job
        if job.document.privacy.unit != "none":
            return
        body = self._context.bodies.published(state.digest).read_bytes()
        values = unpack(body, "state", length=job.shape.state.size, dtype=job.shape.dtype)
        if self._summed.is_near(values, survivors):
            self._context.runs.say(
                self._context.run,
                f"round {round_} is not summed: its state is nearly one that was summed over other sites, "
                "and the two sums would tell the update of a site. The run ends with its last state.",
            )
            raise NearState
        self._summed.add(values, survivors)

    def _open(self, manifest: Manifest, contributions: Mapping[str, Signed]) -> tuple[list[Pad], bytes]:
        """Have the survivors agree to open their sum; return its pads, and what they are told of them."""
        context, epoch = self._context, self._epoch
        assert epoch is not None, "only masked sums are opened"
        place = {"epoch": manifest.epoch, "slot": manifest.slot}
        survivors = sorted(contributions)
        context.relay("contribution", _to(survivors, contributions), **place)
        agreed = context.collect("consent", survivors, timeout_s=SETUP_TIMEOUT_S)
        self._note(agreed, "dropped out before it consented")
        consents = same_consents(context, agreed.got, manifest, contributions)
        if len(consents) < epoch.theta:
            raise self._lost(f"{len(consents)} sites consented, {epoch.theta} must")
        context.relay("consent", _to(consents, consents), **place)
        # Some answers are enough; where one of them is wrong, all are needed.
        for enough in (epoch.theta, None):
            came = context.collect("shares", list(consents), timeout_s=SETUP_TIMEOUT_S, enough=enough)
            try:
                return epoch.opening(
                    manifest.slot,
                    manifest.digest(),
                    invited=manifest.invited,
                    survivors=survivors,
                    shares=[Shares.model_validate(said.payload) for said in came.got.values()],
                )
            except ProtocolError as error:
                failed = error
        self._note(came, "dropped out before it answered")
        raise self._lost(failed.message.rstrip("."))

    def _lost(self, why: str) -> Exception:
        if self._job.document.privacy.unit != "none":
            return _Void(why)
        return RunFailed(
            "run.sum_lost",
            f"a sum to which sites had agreed cannot be opened: {why}.{self._who_is_gone()}",
            "Without a privacy unit a round has one sum, so the run ends. Start it again.",
        )

    def _note(self, collected: Collected, what: str) -> None:
        gone = {site: why for site, why in collected.missing.items() if site in collected.gone}
        self._drop(gone, what)
        for site in sorted(set(collected.missing) - set(gone)):
            self._context.runs.say(self._context.run, f"{site} was late: {collected.missing[site]}")

    def _manifest(self, round_: int, state: State, phase: Phase, plan: AttemptPlan) -> Manifest:
        job, encoding = self._job, plan.encoding
        return Manifest(
            protocol=PROTOCOL if job.masked else "none",
            run=self._context.run,
            phase=phase,
            epoch=self._number,
            slot=self._slot,
            round=round_,
            rho=self.rho,
            document=job.digest,
            base=job.base.digest if job.base else None,
            state=state.digest,
            state_bytes=state.size,
            invited=self._alive(),
            ring_bits=encoding.bits,
            scale_log2=encoding.scale_log2,
            bound=encoding.bound,
            length=encoding.length,
            noise_variance=encoding.noise_variance,
            mechanism="none" if phase == "audit" else job.document.privacy.mechanism or "none",
            min_sites=plan.min_sites,
            theta=plan.theta,
            total=state.total,
        )


def _tag_of(contributions: Mapping[str, Signed], pads: list[Pad]) -> bytes:
    """Return the sum of the survivors' tags, which opens with the sum of their words."""
    said = [Contribution.model_validate(signed.payload) for signed in contributions.values()]
    return tags.opened((one.tag for one in said), pads)


def _to(sites: Iterable[str], said: Mapping[str, Signed]) -> dict[str, list[Signed]]:
    """Address the same list of statements to every one of *sites*."""
    statements = list(said.values())
    return dict.fromkeys(sites, statements)
