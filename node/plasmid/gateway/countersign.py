"""What a site checks before it countersigns what a run came to.

Rules
-----
1. The result is the pinned coordinator's, about the admitted run: its project, requester, recipe and base.
2. The history holds, for every round to which this site contributed, the very manifest that it answered, and
   for every round a manifest of this run; rounds are complete and in order.
3. The released state follows from the totals (:mod:`plasmid.gateway.verify_states`), and the adapter's files
   follow from that state: they are made again here, and are the same to the byte.
4. The facts about privacy are those of the document and of this site's own terms; no more honest sites are
   counted, and no fewer attempts, than it has seen; epsilon follows from them.
5. The log keeps the digest of the adapter's numbers: without a privacy unit a site tells what an adapter is
   worth to it (``gain``) of those alone that it has countersigned. An adapter that somebody has made to
   answer a question about one row would be answered.
6. It signs nothing else. Whatever differs is refused, all of it named in this site's log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.gateway.totals import Source
from plasmid.planner.attempts import attempt_plan, attempts
from plasmid.protocol.messages import Conclude
from plasmid.recipes.stopping import stop_of
from plasmid.release.attestation import (
    MAX_ROUNDS_BYTES,
    ROUNDS,
    Attestation,
    Countersignature,
    Result,
    Round,
    read_rounds,
)
from plasmid.release.attestation import digests as digests_of
from plasmid.release.result import declared, is_rehearsal, release_files, site_facts, sound_facts

if TYPE_CHECKING:
    from plasmid.gateway.admission import AdmittedRun


def check_result(
    site: str, coordinator: str, admitted: AdmittedRun, message: Conclude, source: Source
) -> Attestation:
    """Return the coordinator's result, if *site* can stand by it.

    Parameters
    ----------
    coordinator
        The key that the owner pinned.

    Raises
    ------
    ProtocolError
        ``protocol.result``: it is not what this site took part in; ``protocol.step``; ``protocol.claims``;
        ``protocol.signature``, ``protocol.malformed``.
    LinkError
        A body cannot be had.
    """
    if admitted.base is None or not api.makes_adapter(api.load(admitted.document.computation)):
        raise ProtocolError("protocol.result", f"{admitted.run} makes no adapter.")
    statement = message.result.open(Attestation)
    result = statement.predicate
    if not isinstance(result, Result) or message.result.signers({coordinator}) != {coordinator}:
        raise ProtocolError("protocol.result", "the message holds no result that the coordinator signed.")
    problems = [*_identity(coordinator, admitted, result)]
    history = statement.files.get(ROUNDS, "")
    if not history or not 0 < message.rounds_bytes <= MAX_ROUNDS_BYTES:
        raise ProtocolError("protocol.result", "the result names no history of the run.")
    rounds = read_rounds(bytes(source.download(history, message.rounds_bytes)))
    problems += _history(site, admitted, result, rounds)
    problems += _declared(admitted, result)
    if not problems:
        problems += _privacy(site, admitted, result)
    if problems:
        raise ProtocolError(
            "protocol.result",
            f"the result of {admitted.run} is not what this site took part in: {'; '.join(problems)}.",
            "Nothing is countersigned. Ask the coordinator's operator.",
        )
    _check_files(admitted, statement, result, source)
    return statement


def _identity(coordinator: str, admitted: AdmittedRun, result: Result) -> Iterator[str]:
    base = admitted.base
    expected = {
        "run": admitted.run,
        "coordinator": coordinator,
        "requester": admitted.requester,
        "project": admitted.project.digest(),
        "name": admitted.document.name,
        "recipe": admitted.digest,
        "rounds": _rounds(admitted, result),
        "strategy": admitted.document.federation.server.strategy,
    }
    yield from (f"another {name}" for name, value in expected.items() if getattr(result, name) != value)
    named = (result.base.id, result.base.revision, result.base.digest)
    if base is None or named != (base.id, base.revision, base.digest):
        yield "another base model"


def _rounds(admitted: AdmittedRun, result: Result) -> int:
    """Return how many rounds there were; where a recipe lets a run end early, ``Following`` checks that.

    Without a privacy unit a run may end where sites would refuse a sum at a state near an earlier one.
    """
    most = int(admitted.document.rounds)
    near = result.near_state and admitted.document.privacy.unit == "none"
    return min(result.rounds, most) if near or stop_of(admitted.document) is not None else most


def _history(site: str, admitted: AdmittedRun, result: Result, rounds: list[Round]) -> Iterator[str]:
    train = [one for one in rounds if one.manifest.phase == "train"]
    if [one.manifest.round for one in train] != list(range(1, result.rounds + 1)):
        yield "rounds are missing, or out of order"
    for one in rounds:
        said = one.manifest
        if (said.run, said.document, said.base) != (admitted.run, admitted.digest, result.base.digest):
            yield f"the manifest of round {said.round} is another run's"
        follows = (said.state, said.total) == (result.state, result.total)
        if said.phase == "audit" and not follows:
            yield "the state that was audited is not the last one"
    by_round = {one.manifest.round: one for one in rounds}
    for round_, answered in admitted.following.answered.items():
        known = by_round.get(round_)
        # A round may have been summed in an attempt without this site: then the history leaves it out.
        if known is not None and site in known.sites and known.manifest.digest() != answered.manifest:
            yield f"round {round_} has another manifest than the one that was answered"
    claimed = [one.manifest.round for one in rounds if site in one.sites]
    strange = sorted(set(claimed) - set(admitted.following.answered))
    if strange and admitted.following.complete:
        yield f"this site is counted in rounds that it did not answer: {strange[:5]}"
    took_part = sorted({name for one in train for name in one.sites})
    if took_part != result.participants or site not in took_part:
        yield "the participants are not those of the rounds"


def _declared(admitted: AdmittedRun, result: Result) -> Iterator[str]:
    """Compare what costs nothing, before anything is accounted."""
    expected = {
        **declared(admitted.document.model_dump(mode="json")),
        "rounds": _rounds(admitted, result),
        "rehearsal": is_rehearsal(admitted.project),
    }
    for name, value in expected.items():
        if result.privacy.get(name, "absent") != value:
            yield f"another {name}"
    made = result.privacy.get("attempts")
    if type(made) is not int or not admitted.following.attempts <= made <= attempts(admitted.document):
        yield f"{made} attempts, this site answered {admitted.following.attempts}"


def _privacy(site: str, admitted: AdmittedRun, result: Result) -> Iterator[str]:
    facts = sound_facts(result.privacy)
    terms = admitted.terms.model_dump() if admitted.terms else None
    if [one.site for one in facts.participants] != result.participants:
        yield "the facts are about other participants"
    if site_facts(site, terms) not in facts.participants:
        yield "other figures of this site"
    following = admitted.following
    honest = min((answered.honest for answered in following.answered.values()), default=0)
    if following.answered and facts.min_sites - facts.c > honest:
        yield f"{facts.min_sites - facts.c} honest sites in every sum, there were {honest}"
    if facts.mechanism in ("dp-fedsgd", "output") and admitted.planned is not None:
        plan = attempt_plan(
            admitted.document,
            admitted.shape,
            sites=len(admitted.roster),
            c=admitted.c,
            planned=admitted.planned,
        )
        stated = (facts.noise_std, facts.scale_log2, facts.length)
        if stated != (plan.noise_std, plan.encoding.scale_log2, plan.encoding.length):
            yield "another noise than was planned"


def _check_files(admitted: AdmittedRun, statement: Attestation, result: Result, source: Source) -> None:
    """Raise ProtocolError where the last state does not follow, or the files do not follow from it."""
    state = admitted.following.conclude(result, source)
    assert admitted.base is not None, "an adapter has a base model"
    own = digests_of(release_files(admitted.document, admitted.base, state))
    stated = {name: digest for name, digest in statement.files.items() if name != ROUNDS}
    if own != stated:
        wrong = sorted(name for name in own | stated if own.get(name) != stated.get(name))
        raise ProtocolError(
            "protocol.result",
            f"the adapter's files do not follow from the last state: {', '.join(wrong)}.",
            "Nothing is countersigned. Use one release of Plasmid at both ends.",
        )


def adapter_digest(admitted: AdmittedRun) -> str:
    """Return the digest of the numbers of the adapter that the last state of a run is."""
    document: Any = admitted.document
    assert admitted.base is not None, "an adapter has a base model"
    return api.given_digest(api.method(document).adapter(document, admitted.base, admitted.following.last))


def word_of(site: str, admitted: AdmittedRun, statement: Attestation, *, hardware: str) -> Attestation:
    """Return what *site* says about a result that it has checked."""
    privacy, result = admitted.document.privacy, statement.predicate
    assert isinstance(result, Result), "it was checked"
    rounds = result.rounds
    word = Countersignature(
        run=admitted.run,
        site=site,
        result=statement.digest(),
        contributed=len(admitted.following.answered),
        rerun=admitted.following.rerun,
        server_step="re-run" if admitted.following.rerun >= rounds else "not re-run",
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        hardware=hardware,
    )
    return Attestation.about(statement.files, word)
