"""What sites say to each other in a key epoch of ``plasmid-sa/0``: adverts, bundles, ready statements.

Version 0 has no digests of self-masks, no shares, no recovery blobs and no threshold: the fields are absent,
not empty. Each statement is signed by its author and relayed whole (:mod:`plasmid.protocol.messages`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PROTOCOL: Literal["plasmid-sa/0"] = "plasmid-sa/0"
MAX_ROSTER = 64
MAX_SLOTS = 4096

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


def _hex(size_bytes: int) -> StringConstraints:
    return StringConstraints(pattern=rf"^[0-9a-f]{{{2 * size_bytes}}}$")


class _Statement(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Advert(_Statement):
    """Step 1: a site's fresh public keys for one epoch, and the commitments to its slot secrets."""

    type: Literal["advert"] = "advert"
    protocol: Literal["plasmid-sa/0"] = PROTOCOL
    run: str
    epoch: int
    site: SiteName
    document: Digest
    x25519: Annotated[str, _hex(32)]
    mlkem768: Annotated[str, _hex(1184)]
    slots: Annotated[list[Digest], Field(min_length=1, max_length=MAX_SLOTS)]


class Bundle(_Statement):
    """Step 2: pair seeds of every slot, from one site to another, end-to-end encrypted."""

    type: Literal["bundle"] = "bundle"
    protocol: Literal["plasmid-sa/0"] = PROTOCOL
    run: str
    epoch: int
    sender: SiteName
    receiver: SiteName
    rho: Digest
    kem: Annotated[str, _hex(1088)]
    sealed: Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{2})+$", max_length=64 * (MAX_SLOTS + 1))]


class Ready(_Statement):
    """Step 3: a site holds all that it needs to mask."""

    type: Literal["ready"] = "ready"
    protocol: Literal["plasmid-sa/0"] = PROTOCOL
    run: str
    epoch: int
    site: SiteName
    rho: Digest
    n: int
    c: int
