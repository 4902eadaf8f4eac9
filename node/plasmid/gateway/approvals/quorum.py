"""Whether enough people have signed: the arithmetic of approvals. No clock, no file.

Rules
-----
1. A key counts once for each meaning, however often it has signed, and under whichever names.
2. More signatures of one meaning than are needed do not stand in for another's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from plasmid.core.errors import PolicyRefused
from plasmid.gateway.approvals.files import Waiting
from plasmid.gateway.approvals.people import Person
from plasmid.gateway.policy.grants import Approvers
from plasmid.protocol.approval import Approval, Meaning
from plasmid.protocol.messages import Pending

State = Literal["valid", "expired", "revoked"]


@dataclass(frozen=True)
class Signature:
    """An approval that its signer's key made, and whether it still counts."""

    approval: Approval
    digest: str
    person: Person
    state: State

    @property
    def manifestation(self) -> str:
        """Printed name, role, time, meaning and reason (21 CFR 11.50)."""
        said, person = self.approval, self.person
        return f"{person.full_name} ({person.role}), {said.signed_at}, {said.meaning}: {said.reason}"


@dataclass(frozen=True)
class Standing:
    """How far a subject's approvals have come under one rule.

    Attributes
    ----------
    signatures
        Those of the people whom the rule names, whatever their state.
    have, need
        Signatures that count, and how many are needed.
    missing
        How many people are still to sign each meaning; none where the quorum is there.
    code
        Why they are not enough, if they are not: never given, expired, or revoked.
    """

    signatures: tuple[Signature, ...]
    have: int
    need: int
    missing: Mapping[Meaning, int]
    code: str

    @property
    def words(self) -> str:
        """How far it is, in words."""
        to_come = ", ".join(f"{number} x {meaning}" for meaning, number in self.missing.items())
        return f"{self.have} of {self.need} approvals" + (f" (still needed: {to_come})" if to_come else "")

    @property
    def met(self) -> bool:
        """Whether the quorum is there."""
        return self.have >= self.need


class AwaitingApproval(PolicyRefused):
    """Admission has to wait: so many approvals are there of so many, until when. ``new``: as from now."""

    def __init__(self, standing: Standing, waiting: Waiting | None, *, new: bool) -> None:
        until = f" until {waiting.expires}" if waiting else ""
        super().__init__(
            "policy.awaiting_approval",
            f"{standing.have} of {standing.need} approvals are there; the run waits{until}.",
            "'plasmid approvals show' says what is to be approved, 'plasmid approvals sign' approves it.",
        )
        self.new = new
        self.pending = Pending(
            have=standing.have, need=standing.need, expires=waiting.expires if waiting else None
        )


def standing_of(signatures: Sequence[Signature], approvers: Approvers) -> Standing:
    """Return what *signatures* of one subject, all by people whom *approvers* names, amount to."""
    need = sum(approvers.needed.values())
    valid = _counts(signatures, approvers, {"valid"})
    code = "policy.awaiting_approval"
    if sum(_counts(signatures, approvers, {"valid", "expired"}).values()) >= need:
        code = "policy.approval_expired"
    elif sum(_counts(signatures, approvers, {"valid", "expired", "revoked"}).values()) >= need:
        code = "policy.approval_revoked"
    missing = {
        meaning: number - valid[meaning]
        for meaning, number in approvers.needed.items()
        if number > valid[meaning]
    }
    return Standing(tuple(signatures), sum(valid.values()), need, missing, code)


def _counts(
    signatures: Sequence[Signature], approvers: Approvers, states: Collection[State]
) -> dict[Meaning, int]:
    """Return how many of the people that each meaning needs have signed it, in one of *states*."""
    keys: dict[Meaning, set[str]] = {meaning: set() for meaning in approvers.needed}
    for said in signatures:
        if said.state in states and said.approval.meaning in keys:
            keys[said.approval.meaning].add(said.person.key)
    return {meaning: min(len(keys[meaning]), number) for meaning, number in approvers.needed.items()}
