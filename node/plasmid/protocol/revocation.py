"""Who is a member no more: a statement that the coordinator signs and every site keeps.

Rules
-----
1. A revocation is about a key, for ever: a name or an organisation may come back, with another key.
2. It only takes away. A coordinator that invents one keeps a site out of its own runs, which it can do
   anyway; no site accepts more because of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from plasmid.core.clock import Stamp
from plasmid.core.errors import ProtocolError
from plasmid.protocol.enrolment import Role
from plasmid.protocol.envelope import Envelope, Statement
from plasmid.protocol.identity import PublicKey
from plasmid.secagg.statements import SiteName

Reason = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f]+$")]


class Revocation(Statement):
    """``name``, with ``key``, is out since ``revoked``; ``reason`` is what the operator gave."""

    version: Literal[1] = 1
    name: SiteName
    role: Role
    key: PublicKey
    revoked: Stamp
    reason: Reason


def open_revocation(envelope: Envelope, coordinator: str) -> Revocation:
    """Return the revocation inside *envelope*.

    Raises
    ------
    ProtocolError
        ``protocol.malformed``; ``protocol.signature``: the key *coordinator* has not signed it.
    """
    statement = envelope.open(Revocation)
    if not envelope.signers({coordinator}):
        raise ProtocolError("protocol.signature", "a revocation does not carry the coordinator's signature.")
    return statement
