"""Approvals: what a named person at a data owner signs about one recipe, and how it is taken back.

Rules
-----
1. An approval names the recipe's digest, the view's, the project's and its audience, and the site. A
   difference of one byte in any of them is another subject, which it does not open.
2. It says who signed, when, with which meaning and why, and until when it holds (21 CFR 11.50); the digests
   and the envelope's signature bind it to its record (11.70).
3. A revocation names an approval by its digest. It holds for ever.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import StringConstraints, model_validator

from plasmid.core.clock import Stamp, parse
from plasmid.protocol.envelope import Statement
from plasmid.secagg.statements import Digest, SiteName

Meaning = Literal["reviewed", "dp-reviewed", "approved"]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^\S(?:[^\x00-\x1f]*\S)?$")]
Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class Subject(Statement):
    """What is approved. Its digest names it in a site's folder."""

    recipe: Digest
    view: Digest
    project: Digest
    audience: Digest
    site: SiteName


class Approval(Statement):
    """One person's signature under a subject, with its meaning.

    Attributes
    ----------
    expires
        The first moment at which it holds no more, UTC.
    nonce
        Makes two approvals of one person two records.
    """

    version: Literal[1] = 1
    subject: Subject
    signer: SiteName
    meaning: Meaning
    reason: Reason
    signed_at: Stamp
    expires: Stamp
    nonce: Nonce

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if not parse(self.signed_at) < parse(self.expires):
            raise ValueError("an approval ends after it begins")
        return self

    def holds_at(self, moment: datetime) -> bool:
        """Return whether *moment* is before its end."""
        return moment < parse(self.expires)


class ApprovalRevocation(Statement):
    """A named person takes an approval back; any of the owner's people may."""

    version: Literal[1] = 1
    approval: Digest
    site: SiteName
    signer: SiteName
    reason: Reason
    revoked_at: Stamp
    nonce: Nonce
