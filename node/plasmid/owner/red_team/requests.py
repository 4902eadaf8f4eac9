"""Attacks on admission: who asks, for what, in which project, and at which cost."""

from __future__ import annotations

import secrets
from datetime import timedelta
from functools import partial
from typing import Any

from plasmid.core.clock import now, stamp
from plasmid.gateway.pause import pause
from plasmid.owner.red_team.attack import DidNotHoldError, accepted, attacks, refuses, turned_away
from plasmid.owner.red_team.scratch import SPARE, Scratch, counted
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Ask, run_id, sign
from plasmid.recipes.query import PingDocument


def _honest(scratch: Scratch) -> None:
    accepted(scratch.target.answer(scratch.admit()))


def unapproved(scratch: Scratch) -> None:
    """A document that the policy does not name."""
    _honest(scratch)
    other = scratch.make_request(PingDocument(length=7, rounds=2, federation=scratch.document.federation))
    turned_away("policy.digest_not_allowed", scratch.target.answer(scratch.admit(other)))


def no_policy(scratch: Scratch) -> None:
    """The policy file is gone."""
    _honest(scratch)
    scratch.home().policy.unlink()
    turned_away("policy.absent", scratch.target.answer(scratch.admit()))


def broken_policy(scratch: Scratch) -> None:
    """The policy file does not parse."""
    _honest(scratch)
    scratch.home().policy.write_text("allow: [everything", encoding="utf-8")
    turned_away("policy.invalid", scratch.target.answer(scratch.admit()))


def edited_document(scratch: Scratch) -> None:
    """The document is changed, the digest stays the approved one; or it is changed after it was signed."""
    _honest(scratch)
    honest = scratch.make_request()
    edited = honest.model_copy(update={"document": {**honest.document, "length": 7}})
    turned_away("protocol.digest", scratch.target.answer(scratch.admit(edited)))
    signed = sign(scratch.requester, honest)
    changed = signed.model_copy(update={"payload": {**signed.payload, "nonce": "0" * 32}})
    message = scratch.admit(honest).model_copy(update={"request": changed})
    turned_away("protocol.signature", scratch.target.answer(message))


def forged_requester(scratch: Scratch) -> None:
    """The coordinator, or a stranger, signs the request in the requester's name."""
    _honest(scratch)
    for key in (Identity.generate("requester"), Identity.generate("stranger")):
        code = "protocol.signature" if key.name == "requester" else "project.requester"
        turned_away(code, scratch.target.answer(scratch.admit(signer=key)))


def unsigned_project(scratch: Scratch) -> None:
    """A member has not signed the project; or this site has not."""
    _honest(scratch)
    other = next(name for name in scratch.roster if name != scratch.name)
    half = scratch.signed_project(without=other)
    turned_away("project.unsigned", scratch.target.answer(scratch.admit(project=half)))
    scratch.target.projects.drop(scratch.project.digest())
    turned_away("project.not_signed_here", scratch.target.answer(scratch.admit()))


def beyond_the_project(scratch: Scratch) -> None:
    """A run that reaches sites that are not of its project, or that the requester did not invite."""
    _honest(scratch)
    reaching = scratch.make_request(sites=sorted([*scratch.roster, "somebody-else"]))
    turned_away("project.reach", scratch.target.answer(scratch.admit(reaching)))
    roster = sorted([*scratch.roster, SPARE])
    refuses("project.reach", lambda: scratch.target.begin_epoch(scratch.epoch(roster=roster)))


def another_run(scratch: Scratch) -> None:
    """One signed request, run a second time under another name."""
    _honest(scratch)
    turned_away("protocol.run", scratch.target.answer(scratch.admit(run=f"{scratch.run[:-1]}x")))


def from_the_future(scratch: Scratch) -> None:
    """A request that is signed for later, to be kept in store."""
    _honest(scratch)
    later = scratch.make_request(requested=stamp(now() + timedelta(hours=1)))
    turned_away("project.requested", scratch.target.answer(scratch.admit(later)))


def over_budget(scratch: Scratch) -> None:
    """Two runs of epsilon 0.6 on a budget of 1; the same run again must not be charged twice."""
    first = scratch.make_request(counted(0.6))
    accepted(scratch.target.answer(scratch.admit(first)))
    accepted(scratch.target.answer(scratch.admit(first)))
    second = scratch.make_request(counted(0.6), nonce=secrets.token_hex(16))
    turned_away("policy.budget", scratch.target.answer(scratch.admit(second)))


def path_in_a_name(scratch: Scratch) -> None:
    """Names that lead out of the folder: a document's, a run's, a site's."""
    _honest(scratch)
    request = scratch.make_request(counted(0.6))
    path = request.model_copy(update={"document": {**request.document, "name": "../../etc/passwd"}})
    told = scratch.target.answer(scratch.admit(path, run="ages-0"))
    if told.accepted:
        raise DidNotHoldError("a document called ../../etc/passwd was admitted")
    for changes in ({"run": "../../runs/x"}, {"roster": [*scratch.roster, "../x"]}):
        values: dict[str, Any] = {**scratch.epoch().model_dump(mode="json"), **changes}
        signed = sign(scratch.coordinator, _Raw(values))  # type: ignore[arg-type]
        refuses("protocol.malformed", partial(scratch.target.open, signed))


def oversized(scratch: Scratch) -> None:
    """A document of a hundred thousand values, and one that is nested a hundred deep."""
    _honest(scratch)
    deep: Any = 0
    for _ in range(100):
        deep = [deep]
    for extra in (list(range(100_000)), deep):
        honest = scratch.make_request()
        large = honest.model_copy(update={"document": {**honest.document, "extra": extra}})
        told = scratch.target.answer(scratch.admit(large, run=run_id(honest)))
        if told.accepted:
            raise DidNotHoldError("an oversized document was admitted")


def paused(scratch: Scratch) -> None:
    """A question and a run while the owner has paused the site."""
    _honest(scratch)
    pause(scratch.home(), by="red team", reason="an exercise")
    turned_away("site.paused", scratch.target.answer(scratch.admit()))
    asked = Ask(run="ask-1", request=sign(scratch.requester, scratch.request), project=scratch.envelope)
    turned_away("site.paused", scratch.target.answer(asked))


class _Raw:
    """Values that are signed as they are, whatever their type would say of them."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def model_dump(self, mode: str) -> dict[str, Any]:  # noqa: ARG002 - as pydantic's
        """Return the values."""
        return self._values


ATTACKS = attacks(
    (8, unapproved),
    (8, no_policy),
    (8, broken_policy),
    (9, edited_document),
    (37, forged_requester),
    (37, unsigned_project),
    (37, beyond_the_project),
    (5, another_run),
    (5, from_the_future),
    (19, over_budget),
    (24, path_in_a_name),
    (27, oversized),
    (None, paused),
)
