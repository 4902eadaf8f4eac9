"""Projects as the coordinator keeps them: propose, sign, find. Nothing that it says is believed unchecked.

Rules
-----
1. A project is known by its digest, which is computed here.
2. The coordinator tells names, organisations and keys; people compare fingerprints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from plasmid.core.errors import LinkError, ProjectRefused, UsageError
from plasmid.protocol.enrolment import Organisation, Role
from plasmid.protocol.envelope import Envelope, parse_envelope
from plasmid.protocol.identity import PublicKey
from plasmid.protocol.project import Project
from plasmid.secagg.statements import SiteName
from plasmid.uplink.link import LinkClient, answered_json


@dataclass(frozen=True)
class Known:
    """A project, and the envelope with the signatures that the coordinator has so far."""

    project: Project
    envelope: Envelope

    @property
    def digest(self) -> str:
        """The project's digest."""
        return self.project.digest()


class MemberCard(BaseModel):
    """Who is enrolled under a name, as the coordinator has it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: SiteName
    role: Role
    organisation: Organisation
    key: PublicKey


def fetch_member(link: LinkClient, name: str) -> MemberCard:
    """Return who is enrolled as *name*. Raises LinkError (``link.no_member``) if nobody is."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        raise UsageError("usage.name", f"{name!r} is nobody's name.", "Use lower case, digits, - and _.")
    answer = answered_json(link.request("GET", f"/v1/members/{name}"))
    try:
        found = MemberCard.model_validate(answer)
    except ValidationError as error:
        raise LinkError("link.refused", f"the coordinator's answer about {name} has no form.") from error
    if found.name != name:
        raise LinkError("link.refused", f"asked about {name}, the coordinator answered about {found.name}.")
    return found


def put_project(link: LinkClient, envelope: Envelope) -> str:
    """Propose a project, or add signatures to it; return its digest."""
    link.request("POST", "/v1/projects", content=envelope.wire())
    return envelope.open(Project).digest()


def fetch_projects(link: LinkClient) -> list[Known]:
    """Return the projects that the caller is a member of, newest first."""
    answer = answered_json(link.request("GET", "/v1/projects"))
    try:
        envelopes = [Envelope.model_validate(item) for item in answer["projects"]]
    except (ValidationError, KeyError, TypeError) as error:
        raise LinkError("link.refused", "the coordinator's list of projects has no form.") from error
    return [Known(envelope.open(Project), envelope) for envelope in envelopes]


def fetch_project(link: LinkClient, digest: str) -> Envelope:
    """Return the project *digest* with its signatures. Raises LinkError (``link.refused``)."""
    envelope = parse_envelope(link.request("GET", f"/v1/projects/{digest}").content)
    if envelope.open(Project).digest() != digest:
        raise LinkError("link.refused", f"the coordinator's answer about {digest} is another project.")
    return envelope


def find_project(known: list[Known], wanted: str) -> Known:
    """Return the project whose name or digest is *wanted*.

    Raises
    ------
    ProjectRefused
        ``project.unknown``, or ``project.ambiguous``: several have that name.
    """
    found = [one for one in known if wanted in (one.project.name, one.digest)]
    if not found:
        raise ProjectRefused(
            "project.unknown",
            f"there is no project {wanted} that you are a member of.",
            "'plasmid project ls' lists them.",
        )
    return _only(found, f"{len(found)} projects are called {wanted}")


def launchable(known: list[Known], name: str) -> Known:
    """Return the only one of *known* that all have signed and in which the person *name* may launch.

    Raises
    ------
    ProjectRefused
        ``project.unknown``: there is none; ``project.ambiguous``: there are several.
    """
    found = [
        one
        for one in known
        if not one.project.missing(one.envelope)
        and any(person.name == name and "launch" in person.roles for person in one.project.people)
    ]
    if not found:
        raise ProjectRefused(
            "project.unknown",
            f"there is no project, signed by all its sites, in which {name} may launch runs.",
            "Propose one with 'plasmid project new', and have its sites sign it.",
        )
    return _only(found, f"{name} may launch runs in {len(found)} projects")


def _only(found: list[Known], what: str) -> Known:
    if len(found) > 1:
        names = "".join(f"\n  {one.digest}  {one.project.name}" for one in found)
        raise ProjectRefused(
            "project.ambiguous",
            f"{what}:{names}",
            "Name one by its digest.",
        )
    return found[0]


def standing(one: Known, confirmed: Mapping[str, tuple[str, str]]) -> list[tuple[str, bool, bool]]:
    """Return (site, whether it has signed, whether it is *confirmed*) for each member site.

    *confirmed* is (organisation, key) by the name of each site that the owner knows.
    """
    missing = set(one.project.missing(one.envelope))
    return [
        (site.name, site.name not in missing, confirmed.get(site.name) == (site.organisation, site.key))
        for site in one.project.sites
    ]
