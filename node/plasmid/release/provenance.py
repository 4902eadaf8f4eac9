"""What coordinator and sites have signed about an adapter, taken together, and what follows from it as text.

Rules
-----
1. Every signature is checked by the key that the project's own signed statement names for its author; the
   coordinator's by the one that the result names, which every countersigning site has compared with its pin.
2. The history must be that of the run: every round once, in order, each manifest of this recipe and base,
   over sites of the project; what is audited is the last state.
3. Card and provenance are written from here and nowhere else, so that whoever has the attestations can write
   them again and compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import ModelError, PlasmidError
from plasmid.dp.claims import PrivacyFacts, statement
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import fingerprint
from plasmid.protocol.project import Project, open_project
from plasmid.release.attestation import (
    ROUNDS,
    Attestation,
    Countersignature,
    Result,
    Round,
    read_rounds,
)
from plasmid.release.result import sound_facts

SCHEMA = "plasmid.provenance/4"
FETCH = "Fetch it again from where it was published; if it stays so, don't use it."


@dataclass(frozen=True)
class Attested:
    """A result whose attestations have been checked; see the module's rules.

    Attributes
    ----------
    digest
        SHA-256 of the result's payload.
    files
        SHA-256 of the files that follow from the run, by name; its history is one of them.
    words
        The countersignatures, by site.
    """

    project: Project
    result: Result
    digest: str
    files: Mapping[str, str]
    words: Mapping[str, Countersignature]
    rounds: tuple[Round, ...]
    facts: PrivacyFacts

    @property
    def missing(self) -> list[str]:
        """The participants that have not countersigned."""
        return [site for site in self.result.participants if site not in self.words]

    @property
    def rerun_by(self) -> list[str]:
        """The sites that re-ran every step from published total to next state."""
        return sorted(site for site, word in self.words.items() if word.server_step == "re-run")

    def privacy_lines(self) -> str:
        """Return what the card says about privacy."""
        return "\n".join(f"- {sentence}" for sentence in statement(self.facts))

    def signature_lines(self) -> str:
        """Return what the card says about who has signed."""
        count = f"{len(self.words)} of {len(self.result.participants)} participants"
        names = (
            f": {', '.join(sorted(self.words))}. Each says: I took part, and this follows from the published"
        )
        lines = [f"Countersigned by {count}{names + ' totals' if self.words else ''}."]
        if self.missing:
            lines.append(f"Not countersigned by {', '.join(self.missing)}.")
        if chosen := self.result.held_back:
            lines.append(
                f"Of {self.result.rounds} rounds, this is the state after {chosen.after} "
                f"({chosen.release}), by the mean loss of rows that the sites held back."
            )
        again = self.rerun_by
        if again:
            lines.append(f"Every server step was re-run by {', '.join(again)}.")
        others = sorted(set(self.words) - set(again))
        if others or not again:
            whose = f" at {', '.join(others)}" if again else ""
            lines.append(f"Server step not re-run{whose} ({self.result.strategy}).")
        lines.append(
            f"The coordinator's key is `{fingerprint(self.result.coordinator)}`. `plasmid hub verify .` "
            "checks all of it offline. That the published totals are honest is the sites' word and the "
            "coordinator's: nobody proves it to a reader."
        )
        return "\n".join(f"- {line}" for line in lines)

    def provenance(
        self, metrics: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """Return ``provenance.json``: JSON values.

        Parameters
        ----------
        metrics
            The honest table, by whoever fetched the adapter: no site has signed it.
        evaluations
            Sums over the sites' rows (:mod:`plasmid.computations.evaluate`), as the coordinator told them to
            whoever fetched the adapter: no site has signed them.
        """
        result, project = self.result, self.project
        words = {site: self.words[site] for site in sorted(self.words)}
        return {
            "schema": SCHEMA,
            "run": result.run,
            "project": {"name": project.name, "digest": result.project, "purpose": project.purpose},
            "requester": result.requester,
            "rehearsal": self.facts.rehearsal,
            "recipe": {"name": result.name, "digest": result.recipe},
            "base": result.base.model_dump(),
            "code": result.code,
            "rounds": result.rounds,
            "participant_count": len(result.participants),
            "participants": list(result.participants),
            "survivors": [list(one.sites) for one in self.rounds if one.manifest.phase == "train"],
            "key_epochs": [epoch.model_dump() for epoch in result.epochs],
            "aggregation": {
                "protocol": self.facts.protocol,
                "protect": self.facts.protect,
                "strategy": result.strategy,
                "server_step": "re-run" if self.rerun_by else "not re-run",
                "fixed_point_step": result.step,
            },
            "privacy": dict(result.privacy),
            "manifests": [one.manifest.digest() for one in self.rounds if one.manifest.phase == "train"],
            "state": result.state,
            **({"held_back": result.held_back.model_dump()} if result.held_back else {}),
            "coordinator": fingerprint(result.coordinator),
            "countersigned": {
                site: {
                    "contributed": word.contributed,
                    "steps_rerun": word.rerun,
                    "epsilon": word.epsilon,
                    "delta": word.delta,
                }
                for site, word in words.items()
            },
            "not_countersigned": self.missing,
            "hardware": {
                "coordinator": result.hardware,
                **{site: word.hardware for site, word in words.items()},
            },
            "evaluation": "rows of whoever fetched the adapter, on which no site trained; no site signed it",
            "metrics": dict(metrics),
            **({"evaluations": [dict(one) for one in evaluations]} if evaluations else {}),
        }


def attested(project: Envelope, result: Envelope, words: Mapping[str, Envelope], history: bytes) -> Attested:
    """Return what these say together.

    Parameters
    ----------
    words
        The sites' countersignatures, by site.
    history
        The contents of ``rounds.json``.

    Raises
    ------
    ModelError
        ``model.release_signature``: a signature is missing or not its author's; ``model.release_invalid``:
        what was signed does not belong together; ``model.release_claims``: epsilon does not follow from it.
    """
    try:
        members = open_project(project)
        statement_ = result.open(Attestation)
        found = statement_.predicate
        if not isinstance(found, Result):
            raise _invalid("the first attestation is no result")
        if result.signers({found.coordinator}) != {found.coordinator}:
            raise _unsigned("the coordinator has not signed the result")
        if found.project != members.digest():
            raise _invalid("the result belongs to another project")
        checked = {site: _word(members, found, statement_, site, words[site]) for site in sorted(words)}
        rounds = read_rounds(history)
    except ModelError:
        raise
    except PlasmidError as error:
        what = error.message.rstrip(".")
        raise (_unsigned(what) if error.code == "protocol.signature" else _invalid(what)) from None
    if statement_.files.get(ROUNDS) != sha256_hex(history):
        raise _invalid(f"{ROUNDS} is another run's")
    _check_rounds(members, found, rounds)
    try:
        facts = sound_facts(found.privacy)
    except PlasmidError as error:
        raise ModelError("model.release_claims", error.message, FETCH) from None
    if [one.site for one in facts.participants] != found.participants or facts.rounds != found.rounds:
        raise ModelError(
            "model.release_claims", "the facts about privacy are about other participants or rounds.", FETCH
        )
    made = Attested(members, found, statement_.digest(), statement_.files, checked, tuple(rounds), facts)
    _check_figures(made)
    return made


def _word(
    project: Project, result: Result, statement_: Attestation, site: str, envelope: Envelope
) -> Countersignature:
    """Return the countersignature of *site* in *envelope*, checked."""
    said = envelope.open(Attestation)
    word = said.predicate
    if not isinstance(word, Countersignature) or word.site != site:
        raise _invalid(f"what {site} signed is no countersignature of its own")
    key = project.site(site).key
    if envelope.signers({key}) != {key}:
        raise _unsigned(f"{site} has not signed its countersignature")
    same = (word.run, word.result, said.files) == (result.run, statement_.digest(), statement_.files)
    if not same or site not in result.participants:
        raise _invalid(f"the countersignature of {site} is about another result")
    if (word.server_step == "re-run") != (word.rerun >= result.rounds):
        raise _invalid(f"the countersignature of {site} contradicts itself")
    return word


def _check_rounds(project: Project, result: Result, rounds: list[Round]) -> None:
    """Refuse a history that is not that of the result."""
    train = [one for one in rounds if one.manifest.phase == "train"]
    audits = rounds[len(train) :]
    if [one.manifest.round for one in train] != list(range(1, result.rounds + 1)) or rounds[
        : len(train)
    ] != train:
        raise _invalid("rounds are missing, or out of order")
    if len(audits) > 1 or any(
        (one.manifest.state, one.manifest.total) != (result.state, result.total) for one in audits
    ):
        raise _invalid("another state was audited than the last one")
    sites = {site.name for site in project.sites}
    for one in rounds:
        said = one.manifest
        if (said.run, said.document, said.base) != (result.run, result.recipe, result.base.digest):
            raise _invalid(f"the manifest of round {said.round} is another run's")
        if not set(one.sites) <= set(said.invited) <= sites or len(one.sites) < said.min_sites:
            raise _invalid(f"the sum of round {said.round} is over sites that it cannot be over")
    if said_ := result.held_back:
        last = said_.after == result.rounds
        if len(said_.losses) != result.rounds or not 0 <= said_.after <= result.rounds:
            raise _invalid("there are not as many losses of held back rows as rounds")
        if last is not (said_.release == "last") or (
            not last and train[said_.after].manifest.state != result.state
        ):
            raise _invalid("the released state is not that of the round which the result names")
    if sorted({site for one in train for site in one.sites}) != result.participants:
        raise _invalid("the participants are not those of the rounds")


def _check_figures(made: Attested) -> None:
    """Refuse facts about privacy that are better than the history and the countersignatures."""
    facts, result = made.facts, made.result
    train = [one for one in made.rounds if one.manifest.phase == "train"]
    wrong = []
    if tuple(len(one.sites) for one in train) != facts.survivors:
        wrong.append("survivors")
    if any(one.manifest.mechanism != (facts.mechanism or "none") for one in train):
        wrong.append("mechanism")
    if any(one.manifest.protocol != facts.protocol for one in train):
        wrong.append("protocol")
    honest = [epoch.m - epoch.c for epoch in result.epochs]
    if facts.min_sites - facts.c > min(honest):
        wrong.append("honest sites")
    if facts.attempts < result.rounds:
        wrong.append("attempts")
    figures = {(word.epsilon, word.delta) for word in made.words.values()}
    if figures - {(facts.epsilon, facts.delta)}:
        wrong.append("epsilon")
    if wrong:
        raise ModelError(
            "model.release_claims",
            f"the facts about privacy differ from what the sites signed in: {', '.join(wrong)}.",
            FETCH,
        )


def _unsigned(what: str) -> ModelError:
    return ModelError("model.release_signature", f"a signature is missing or wrong: {what}.", FETCH)


def _invalid(what: str) -> ModelError:
    return ModelError("model.release_invalid", f"the attestations do not belong together: {what}.", FETCH)
