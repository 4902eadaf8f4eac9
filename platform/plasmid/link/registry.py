"""Who is enrolled: members and invitations, in the coordinator's database.

Rules
-----
1. A name belongs to one identity key for good, and a key to one name.
2. An invitation is stored as its SHA-256, works once, for one name, role and organisation, and expires.
3. A certificate opens a connection only while the member it names is enrolled with that very certificate.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Engine, String, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import LinkError
from plasmid.link.authority import Authority
from plasmid.protocol.enrolment import EnrolRequest, RosterEntry, check_csr

INVITATION_HOURS = 72


class _Base(DeclarativeBase):
    pass


class _Member(_Base):
    __tablename__ = "members"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    organisation: Mapped[str] = mapped_column(String(100))
    key: Mapped[str] = mapped_column(String(64), unique=True)
    certificate: Mapped[str] = mapped_column(String(64), unique=True)
    enrolled: Mapped[datetime]


class _Invitation(_Base):
    __tablename__ = "invitations"
    secret: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    role: Mapped[str] = mapped_column(String(16))
    organisation: Mapped[str] = mapped_column(String(100))
    expires: Mapped[datetime]
    used: Mapped[datetime | None]


@dataclass(frozen=True)
class Member:
    """One enrolled site or person."""

    name: str
    role: str
    organisation: str
    key: str


class Registry:
    """The members of one coordinator."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _Base.metadata.create_all(engine)
        self._by_certificate: dict[str, Member] = {}

    def invite(self, *, name: str, role: str, organisation: str, hours: float = INVITATION_HOURS) -> str:
        """Return a new invitation. Raises LinkError (``link.name_taken``) if *name* is enrolled."""
        secret = secrets.token_urlsafe(32)
        with Session(self._engine) as session, session.begin():
            if session.get(_Member, name) is not None:
                raise LinkError("link.name_taken", f"{name} is enrolled already.", "Choose another name.")
            session.add(
                _Invitation(
                    secret=sha256_hex(secret.encode()),
                    name=name,
                    role=role,
                    organisation=organisation,
                    expires=_now() + timedelta(hours=hours),
                    used=None,
                )
            )
        return secret

    def enrol(self, request: EnrolRequest, authority: Authority) -> str:
        """Enrol the newcomer and return its certificate in PEM.

        Raises
        ------
        ProtocolError
            The request or its certificate request is not signed by its own key.
        LinkError
            ``link.invitation``: unknown, used, expired, or for somebody else; ``link.name_taken``: the
            name or the key is enrolled already.
        """
        request.check()
        csr = check_csr(request.csr)
        if not isinstance(csr.public_key(), Ed25519PublicKey):
            raise LinkError(
                "link.invitation", "the TLS key is not an Ed25519 key.", "Let this release make it."
            )
        certificate = authority.issue_client(
            csr, name=request.name, role=request.role, organisation=request.organisation
        )
        with Session(self._engine) as session, session.begin():
            claimed = session.execute(
                update(_Invitation)
                .where(
                    _Invitation.secret == sha256_hex(request.invitation.encode()),
                    _Invitation.name == request.name,
                    _Invitation.role == request.role,
                    _Invitation.organisation == request.organisation,
                    _Invitation.used.is_(None),
                    _Invitation.expires > _now(),
                )
                .values(used=_now())
            )
            if claimed.rowcount != 1:  # type: ignore[attr-defined]
                raise LinkError(
                    "link.invitation",
                    f"the invitation for {request.name} is unknown, used, expired, or for somebody else.",
                    "Ask the coordinator's operator for a new one ('plasmid coordinator invite').",
                )
            taken = session.scalars(
                select(_Member).where((_Member.name == request.name) | (_Member.key == request.key))
            ).first()
            if taken is not None:
                raise LinkError("link.name_taken", f"{request.name} or its key is enrolled already.")
            session.add(
                _Member(
                    name=request.name,
                    role=request.role,
                    organisation=request.organisation,
                    key=request.key,
                    certificate=_digest(certificate),
                    enrolled=_now(),
                )
            )
        return certificate.public_bytes(Encoding.PEM).decode()

    def by_certificate(self, der: bytes) -> Member | None:
        """Return the member that enrolled with this certificate, or None."""
        digest = sha256_hex(der)
        if digest not in self._by_certificate:
            with Session(self._engine) as session:
                row = session.scalars(select(_Member).where(_Member.certificate == digest)).first()
            if row is None:
                return None
            self._by_certificate[digest] = Member(row.name, row.role, row.organisation, row.key)
        return self._by_certificate[digest]

    def members(self) -> list[Member]:
        """Return everyone who is enrolled, by name."""
        with Session(self._engine) as session:
            rows = session.scalars(select(_Member).order_by(_Member.name)).all()
        return [Member(row.name, row.role, row.organisation, row.key) for row in rows]

    def sites(self) -> list[RosterEntry]:
        """Return the enrolled sites, by name."""
        return [
            RosterEntry(name=member.name, organisation=member.organisation, key=member.key)
            for member in self.members()
            if member.role == "site"
        ]


def _digest(certificate: x509.Certificate) -> str:
    return sha256_hex(certificate.public_bytes(Encoding.DER))


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
