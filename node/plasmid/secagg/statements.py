"""What is said in ``plasmid-sa/2``: the signed statements of a key epoch and of one attempt at a round.

Rules
-----
1. Each statement is signed by its author and relayed whole (:mod:`plasmid.protocol.messages`); the
   coordinator cannot alter or invent one.
2. Binary fields are bytes here and base64 in JSON, in the one spelling of RFC 4648 section 4, and of a
   fixed length; digests are hexadecimal.
3. A digest over several statements or pairs is that of their canonical JSON in the order of the sites, so
   that both ends compute it from what they hold.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema

from plasmid.core.canonical import digest_json

PROTOCOL: Literal["plasmid-sa/2"] = "plasmid-sa/2"
MAX_ROSTER = 64
MAX_SLOTS = 256
"""Slots of one epoch at most; a run that needs more starts further epochs."""
EPOCH_SLOTS = 64
"""Slots of an epoch where the plan says nothing else."""

SECRET_BYTES = 32
TAG_BYTES = 16
MAX_HEARD = 2048
"""Characters of a signed statement that its author is reminded of, at most."""


@dataclass(frozen=True)
class Base64Bytes:
    """Marks a bytes field: base64 in JSON, *low* to *high* bytes (None: exactly *low*) in whole *step*s.

    A second spelling of the same bytes (white space, other padding, spare bits) is refused.
    """

    low: int
    high: int | None = None
    step: int = 1

    def read(self, value: Any) -> bytes:
        """Return the bytes of *value*, bytes or base64. Raises ValueError."""
        if isinstance(value, str):
            try:
                data = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as error:
                raise ValueError("not base64") from error
            if base64.b64encode(data).decode() != value:
                raise ValueError("not canonical base64")
        elif isinstance(value, bytes):
            data = value
        else:
            raise ValueError("neither bytes nor base64")
        if not self.low <= len(data) <= (self.high or self.low) or len(data) % self.step:
            raise ValueError(f"{len(data)} bytes are not the length of this field")
        return data

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema: :meth:`read` in, base64 out."""
        return core_schema.no_info_before_validator_function(
            self.read,
            core_schema.bytes_schema(strict=True),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda data: base64.b64encode(data).decode(),
                return_schema=core_schema.str_schema(),
                when_used="json",
            ),
        )


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
IsolationLevel = Literal["bubblewrap", "landlock", "none"]
"""How the process that computes is locked in, strongest first; see :mod:`plasmid.isolation`."""
SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
EpochNumber = Annotated[int, Field(ge=1, lt=2**53)]
Slot = Annotated[int, Field(ge=0, lt=MAX_SLOTS)]
Share = Annotated[bytes, Base64Bytes(SECRET_BYTES)]
Commitment = Annotated[bytes, Base64Bytes(32)]
Tag = Annotated[bytes, Base64Bytes(8)]
"""An element of the field of :mod:`plasmid.secagg.tags`, big-endian."""
ShareOf = Annotated[dict[SiteName, Share], Field(max_length=MAX_ROSTER)]
Commitments = Annotated[bytes, Base64Bytes(32, 32 * MAX_SLOTS, step=32)]


