"""The end of a run that makes an adapter: the coordinator says what it came to, and the sites countersign.

Rules
-----
1. The result is signed before anybody is asked, and is complete without an answer: a site that is away, or
   refuses, is named with the reason, and the run has SUCCEEDED all the same.
2. A countersignature is checked as a stranger would check it: by the key that the project names, over this
   very result.
3. The history of the run stays published, for whoever fetches the adapter; the last total goes once the sites
   have answered.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.coordinator.context import RunContext
from plasmid.coordinator.plan import Job
from plasmid.coordinator.secure_sum import Account, State
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import ProtocolError
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.messages import Conclude, Countersigned
from plasmid.protocol.project import Project
from plasmid.release.attestation import (
    ROUNDS,
    Attestation,
    Base,
    Countersignature,
    EpochFigures,
    HeldBack,
    Result,
    digests,
    pack_rounds,
)
from plasmid.release.result import hardware_name, is_rehearsal, privacy_facts, release_files

COUNTERSIGN_TIMEOUT_S = 120.0


def conclude(
    context: RunContext, job: Job, account: Account, state: NDArray[Any], last: State, record: dict[str, Any]
) -> dict[str, Any]:
    """Return what is signed about a run, as JSON values.

    Parameters
    ----------
    state, last
        The released state, and how it was published.
    record
        The run's result without this.

    Returns
    -------
    dict
        ``result`` (an envelope), ``countersignatures`` by site, ``missing`` (why, by site), and
        ``rounds``, ``rounds_bytes``: the published history.

    Raises
    ------
    ModelError
        ``model.not_finite``.
    ProtocolError
        ``protocol.claims``: what was done is not what was promised.
    RunFailed
        ``run.stopped``.
    """
    request, envelope = context.runs.asked(context.run)
    project = envelope.open(Project)
    assert job.base is not None, "an adapter has a base model"
    assert last.total is not None, "there was a round"
    history = pack_rounds(account.rounds)
    files = digests({**release_files(job.document, job.base, np.asarray(state)), ROUNDS: history})
    facts = privacy_facts(record, job.document.model_dump(mode="json"), rehearsal=is_rehearsal(project))
    result = Attestation.about(
        files,
        Result(
            run=context.run,
            coordinator=context.identity.public,
            requester=request.signer,
            project=project.digest(),
            name=job.document.name,
            recipe=job.digest,
            base=Base(id=job.base.id, revision=job.base.revision, digest=job.base.digest),
            code=f"plasmid {version('plasmid')}",
            hardware=hardware_name(),
            rounds=record["rounds"],
            held_back=record["held_back"] and HeldBack(**record["held_back"]),
            near_state=record["near_state"],
            participants=record["participants"],
            epochs=[EpochFigures(**epoch) for epoch in account.epochs],
            strategy=job.document.federation.server.strategy,
            step=record["step"],
            state=last.digest,
            total=last.total,
            privacy=facts.as_json(),
        ),
    )
    signed = Envelope.of(result).signed(context.identity)
    rounds = context.bodies.publish(history)
    message = Conclude(run=context.run, result=signed, rounds_bytes=len(history))
    words, missing = _ask(context, project, record["participants"], message)
    context.bodies.published(last.total.digest).unlink(missing_ok=True)
    return {
        "result": signed.model_dump(mode="json"),
        "countersignatures": {site: word.model_dump(mode="json") for site, word in words.items()},
        "missing": missing,
        "rounds": rounds,
        "rounds_bytes": len(history),
    }


def _ask(
    context: RunContext, project: Project, participants: list[str], message: Conclude
) -> tuple[dict[str, Envelope], dict[str, str]]:
    """Return what the participants countersigned, and why the others did not."""
    context.send((site, message) for site in participants)
    came = context.collect("countersigned", participants, timeout_s=COUNTERSIGN_TIMEOUT_S)
    words: dict[str, Envelope] = {}
    missing = dict(came.missing)
    for site, said in sorted(came.got.items()):
        word = Countersigned.model_validate(said.payload).statement
        try:
            check_word(word, project, site, message.result)
            words[site] = word
        except ProtocolError as error:
            missing[site] = f"{error.message} [{error.code}]"
    for site, why in sorted(missing.items()):
        context.runs.say(context.run, f"{site} did not countersign: {why}")
    context.runs.say(context.run, f"countersigned by {len(words)} of {len(participants)} participants")
    return words, missing


def check_word(word: Envelope, project: Project, site: str, result: Envelope) -> None:
    """Raise ProtocolError unless *word* is the countersignature of *site* on *result*."""
    statement, key = word.open(Attestation), project.site(site).key
    said = statement.predicate
    if not isinstance(said, Countersignature) or (said.site, said.result) != (
        site,
        sha256_hex(result.payload),
    ):
        raise ProtocolError("protocol.result", f"what {site} signed is not this result.")
    if word.signers({key}) != {key}:
        raise ProtocolError("protocol.signature", f"{site} has not signed its countersignature.")
