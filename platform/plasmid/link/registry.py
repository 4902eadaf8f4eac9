"""Who is enrolled: members, invitations and revocations, in the coordinator's database.

Rules
-----
1. A name belongs to one identity key for good, and a key to one name; revoked ones stay taken.
2. An invitation is stored as its SHA-256, works once, for one name, role and organisation, and expires.
3. A certificate opens a connection only while the member that it was issued to is enrolled and it has not
   retired (:mod:`plasmid.link.certificates`). Every request asks the database, where other processes revoke.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.orm import Session

from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import Clock, now, stamp
from plasmid.core.errors import LinkError
from plasmid.link.authority import Authority
from plasmid.link.certificates import Certificates, tls_request
from plasmid.link.engine import create_tables
from plasmid.link.tables import Base, ConnectionRow, InvitationRow, MemberRow, RevocationRow
from plasmid.protocol.enrolment import EnrolRequest, RosterEntry
from plasmid.protocol.envelope import Envelope, parse_envelope
from plasmid.protocol.identity import Signer
from plasmid.protocol.revocation import Revocation

INVITATION_HOURS = 72
_SHOWN_CHARACTERS = 12


@dataclass(frozen=True)
class Member:
    """One enrolled site or person."""

    name: str
    role: str
    organisation: str
    key: str


@dataclass(frozen=True)
class Invitation:
    """An invitation as its issuer sees it; ``id`` is the beginning of its secret's SHA-256."""

    id: str
    name: str
    role: str
    organisation: str
    expires: str
    state: str


@dataclass(frozen=True)
class Revoked:
    """A revocation; later ones have larger numbers."""

    number: int
    said: Revocation
    statement: Envelope


