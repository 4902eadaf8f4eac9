"""The projects that members of this coordinator have proposed, with the signatures so far.

Rules
-----
1. A project is kept under its digest, as its members wrote it; the coordinator adds nothing to it and counts
   only signatures of its member sites that hold.
2. Whoever is not a member of a project does not learn that it is there.
3. What makes a project binding is checked by each gateway again; this registry is a letter box.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Engine, ForeignKey, String, Text, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from plasmid.core.errors import ProjectRefused
from plasmid.link.engine import create_tables
from plasmid.link.registry import Member
from plasmid.protocol.envelope import Envelope, parse_envelope
from plasmid.protocol.project import Project


class _Base(DeclarativeBase):
    pass


class _Project(_Base):
    __tablename__ = "projects"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    envelope: Mapped[str] = mapped_column(Text)
    proposed: Mapped[datetime]


class _Membership(_Base):
    __tablename__ = "project_members"
    digest: Mapped[str] = mapped_column(ForeignKey("projects.digest"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class ProjectRegistry:
    """See the module's rules."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        create_tables(engine, _Base.metadata)

    def put(self, envelope: Envelope, caller: Member, enrolled: list[Member]) -> str:
        """Take a proposal of *caller*, or further signatures of one that is here; return its digest.

        Raises
        ------
        ProtocolError
            ``protocol.malformed``; ``protocol.signature``: a member's signature is wrong.
        ProjectRefused
            ``project.not_member``: *caller* is not in it; ``project.member``: somebody in it is not among the
            *enrolled*, as it is named there.
        """
        project = envelope.open(Project)
        members = {(site.name, site.organisation, site.key, "site") for site in project.sites}
        members |= {(person.name, person.organisation, person.key, "person") for person in project.people}
        if (caller.name, caller.organisation, caller.key, caller.role) not in members:
            raise ProjectRefused(
                "project.not_member",
                f"{caller.name} is not a member of the project {project.name} that it proposes or signs.",
                "A project is proposed and signed by its members.",
            )
        known = {(m.name, m.organisation, m.key, m.role) for m in enrolled}
        strangers = sorted(name for name, *rest in members if (name, *rest) not in known)
        if strangers:
            raise ProjectRefused(
                "project.member",
                f"not enrolled here under the organisation, key and role that the project names: "
                f"{', '.join(strangers)}.",
                "Make the project anew from who is enrolled: 'plasmid project new'.",
            )
        digest = project.digest()
        keys = {site.key for site in project.sites}
        envelope.signers(keys)
        with Session(self._engine) as session, session.begin():
            row = session.get(_Project, digest)
            before = [] if row is None else parse_envelope(row.envelope.encode()).signatures
            said = {one.keyid: one for one in (*before, *envelope.signatures) if one.keyid in keys}
            merged = envelope.model_copy(update={"signatures": [said[key] for key in sorted(said)]})
            text = merged.wire().decode()
            if row is not None:
                row.envelope = text
                return digest
            session.add(_Project(digest=digest, envelope=text, proposed=_now()))
            session.flush()
            session.add_all(_Membership(digest=digest, key=key) for _, _, key, _ in members)
        return digest

    def get(self, digest: str, key: str) -> Envelope:
        """Return the project *digest* for a member. Raises ProjectRefused (``project.unknown``)."""
        with Session(self._engine) as session:
            row = session.get(_Project, digest)
            if row is None or session.get(_Membership, (digest, key)) is None:
                raise ProjectRefused(
                    "project.unknown",
                    f"there is no project {digest} that you are a member of.",
                    "'plasmid project ls' lists them.",
                )
            return parse_envelope(row.envelope.encode())

    def of(self, key: str) -> list[Envelope]:
        """Return the projects of the member with *key*, newest first."""
        with Session(self._engine) as session:
            rows = session.scalars(
                select(_Project)
                .join(_Membership, _Membership.digest == _Project.digest)
                .where(_Membership.key == key)
                .order_by(_Project.proposed.desc(), _Project.digest)
            ).all()
            return [parse_envelope(row.envelope.encode()) for row in rows]


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
