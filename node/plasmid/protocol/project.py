"""A project: who works together, on what, and until when; signed by every member.

Rules
-----
1. A project's digest is its identity. A change is another project, which every member signs anew.
2. It is in force when every member site's own key has signed it and the day is within its dates.
3. Only a person who may ``launch`` starts runs in it, and a run reaches only its member sites.
4. What a run returns goes to the people who may ``receive``; that list is the approvals' *audience*.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from plasmid.core.canonical import digest_json
from plasmid.core.errors import ProjectRefused
from plasmid.protocol.enrolment import VISIBLE, Organisation
from plasmid.protocol.envelope import Envelope, Statement
from plasmid.protocol.identity import PublicKey
from plasmid.secagg.statements import SiteName

ProjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Purpose = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
Description = Annotated[str, StringConstraints(max_length=2000, pattern=rf"^{VISIBLE}*$")]
ProjectRole = Literal["launch", "receive"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ProjectSite(_Part):
    """A member: one site, its organisation and its identity key."""

    name: SiteName
    organisation: Organisation
    key: PublicKey


class ProjectPerson(_Part):
    """A person of the project and what it may do there."""

    name: SiteName
    organisation: Organisation
    key: PublicKey
    roles: Annotated[list[ProjectRole], Field(min_length=1, max_length=2)]


class Project(Statement):
    """The signed description of a project.

    Attributes
    ----------
    purpose, description
        A short code that policies name, for example ``vaccine-research``, and a line that explains it.
    sites, people
        By name, each once; no two of all members have one key.
    first_day, last_day
        The dates, both inclusive, UTC, on which runs may be admitted.
    """

    version: Literal[1] = 1
    name: ProjectName
    purpose: Purpose
    description: Description = ""
    sites: Annotated[list[ProjectSite], Field(min_length=1, max_length=64)]
    people: Annotated[list[ProjectPerson], Field(min_length=1, max_length=256)]
    first_day: Day
    last_day: Day

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sites, people = [s.name for s in self.sites], [p.name for p in self.people]
        keys = [s.key for s in self.sites] + [p.key for p in self.people]
        if sites != sorted(set(sites)) or people != sorted(set(people)):
            raise ValueError("sites and people are listed once each, by name")
        if len(set(keys)) != len(keys):
            raise ValueError("two members have one key")
        if date.fromisoformat(self.first_day) > date.fromisoformat(self.last_day):
            raise ValueError("the last day is before the first")
        if any(person.roles != sorted(set(person.roles)) for person in self.people):
            raise ValueError("roles are listed once each, in order")
        return self

    @property
    def audience(self) -> str:
        """The digest of who may receive results: [[name, organisation, key] ...] by name."""
        receive = [[p.name, p.organisation, p.key] for p in self.people if "receive" in p.roles]
        return digest_json(receive)

    def launcher(self, name: str) -> ProjectPerson:
        """Return the person *name*. Raises ProjectRefused (``project.requester``) if it may not launch."""
        for person in self.people:
            if person.name == name and "launch" in person.roles:
                return person
        raise ProjectRefused(
            "project.requester",
            f"{name} is nobody who may launch runs in the project {self.name}.",
            "Ask a member who may, or have the sites sign a project that lets you.",
        )

    def site(self, name: str) -> ProjectSite:
        """Return the member site *name*. Raises ProjectRefused (``project.reach``)."""
        self.check_reach([name])
        return next(site for site in self.sites if site.name == name)

    def missing(self, envelope: Envelope) -> list[str]:
        """Return the member sites whose signature *envelope* lacks. Raises as :meth:`Envelope.signers`."""
        signed = envelope.signers({site.key for site in self.sites})
        return [site.name for site in self.sites if site.key not in signed]

    def check_signed(self, envelope: Envelope) -> None:
        """Raise ProjectRefused (``project.unsigned``) unless every member site has signed *envelope*.

        Raises also as :meth:`Envelope.signers`.
        """
        missing = self.missing(envelope)
        if missing:
            raise ProjectRefused(
                "project.unsigned",
                f"the project {self.name} lacks the signatures of {', '.join(missing)}.",
                "Each member site signs with 'plasmid project sign'.",
            )

    def check_reach(self, sites: Iterable[str]) -> None:
        """Raise ProjectRefused (``project.reach``) if *sites* are not all members."""
        strangers = sorted(set(sites) - {site.name for site in self.sites})
        if strangers:
            raise ProjectRefused(
                "project.reach",
                f"{', '.join(strangers)}: not in the project {self.name}.",
                "Invite only the project's sites.",
            )

    def check_dates(self, time: datetime) -> None:
        """Raise ProjectRefused (``project.dates``) if the project is not in force at *time*."""
        day = time.astimezone(UTC).date().isoformat()
        if not self.first_day <= day <= self.last_day:
            raise ProjectRefused(
                "project.dates",
                f"the project {self.name} is in force from {self.first_day} to {self.last_day}, not {day}.",
                "Have the members sign one with other dates.",
            )


def open_project(envelope: Envelope) -> Project:
    """Return the project inside *envelope*, signed by every member.

    Raises
    ------
    ProtocolError
        ``protocol.malformed``; ``protocol.signature``: a member's signature is wrong.
    ProjectRefused
        ``project.unsigned``: a member has not signed.
    """
    project = envelope.open(Project)
    project.check_signed(envelope)
    return project
