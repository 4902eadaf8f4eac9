"""The certificates of members: which one stands for whom, and until when.

Rules
-----
1. A member may hold several. When one is used for the first time, the older ones retire, :data:`GRACE` later:
   what is under way ends on them. Until then they stay, so an answer that was lost locks nobody out.
2. Of those that were never used a member holds one: the newest.
3. The same certificate request gets the same certificate, so that it can be sent again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.orm import Session

from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import Clock
from plasmid.core.errors import LinkError
from plasmid.link.authority import Authority
from plasmid.link.tables import CertificateRow
from plasmid.protocol.enrolment import check_csr

GRACE = timedelta(minutes=10)


def tls_request(pem: str) -> x509.CertificateSigningRequest:
    """Return a certificate request.

    Raises
    ------
    ProtocolError
        As :func:`plasmid.protocol.enrolment.check_csr`.
    LinkError
        ``link.tls_key``: the key is not an Ed25519 key.
    """
    csr = check_csr(pem)
    if not isinstance(csr.public_key(), Ed25519PublicKey):
        raise LinkError("link.tls_key", "the TLS key is not an Ed25519 key.", "Let this release make it.")
    return csr


class Certificates:
    """See the module's rules."""

    def __init__(self, engine: Engine, *, clock: Clock) -> None:
        self._engine, self._clock = engine, clock

    def add(self, session: Session, member: str, csr: str, certificate: x509.Certificate) -> None:
        """Keep a certificate that was issued to *member* for *csr*, in a transaction of the caller's."""
        session.add(
            CertificateRow(
                digest=sha256_hex(certificate.public_bytes(Encoding.DER)),
                member=member,
                request=sha256_hex(csr.encode()),
                pem=certificate.public_bytes(Encoding.PEM).decode(),
                issued=self._now(),
                used=None,
                retires=None,
            )
        )

    def renew(self, member: str, csr: str, authority: Authority, *, role: str, organisation: str) -> str:
        """See :meth:`plasmid.link.registry.Registry.renew`."""
        request = tls_request(csr)
        with Session(self._engine) as session, session.begin():
            own = CertificateRow.member == member
            known = session.scalars(
                select(CertificateRow).where(own, CertificateRow.request == sha256_hex(csr.encode()))
            ).first()
            if known is not None:
                return known.pem
            session.execute(
                delete(CertificateRow).where(
                    own, CertificateRow.used.is_(None) | (CertificateRow.retires <= self._now())
                )
            )
            certificate = authority.issue_client(request, name=member, role=role, organisation=organisation)
            self.add(session, member, csr, certificate)
        return certificate.public_bytes(Encoding.PEM).decode()

    def holder(self, der: bytes) -> str | None:
        """Return for whom a certificate stands, None for nobody; its first use retires the older ones."""
        digest = sha256_hex(der)
        columns = (CertificateRow.member, CertificateRow.used, CertificateRow.retires)
        with self._engine.connect() as connection:
            row: Any = connection.execute(select(*columns).where(CertificateRow.digest == digest)).first()
        if row is None or (row.retires is not None and row.retires <= self._now()):
            return None
        if row.used is None:
            self._first_use(digest, row.member)
        return str(row.member)

    def _first_use(self, digest: str, member: str) -> None:
        with Session(self._engine) as session, session.begin():
            session.execute(
                update(CertificateRow).where(CertificateRow.digest == digest).values(used=self._now())
            )
            others = (
                CertificateRow.member == member,
                CertificateRow.digest != digest,
                CertificateRow.used.is_not(None),
                CertificateRow.retires.is_(None),
            )
            session.execute(update(CertificateRow).where(*others).values(retires=self._now() + GRACE))

    def _now(self) -> datetime:
        return self._clock().astimezone(UTC).replace(tzinfo=None)
