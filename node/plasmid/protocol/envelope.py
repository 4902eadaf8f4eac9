"""Statements that several parties sign: DSSE envelopes (Dead Simple Signing Envelope, v1.0.2).

Rules
-----
1. What is signed is ``PAE(payloadType, payload)``, so that no signature serves two kinds of statement.
2. The payload is canonical JSON (RFC 8785) of a strict model; another spelling of it is refused, so that a
   statement has one digest: the SHA-256 of its payload.
3. A ``keyid`` is the signer's raw Ed25519 public key in hexadecimal. Which keys count is the caller's to
   say; a signature by any other key, or a second one by the same, is nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from plasmid.core.bounds import parse_json
from plasmid.core.canonical import canonical_json, sha256_hex
from plasmid.core.errors import ProtocolError
from plasmid.protocol.identity import PublicKey, Signer, verify
from plasmid.secagg.statements import Base64Bytes

MAX_PAYLOAD_BYTES = 256 * 1024
MAX_SIGNATURES = 128
_TYPE = "application/vnd.plasmid.{}+json"

Payload = Annotated[bytes, Base64Bytes(2, MAX_PAYLOAD_BYTES)]


class Statement(BaseModel):
    """A payload; its class's name makes its ``payloadType``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def payload(self) -> bytes:
        """Return the canonical JSON of this statement."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """Return the SHA-256 of the payload."""
        return sha256_hex(self.payload())

    @classmethod
    def payload_type(cls) -> str:
        """Return the payload's type, for example ``application/vnd.plasmid.project+json``."""
        return _TYPE.format(cls.__name__.lower())


Kind = TypeVar("Kind", bound=Statement)


class EnvelopeSignature(BaseModel):
    """One signature: ``sig`` is Ed25519 over the PAE, by the key that ``keyid`` is."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    keyid: PublicKey
    sig: Annotated[bytes, Base64Bytes(64)]


class Envelope(BaseModel):
    """A DSSE envelope with zero or more signatures."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    payload: Payload
    payloadType: Annotated[str, StringConstraints(max_length=100)]  # noqa: N815 - the standard's name
    signatures: Annotated[list[EnvelopeSignature], Field(max_length=MAX_SIGNATURES)] = []

    @classmethod
    def of(cls, statement: Statement) -> Envelope:
        """Return *statement* with no signature yet."""
        return cls(payload=statement.payload(), payloadType=statement.payload_type())

    def signed(self, signer: Signer) -> Envelope:
        """Return this envelope with *signer*'s signature; one that it already holds is replaced."""
        mark = EnvelopeSignature(keyid=signer.public, sig=bytes.fromhex(signer.sign(self._pae())))
        others = [said for said in self.signatures if said.keyid != signer.public]
        return self.model_copy(update={"signatures": [*others, mark]})

    def open(self, kind: type[Kind]) -> Kind:
        """Return the statement, of *kind*, whoever signed it.

        Raises
        ------
        ProtocolError
            ``protocol.malformed``: another type, not of its form, or not in its one spelling.
        """
        try:
            statement = kind.model_validate_json(self.payload)
            if self.payloadType != kind.payload_type() or statement.payload() != self.payload:
                raise ValueError
        except (ValidationError, ValueError, RecursionError) as error:
            raise ProtocolError(
                "protocol.malformed", f"an envelope does not hold a {kind.__name__.lower()} in its form."
            ) from error
        return statement

    def signers(self, among: Collection[str]) -> frozenset[str]:
        """Return the keys of *among* whose signature is here.

        Raises
        ------
        ProtocolError
            ``protocol.signature``: a signature that names a key of *among* is not that key's.
        """
        pae = self._pae()
        found = set()
        for said in self.signatures:
            if said.keyid in among:
                verify(said.keyid, pae, said.sig.hex())
                found.add(said.keyid)
        return frozenset(found)

    def wire(self) -> bytes:
        """Return the canonical JSON of this envelope."""
        return canonical_json(self.model_dump(mode="json"))

    def _pae(self) -> bytes:
        kind = self.payloadType.encode()
        return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(self.payload), self.payload)


def parse_envelope(data: bytes | dict[str, Any]) -> Envelope:
    """Parse an envelope's JSON. Raises ProtocolError (``protocol.malformed``)."""
    try:
        if isinstance(data, bytes):
            parse_json(data)
            return Envelope.model_validate_json(data)
        return Envelope.model_validate_json(canonical_json(data))
    except (ValidationError, ValueError, RecursionError) as error:
        raise ProtocolError("protocol.malformed", "this is not a signed envelope.") from error
