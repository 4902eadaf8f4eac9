"""The projects that this site has signed, and what it checks of a request before it looks at anything else.

Rules
-----
1. Default deny: a run is admitted only in a project that this site has signed. The envelope with its own
   signature lies in ``projects/<digest>.json``; taking the file away takes the consent away.
2. The project arrives whole with every request, and counts only when all its members have signed it.
3. A request counts only under the signature of a person whom the project lets launch. The coordinator can
   pass one on or keep it back; it cannot make, change or redirect one, nor run it under two ids.
4. A roster stays within the sites that the requester invited, under the keys that the project names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from plasmid.core.clock import parse
from plasmid.core.errors import ProjectRefused, ProtocolError
from plasmid.core.files import sync_folder, write_atomic
from plasmid.gateway.members.peers import Peers
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.envelope import Envelope, parse_envelope
from plasmid.protocol.identity import NamedSigner
from plasmid.protocol.messages import Admit, Ask, RunRequest, open_signed, run_id
from plasmid.protocol.project import Project, ProjectPerson

CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of this site's clock a request may have been signed."""


@dataclass(frozen=True)
class Requested:
    """A request that passed, with its project and who made it."""

    request: RunRequest
    project: Project
    requester: ProjectPerson

    @property
    def reach(self) -> frozenset[str]:
        """The sites that the requester invited."""
        return frozenset(self.request.sites or [site.name for site in self.project.sites])


class Projects:
    """What the site called *name* with the identity key *key* has signed, in one folder."""

    def __init__(self, folder: Path, *, name: str, key: str) -> None:
        self._folder = folder
        self.name, self.key = name, key

    def keep(self, envelope: Envelope) -> None:
        """Store a project that this site has signed; from now on its runs may be admitted.

        Raises
        ------
        ProjectRefused
            ``project.not_signed_here``: it does not carry this site's signature.
        """
        project = envelope.open(Project)
        self._check_own(project, envelope)
        write_atomic(self._path(project.digest()), envelope.wire())

    def drop(self, digest: str) -> None:
        """Take this site's consent to a project away; durable when this returns."""
        self.check(digest)
        self._path(digest).unlink()
        sync_folder(self._folder)

    def check(self, digest: str) -> None:
        """Raise ProjectRefused (``project.not_signed_here``) unless this site has signed the project."""
        path = self._path(digest)
        if not path.is_file() or self._read(path).digest() != digest:
            raise ProjectRefused(
                "project.not_signed_here",
                f"this site has not signed the project {digest}.",
                f"Read it and sign it: plasmid project sign {digest}",
            )

    def all(self) -> dict[str, Project]:
        """Return what this site has signed, by digest. Raises ProjectRefused if a file is damaged."""
        found = [self._read(path) for path in sorted(self._folder.glob("*.json"))]
        return {project.digest(): project for project in found}

    def _read(self, path: Path) -> Project:
        try:
            envelope = parse_envelope(path.read_bytes())
            project = envelope.open(Project)
            self._check_own(project, envelope)
        except ProtocolError as error:
            raise ProjectRefused(
                "project.not_signed_here",
                f"{path} is damaged: {error.message}",
                "Take the file away, then sign the project again.",
            ) from error
        return project

    def _check_own(self, project: Project, envelope: Envelope) -> None:
        own = any((site.name, site.key) == (self.name, self.key) for site in project.sites)
        if not own or not envelope.signers({self.key}):
            raise ProjectRefused(
                "project.not_signed_here",
                f"the project {project.name} does not carry the signature of {self.name}.",
                f"Read it and sign it: plasmid project sign {project.digest()}",
            )

    def _path(self, digest: str) -> Path:
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ProtocolError("protocol.malformed", "a project's digest does not have its form.")
        return self._folder / f"{digest}.json"