class _Statement(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _OfEpoch(_Statement):
    protocol: Literal["plasmid-sa/2"] = PROTOCOL
    run: RunId
    epoch: EpochNumber


class Advert(_OfEpoch):
    """Step 1: a site's fresh public keys for one epoch, and the SHA-256 of each slot secret, slot after slot.

    ``key_commitments`` are of the secrets k, from which pair seeds come; ``self_commitments`` of the
    secrets b of the self-masks; ``group_commitment`` is of the site's contribution g to the group's key K.
    ``document`` is the digest of the recipe.
    """

    type: Literal["advert"] = "advert"
    site: SiteName
    document: Digest
    x25519: Annotated[bytes, Base64Bytes(32)]
    mlkem768: Annotated[bytes, Base64Bytes(1184)]
    key_commitments: Commitments
    self_commitments: Commitments
    group_commitment: Commitment


class Bundle(_OfEpoch):
    """Step 2: the sender's g, the receiver's shares of its slot secrets, and pair seeds if it comes later.

    ``kem`` is an ML-KEM-768 ciphertext to the receiver; ``sealed`` is AES-256-GCM of: the contribution g to
    the group's key, shares of b of all slots, shares of k of all slots, and, where the sender precedes the
    receiver, the pair seeds of all slots.
    ``heard`` reminds the receiver of its own words: its newest contribution, and its newest consent of this
    run, that the sender saw, each as it was signed, in its wire form.
    """

    type: Literal["bundle"] = "bundle"
    sender: SiteName
    receiver: SiteName
    rho: Digest
    kem: Annotated[bytes, Base64Bytes(1088)]
    sealed: Annotated[
        bytes, Base64Bytes(3 * SECRET_BYTES + TAG_BYTES, (3 * MAX_SLOTS + 1) * SECRET_BYTES + TAG_BYTES)
    ]
    heard: Annotated[list[Annotated[str, StringConstraints(max_length=MAX_HEARD)]], Field(max_length=2)] = []


class Recovery(_OfEpoch):
    """Step 3: the SHA-256 of the site's recovery blobs, joined; the blobs go to the coordinator alone."""

    type: Literal["recovery"] = "recovery"
    site: SiteName
    rho: Digest
    blob: Digest


class Verified(_Statement):
    """A state that a site has verified itself, in the epoch whose sums it follows from.

    Attributes
    ----------
    round, state
        The round that begins with the state, and the digest of its body.
    needs
        How many sites must say so for one that missed the round: the threshold of the epoch that made the
        state, or all other sites of that epoch where the threshold is all.
    """

    round: Annotated[int, Field(ge=1, lt=2**53)]
    state: Digest
    needs: Annotated[int, Field(ge=1, le=MAX_ROSTER)]


class Ready(_OfEpoch):
    """Step 3: a site holds all that it needs to mask. ``blobs`` is the digest over everyone's recovery.

    ``verified`` is the state with which the epoch begins, where this site has verified it itself: for sites
    that missed rounds, no part of what must be equal.
    """

    type: Literal["ready"] = "ready"
    site: SiteName
    rho: Digest
    blobs: Digest
    n: Annotated[int, Field(ge=1, le=MAX_ROSTER)]
    c: Annotated[int, Field(ge=0, le=MAX_ROSTER)]
    theta: Annotated[int, Field(ge=1, le=MAX_ROSTER)]
    verified: Verified | None


class Contribution(_Statement):
    """Step 5: the site's protected vector for one attempt is the body of the digest *body*, a Merkle root.

    Also said where nothing is masked; the protocol's name is in the manifest, whose digest is named.
    ``tag`` is the masked tag of the vector before it was masked (:mod:`plasmid.secagg.tags`); None where
    nothing is masked.
    ``ledger_counter`` and ``ledger_head`` are the newest charge in the site's privacy ledger;
    ``isolation`` is how the worker that computed it was locked in.
    """

    type: Literal["contribution"] = "contribution"
    run: RunId
    site: SiteName
    epoch: EpochNumber
    round: Annotated[int, Field(ge=1, lt=2**53)]
    slot: Annotated[int, Field(ge=0, lt=2**53)]
    manifest: Digest
    body: Digest
    body_bytes: Annotated[int, Field(ge=1, lt=2**53)]
    tag: Tag | None
    ledger_counter: Annotated[int, Field(ge=0, lt=2**53)]
    ledger_head: Digest
    isolation: IsolationLevel


class Consent(_OfEpoch):
    """Step 6: a site agrees that the sum over exactly these survivors is opened.

    ``survivors`` is :func:`survivors_digest`. ``verified`` says that the site has itself re-run the step that
    gave the round's state, or has been told by enough that have.
    """

    type: Literal["consent"] = "consent"
    round: Annotated[int, Field(ge=1, lt=2**53)]
    slot: Slot
    site: SiteName
    manifest: Digest
    survivors: Digest
    verified: bool


class Shares(_OfEpoch):
    """Step 7: the site's share of b for each survivor, and of k for each invited site that dropped out."""

    type: Literal["shares"] = "shares"
    slot: Slot
    site: SiteName
    manifest: Digest
    self_shares: ShareOf
    key_shares: ShareOf


def digest_of(statements: Iterable[Advert] | Iterable[Recovery]) -> str:
    """Return the SHA-256 of the canonical JSON of *statements* in the order of their sites."""
    ordered = sorted(statements, key=lambda statement: statement.site)
    return digest_json([statement.model_dump(mode="json") for statement in ordered])


def survivors_digest(contributions: Iterable[Contribution]) -> str:
    """Return the SHA-256 of the canonical JSON of the sorted list of ``[site, root of its body]``."""
    return digest_json(sorted([said.site, said.body] for said in contributions))
