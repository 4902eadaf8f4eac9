"""How a site or a person becomes known to a coordinator.

Rules
-----
1. The newcomer makes two Ed25519 keys at home: its identity (signs messages) and its TLS key (the outer
   belt, replaceable). Neither leaves.
2. The coordinator's card names its identity key and its CA, signed by that identity. The newcomer shows
   the key's fingerprint to its owner, who compares it with what the coordinator's operator reads out.
3. An invitation is a secret of 256 bits, valid once and until its expiry, for one name, role and
   organisation. The coordinator keeps its SHA-256 only.
4. The request is signed by the new identity, so nobody enrols a key that they don't hold.
5. A member renews its TLS key by a request that its identity signs (:mod:`plasmid.protocol.http_signatures`).
   It needs no invitation, nor the old certificate, which may have expired.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import BaseModel, ConfigDict, StringConstraints

from plasmid.core.bounds import parse_json
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import ProtocolError
from plasmid.protocol.identity import NamedSigner, PublicKey, verify
from plasmid.secagg.statements import SiteName

Role = Literal["site", "person"]
VISIBLE = r"[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
"""A character that shows as itself: no control, and nothing that turns the direction of the text: people
decide by what they see."""
Organisation = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=rf"^{VISIBLE}+$")]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
Pem = Annotated[str, StringConstraints(max_length=8192)]


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: PublicKey
    signature: Signature

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        body = self.model_dump(exclude={"signature"})
        return f"plasmid-{type(self).__name__}/1\n".encode() + canonical_json(body)

    def check(self) -> None:
        """Raise ProtocolError (``protocol.signature``) unless ``key`` signed this."""
        verify(self.key, self.signed_bytes(), self.signature)


class CoordinatorCard(_Signed):
    """Who a coordinator is: its identity key and its CA certificate."""

    ca: Pem


class EnrolRequest(_Signed):
    """What a newcomer sends. ``csr`` is a PKCS#10 request for its TLS key."""

    invitation: Annotated[str, StringConstraints(max_length=128)]
    role: Role
    name: SiteName
    organisation: Organisation
    csr: Pem


_Kind = TypeVar("_Kind", bound=_Signed)


class RosterEntry(BaseModel):
    """One enrolled site as the coordinator knows it; a peer's owner must confirm it before it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: SiteName
    organisation: Organisation
    key: PublicKey


def parse_card(data: bytes) -> CoordinatorCard:
    """Parse a card; check its signature next. Raises ProtocolError (``protocol.malformed``)."""
    return _parsed(CoordinatorCard, data)


def parse_enrol_request(data: bytes) -> EnrolRequest:
    """Parse a request; check its signature next. Raises ProtocolError (``protocol.malformed``)."""
    return _parsed(EnrolRequest, data)


def _parsed(kind: type[_Kind], data: bytes) -> _Kind:
    try:
        parse_json(data)
        return kind.model_validate_json(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("protocol.malformed", f"this is not a {kind.__name__} in its form.") from error


def signed_card(identity: NamedSigner, ca_pem: str) -> CoordinatorCard:
    """Return the card of the coordinator *identity*."""
    card = CoordinatorCard(key=identity.public, ca=ca_pem, signature="0" * 128)
    return card.model_copy(update={"signature": identity.sign(card.signed_bytes())})


def signed_request(
    identity: NamedSigner, *, invitation: str, role: Role, organisation: str, csr: str
) -> EnrolRequest:
    """Return the request by which *identity* enrols."""
    request = EnrolRequest(
        invitation=invitation,
        role=role,
        name=identity.name,
        organisation=organisation,
        csr=csr,
        key=identity.public,
        signature="0" * 128,
    )
    return request.model_copy(update={"signature": identity.sign(request.signed_bytes())})


def new_tls_key(name: str, password: bytes) -> tuple[bytes, str]:
    """Return a fresh Ed25519 TLS key (PKCS#8 PEM, sealed with *password*) and a request for it (PEM)."""
    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None)
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)),
        csr.public_bytes(Encoding.PEM).decode(),
    )


def check_csr(pem: str) -> x509.CertificateSigningRequest:
    """Return the parsed request. Raises ProtocolError unless it is signed by its own key, of a known kind."""
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        holds = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ProtocolError("protocol.malformed", "the certificate request cannot be read.") from error
    if not holds:
        raise ProtocolError("protocol.signature", "the certificate request is not signed by its own key.")
    return csr