class Registry:
    """The members of one coordinator."""

    def __init__(self, engine: Engine, *, clock: Clock = now) -> None:
        self._engine, self._clock = engine, clock
        create_tables(engine, Base.metadata)
        self._certificates = Certificates(engine, clock=clock)
        self._end_to_end: dict[str, bool] = {}

    # -- invitations -------------------------------------------------------------------------------

    def invite(self, *, name: str, role: str, organisation: str, hours: float = INVITATION_HOURS) -> str:
        """Return a new invitation. Raises LinkError (``link.name_taken``) if *name* was ever enrolled."""
        secret = secrets.token_urlsafe(32)
        with Session(self._engine) as session, session.begin():
            if session.get(MemberRow, name) is not None:
                raise LinkError("link.name_taken", f"{name} is enrolled already.", "Choose another name.")
            session.add(
                InvitationRow(
                    secret=sha256_hex(secret.encode()),
                    name=name,
                    role=role,
                    organisation=organisation,
                    expires=self._now() + timedelta(hours=hours),
                    used=None,
                )
            )
        return secret

    def invitations(self) -> list[Invitation]:
        """Return all invitations, those that expire first before the others; ``state`` is in words."""
        with Session(self._engine) as session:
            rows = session.scalars(select(InvitationRow).order_by(InvitationRow.expires)).all()
        return [
            Invitation(
                id=row.secret[:_SHOWN_CHARACTERS],
                name=row.name,
                role=row.role,
                organisation=row.organisation,
                expires=stamp(row.expires.replace(tzinfo=UTC)),
                state="used" if row.used else "open" if row.expires > self._now() else "expired",
            )
            for row in rows
        ]

    def take_back(self, invitation: str) -> Invitation:
        """Forget the open invitation whose id or name is *invitation*, and return what it was.

        Raises
        ------
        LinkError
            ``link.no_invitation``: not exactly one is open under that id or name.
        """
        found = [
            known
            for known in self.invitations()
            if known.state == "open" and invitation in (known.id, known.name)
        ]
        if len(found) != 1:
            raise LinkError(
                "link.no_invitation",
                f"{len(found)} open invitations are called {invitation!r}.",
                "'plasmid coordinator invitations' lists their ids.",
            )
        with Session(self._engine) as session, session.begin():
            session.execute(
                delete(InvitationRow).where(
                    InvitationRow.secret.startswith(found[0].id), InvitationRow.used.is_(None)
                )
            )
        return found[0]

    # -- enrolment ---------------------------------------------------------------------------------

    def enrol(self, request: EnrolRequest, authority: Authority) -> str:
        """Enrol the newcomer and return its certificate in PEM.

        Raises
        ------
        ProtocolError
            The request or its certificate request is not signed by its own key.
        LinkError
            ``link.invitation``: unknown, used, expired, or for somebody else; ``link.name_taken``: the
            name or the key is enrolled already; ``link.tls_key``: the TLS key is of another kind.
        """
        request.check()
        csr = tls_request(request.csr)
        member = Member(request.name, request.role, request.organisation, request.key)
        with Session(self._engine) as session, session.begin():
            claimed: Any = session.execute(
                update(InvitationRow)
                .where(
                    InvitationRow.secret == sha256_hex(request.invitation.encode()),
                    InvitationRow.name == request.name,
                    InvitationRow.role == request.role,
                    InvitationRow.organisation == request.organisation,
                    InvitationRow.used.is_(None),
                    InvitationRow.expires > self._now(),
                )
                .values(used=self._now())
            )
            if claimed.rowcount != 1:
                raise LinkError(
                    "link.invitation",
                    f"the invitation for {request.name} is unknown, used, expired, or for somebody else.",
                    "Ask the coordinator's operator for a new one ('plasmid coordinator invite').",
                )
            taken = session.scalars(
                select(MemberRow).where((MemberRow.name == request.name) | (MemberRow.key == request.key))
            ).first()
            if taken is not None:
                raise LinkError("link.name_taken", f"{request.name} or its key is enrolled already.")
            session.add(
                MemberRow(
                    name=request.name,
                    role=request.role,
                    organisation=request.organisation,
                    key=request.key,
                    enrolled=self._now(),
                )
            )
            session.flush()
            certificate = authority.issue_client(
                csr, name=member.name, role=member.role, organisation=member.organisation
            )
            self._certificates.add(session, member.name, request.csr, certificate)
        return certificate.public_bytes(Encoding.PEM).decode()

    def renew(self, member: Member, csr: str, authority: Authority) -> str:
        """Return a certificate in PEM for the member's new TLS key; the same request again gets the same.

        Raises
        ------
        ProtocolError
            The certificate request is not signed by its own key.
        LinkError
            ``link.tls_key``.
        """
        return self._certificates.renew(
            member.name, csr, authority, role=member.role, organisation=member.organisation
        )

    # -- who is a member ---------------------------------------------------------------------------

    def by_certificate(self, der: bytes) -> Member | None:
        """Return the member whom this certificate stands for, None if it stands for nobody (any more)."""
        name = self._certificates.holder(der)
        return None if name is None else self._one(MemberRow.name == name)

    def by_key(self, key: str) -> Member | None:
        """Return the member whose identity key is *key*, or None."""
        return self._one(MemberRow.key == key)

    def _one(self, condition: Any) -> Member | None:
        return next(iter(self._members(condition)), None)

    def members(self) -> list[Member]:
        """Return everyone who is enrolled and not revoked, by name."""
        return self._members(MemberRow.name.is_not(None))

    def _members(self, condition: Any) -> list[Member]:
        columns = (MemberRow.name, MemberRow.role, MemberRow.organisation, MemberRow.key)
        out = select(RevocationRow.member).where(RevocationRow.member == MemberRow.name).exists()
        with self._engine.connect() as connection:
            rows = connection.execute(select(*columns).where(condition, ~out).order_by(MemberRow.name))
            return [Member(*row) for row in rows]

    def sites(self) -> list[RosterEntry]:
        """Return the enrolled sites, by name."""
        return [
            RosterEntry(name=member.name, organisation=member.organisation, key=member.key)
            for member in self.members()
            if member.role == "site"
        ]

    # -- revocations -------------------------------------------------------------------------------

    def revoke(self, name: str, *, reason: str, by: Signer) -> Revocation:
        """Put a member out, for good, with a statement that *by*, the coordinator, signs.

        Raises
        ------
        LinkError
            ``link.no_member``: nobody of that name is enrolled, or not any more.
        ValidationError
            *reason* is empty, too long or not one line.
        """
        member = self._one(MemberRow.name == name)
        if member is None:
            raise LinkError("link.no_member", f"nobody called {name!r} is enrolled here.")
        said = Revocation.model_validate(
            {
                "name": member.name,
                "role": member.role,
                "key": member.key,
                "revoked": stamp(self._clock()),
                "reason": reason,
            }
        )
        statement = Envelope.of(said).signed(by)
        with Session(self._engine) as session, session.begin():
            session.add(RevocationRow(member=name, statement=statement.wire().decode()))
        return said

    def revocations(self, after: int = 0) -> list[Revoked]:
        """Return the revocations with numbers above *after*, in the order in which they were made."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(RevocationRow.number, RevocationRow.statement)
                .where(RevocationRow.number > after)
                .order_by(RevocationRow.number)
            ).all()
        found = [(number, parse_envelope(text.encode())) for number, text in rows]
        return [Revoked(number, statement.open(Revocation), statement) for number, statement in found]

    # -- connections -------------------------------------------------------------------------------

    def note_connection(self, name: str, *, end_to_end: bool) -> None:
        """Keep where the TLS of the member's last request ended; written only when it changes."""
        if self._end_to_end.get(name) != end_to_end:
            with Session(self._engine) as session, session.begin():
                session.merge(ConnectionRow(name=name, end_to_end=end_to_end))
            self._end_to_end[name] = end_to_end

    def intercepted(self) -> list[str]:
        """Return the members whose last request came through a proxy that terminates TLS, by name."""
        with Session(self._engine) as session:
            rows = session.scalars(select(ConnectionRow).where(ConnectionRow.end_to_end.is_(False)))
            return sorted(row.name for row in rows)

    def _now(self) -> datetime:
        return self._clock().astimezone(UTC).replace(tzinfo=None)