def check_request(asked: Ask | Admit, projects: Projects, *, time: datetime) -> Requested:
    """Return what *asked* asks for, if its project and its requester are in order at *time*.

    Raises
    ------
    ProjectRefused
        ``project.not_signed_here``, ``project.unsigned``, ``project.dates``, ``project.requester``;
        ``project.differs``: the request is for another project; ``project.requested``: signed in the future;
        ``project.reach``: it invites sites that are not of the project, or not this one.
    ProtocolError
        ``protocol.malformed``; ``protocol.signature``: not the requester's; ``protocol.run``: the run's id is
        not that of its request.
    """
    project = asked.project.open(Project)
    digest = project.digest()
    projects.check(digest)
    project.check_signed(asked.project)
    project.check_dates(time)
    requester = project.launcher(asked.request.signer)
    request = open_signed(asked.request, requester.key)
    if not isinstance(request, RunRequest):
        raise ProtocolError("protocol.malformed", f"{requester.name} signed what is no run request.")
    if request.project != digest:
        raise ProjectRefused(
            "project.differs",
            f"the request is for the project {request.project}, it came with {digest}.",
            "Nothing runs: the coordinator has put together what does not belong together.",
        )
    project.check_dates(parse(request.requested))
    if parse(request.requested) > time + CLOCK_SKEW:
        raise ProjectRefused(
            "project.requested",
            f"the request was signed at {request.requested}, which is later than this site's clock.",
            "Compare the clocks of requester and site.",
        )
    made = Requested(request, project, requester)
    project.check_reach(made.reach)
    if projects.name not in made.reach:
        raise ProjectRefused("project.reach", f"{requester.name} did not invite {projects.name}.")
    if isinstance(asked, Admit) and asked.run != run_id(request):
        raise ProtocolError(
            "protocol.run",
            f"the run is called {asked.run}, its request makes it {run_id(request)}.",
            "One request is one run; use one release at both ends.",
        )
    return made


def check_roster(requested: Requested, roster: Sequence[str], peers: Peers) -> None:
    """Refuse a *roster* that goes beyond what was requested, or that the owner knows under other keys.

    Raises
    ------
    ProjectRefused
        ``project.reach``; ``project.member``: the owner has confirmed a site of it under another key.
    """
    strangers = sorted(set(roster) - requested.reach)
    if strangers:
        raise ProjectRefused(
            "project.reach",
            f"{', '.join(strangers)}: not among the sites that {requested.requester.name} invited.",
            "Invite only the project's sites.",
        )
    named = {site.name: site.key for site in requested.project.sites}
    other = sorted(peer.name for peer in peers.sites if peer.name in roster and peer.key != named[peer.name])
    if other:
        raise ProjectRefused(
            "project.member",
            f"peers.yaml and the project {requested.project.name} name other keys for {', '.join(other)}.",
            "Compare fingerprints with its owner, then have the members sign a new project.",
        )


def check_confirmed(project: Project, *, me: str, peers: Peers) -> None:
    """Raise ProjectRefused (``project.unconfirmed``) unless the owner of *me* knows every other member site.

    Known means confirmed in ``peers.yaml`` under the organisation and the key that the project names.
    """
    confirmed = {(peer.name, peer.organisation, peer.key) for peer in peers.sites}
    strangers = [
        site.name
        for site in project.sites
        if site.name != me and (site.name, site.organisation, site.key) not in confirmed
    ]
    if strangers:
        raise ProjectRefused(
            "project.unconfirmed",
            f"you have not confirmed under the organisation and key that the project names: "
            f"{', '.join(strangers)}.",
            "Compare fingerprints with their owners, and confirm them: 'plasmid site peers confirm NAME'.",
        )


def sign_project(envelope: Envelope, signer: NamedSigner, projects: Projects, audit: AuditLog) -> Envelope:
    """Sign a project that the owner has read: logged first, then kept; return it with the signature.

    Raises
    ------
    ProjectRefused
        ``project.reach``: the site is not a member; ``project.member``: it is one under another key.
    StorageError
        It could not be logged or kept; there is no signature then.
    """
    project = envelope.open(Project)
    if project.site(signer.name).key != signer.public:
        raise ProjectRefused(
            "project.member",
            f"the project {project.name} names another key for {signer.name} than this site's.",
            "Have it proposed anew: 'plasmid project new'.",
        )
    signed = envelope.signed(signer)
    audit.write(
        "project.signed", actor="owner", object=project.digest(), name=project.name, purpose=project.purpose
    )
    projects.keep(signed)
    return signed


def leave_project(digest: str, projects: Projects, audit: AuditLog) -> None:
    """Take the owner's consent back: runs of the project end here at their next step, and none begins."""
    projects.check(digest)
    audit.write("project.left", actor="owner", object=digest)
    projects.drop(digest)
