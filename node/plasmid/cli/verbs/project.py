"""Projects: who works together, on what, until when. A run belongs to one, and every site signs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from plasmid.cli.keys import PassphraseFd, PassphraseFile, person_keys, site_keys
from plasmid.cli.output import Format, FormatOption, Reply, reply
from plasmid.core.clock import now
from plasmid.core.errors import ProjectRefused, UsageError
from plasmid.core.files import home as state_home
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import KeyStore
from plasmid.gateway.members.peers import Peers, read_peers
from plasmid.gateway.members.projects import Projects, check_confirmed, leave_project, sign_project
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import fingerprint
from plasmid.protocol.project import Project, ProjectPerson, ProjectSite
from plasmid.uplink.enrol import Credential
from plasmid.uplink.link import LinkClient
from plasmid.uplink.projects import Known, fetch_member, fetch_projects, find_project, put_project

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="A site's or a person's folder; default PLASMID_HOME/site, else /client"),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]


@dataclass(frozen=True)
class _Party:
    """Whoever calls: a site in its folder, or a person (``site`` None), connected to the coordinator."""

    credential: Credential
    keys: KeyStore
    site: SiteHome | None
    link: LinkClient

    @property
    def peers(self) -> Peers | None:
        """Whom the site's owner has confirmed; None for a person."""
        return read_peers(self.site.peers) if self.site else None

    def signed_here(self, digest: str) -> bool | None:
        """Return whether the site has signed the project *digest*; None for a person."""
        return digest in projects_of(self.site).all() if self.site else None


def projects_of(site: SiteHome) -> Projects:
    """Return what the site in its folder has signed; needs no passphrase."""
    return Projects(site.projects, name=site.config().name, key=site.public)


def _folder(folder: Path | None) -> Path:
    if folder is not None:
        return folder
    site = state_home() / "site"
    return site if (site / "site.yaml").exists() else state_home() / "client"


@contextmanager
def _connected(
    folder: Path, file: Path | None, descriptor: int | None, *, site_only: bool = False
) -> Iterator[_Party]:
    site = SiteHome(folder) if site_only or (folder / "site.yaml").exists() else None
    credential = Credential(folder)
    keys = (
        site_keys(site, file=file, descriptor=descriptor)
        if site
        else person_keys(credential, file=file, descriptor=descriptor)
    )
    link = credential.connect(keys)
    try:
        yield _Party(credential, keys, site, link)
    finally:
        link.close()


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The project's name: lower case, digits and -")],
    site: Annotated[list[str], typer.Option(help="A member site; repeatable")],
    purpose: Annotated[str, typer.Option(help="A short code that policies name: vaccine-research")],
    until: Annotated[str, typer.Option(help="The last day on which runs may begin, YYYY-MM-DD (UTC)")],
    person: Annotated[
        list[str] | None,
        typer.Option(help="NAME:launch,receive; repeatable; default: yourself, both"),
    ] = None,
    since: Annotated[str | None, typer.Option("--from", help="The first day; default today")] = None,
    description: Annotated[str, typer.Option(help="What it is for, for those who sign it")] = "",
    yes: YesOption = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: Annotated[
        Path | None, typer.Option("--home", help="Your folder; default PLASMID_HOME/client")
    ] = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Propose a project, for its sites to sign.

    You are one of its people, by default the only one, who may launch and
    receive.

    \b
    Examples:
      plasmid project new binders --site a --site b --site c --until 2027-12-31 --purpose vaccine-research
    """
    with (
        reply(format) as answer,
        _connected(home or state_home() / "client", passphrase_file, passphrase_fd) as me,
    ):
        roles = dict(_person(text) for text in person or [f"{me.credential.name}:launch,receive"])
        project = _make(
            me.link,
            sites=sorted(set(site)),
            roles=roles,
            name=name,
            purpose=purpose,
            description=description,
            first_day=since or now().astimezone(UTC).date().isoformat(),
            last_day=until,
        )
        envelope = Envelope.of(project)
        _tell(answer, Known(project, envelope), peers=None)
        _confirm("Propose it?", yes=yes)
        digest = put_project(me.link, envelope)
        answer.data |= {"digest": digest, "project": project.model_dump(mode="json")}
        answer.say(f"Next, at each site: plasmid project sign {digest}")


def _person(text: str) -> tuple[str, list[str]]:
    name, _, roles = text.partition(":")
    return name, sorted(set(filter(None, roles.split(","))))


def _make(link: LinkClient, *, sites: list[str], roles: dict[str, list[str]], **values: Any) -> Project:
    """Return the project of those whom the coordinator lists under these names."""
    members: dict[str, list[Any]] = {"site": [], "person": []}
    for name, role in [*((site, "site") for site in sites), *((one, "person") for one in sorted(roles))]:
        found = fetch_member(link, name)
        if found.role != role:
            raise UsageError(
                "usage.role", f"{name} is enrolled as a {found.role}.", f"Give the name of a {role}."
            )
        card = found.model_dump(exclude={"role"})
        kind: Any = ProjectSite if role == "site" else ProjectPerson
        try:
            members[role].append(kind(**card) if role == "site" else kind(**card, roles=roles[name]))
        except ValidationError as error:
            raise UsageError(
                "usage.role",
                f"--person {name}:{','.join(roles[name])} names no role, or an unknown one.",
                "The roles are launch and receive: --person ada:launch,receive",
            ) from error
    try:
        for day in (values["first_day"], values["last_day"]):
            date.fromisoformat(day)
        return Project(sites=members["site"], people=members["person"], **values)
    except ValueError as error:  # pydantic's too
        raise UsageError(
            "usage.project",
            "a project needs a name and a purpose in lower-case letters, digits and -, at most 63 of them; a "
            "line of at most 2,000 that describes it; days as YYYY-MM-DD, the last not before the first.",
            "For example: --purpose vaccine-research --until 2027-12-31",
        ) from error


@app.command()
def ls(
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List the projects that you, or your site, are a member of."""
    with reply(format) as answer, _connected(_folder(home), passphrase_file, passphrase_fd) as me:
        known = fetch_projects(me.link)
        answer.data["projects"] = [_summary(one, me) for one in known]
        for one in known:
            answer.say(f"{one.digest}  [bold]{one.project.name}[/bold]  {_state(one)}")
        if not known:
            answer.say("No projects yet. Propose one: plasmid project new")


@app.command()
def show(
    project: Annotated[str, typer.Argument(help="Its name or digest")],
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Show a project: members, roles, dates, who has signed."""
    with reply(format) as answer, _connected(_folder(home), passphrase_file, passphrase_fd) as me:
        one = find_project(fetch_projects(me.link), project)
        answer.data |= {**_summary(one, me), "project": one.project.model_dump(mode="json")}
        _tell(answer, one, peers=me.peers)


@app.command()
def sign(
    project: Annotated[str, typer.Argument(help="Its digest, or its name")],
    yes: YesOption = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Sign a project for your site, so that its runs may reach it."""
    folder = home or state_home() / "site"
    with (
        reply(format) as answer,
        _connected(folder, passphrase_file, passphrase_fd, site_only=True) as me,
    ):
        assert me.site is not None
        one = find_project(fetch_projects(me.link), project)
        _tell(answer, one, peers=me.peers)
        answer.data |= {"digest": one.digest, "project": one.project.model_dump(mode="json")}
        check_confirmed(one.project, me=me.credential.name, peers=read_peers(me.site.peers))
        _confirm("Sign it for your site?", yes=yes)
        signer = me.keys.identity()
        signed = sign_project(one.envelope, signer, projects_of(me.site), AuditLog(me.site.audit, signer))
        put_project(me.link, signed)
        missing = one.project.missing(signed)
        answer.data["missing"] = missing
        answer.say(
            f"{one.project.name} is signed. "
            + (f"Still to sign: {', '.join(missing)}." if missing else "Every site has signed it.")
        )


@app.command()
def leave(
    project: Annotated[str, typer.Argument(help="Its name or digest")],
    yes: YesOption = False,
    home: Annotated[
        Path | None, typer.Option("--home", help="The site's folder; default PLASMID_HOME/site")
    ] = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Take your site's consent to a project back. Works without the coordinator, and at once."""
    with reply(format) as answer:
        site = SiteHome(home or state_home() / "site")
        projects = projects_of(site)
        known = [Known(one, Envelope.of(one)) for one in projects.all().values()]
        try:
            one = find_project(known, project)
        except ProjectRefused as error:
            if error.code != "project.unknown":
                raise
            raise ProjectRefused(
                "project.not_signed_here",
                f"this site has signed no {project}.",
                "There is nothing to leave.",
            ) from error
        _confirm(f"Leave {one.project.name}? Its runs end at this site.", yes=yes)
        leave_project(one.digest, projects, AuditLog(site.audit))
        answer.data["digest"] = one.digest
        answer.say(f"This site has left {one.project.name}. What the ledger and the log say of it stays.")


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "usage.not_confirmed", "it was not confirmed: there is no terminal to ask at.", "Give --yes."
        )
    if not typer.confirm(question, err=True):
        raise UsageError("usage.not_confirmed", "it was not confirmed; nothing was changed.", "")


def _summary(one: Known, me: _Party) -> dict[str, Any]:
    project, peers = one.project, me.peers
    confirmed = {(peer.name, peer.organisation, peer.key) for peer in peers.sites} if peers else set()
    return {
        "digest": one.digest,
        "name": project.name,
        "purpose": project.purpose,
        "first_day": project.first_day,
        "last_day": project.last_day,
        "missing": project.missing(one.envelope),
        "signed_here": me.signed_here(one.digest),
        "confirmed": None
        if peers is None
        else [site.name for site in project.sites if (site.name, site.organisation, site.key) in confirmed],
    }


def _state(one: Known) -> str:
    project, today = one.project, now().astimezone(UTC).date().isoformat()
    missing = project.missing(one.envelope)
    if missing:
        return f"waits for the signatures of {', '.join(missing)}"
    if today > project.last_day:
        return f"ended on {project.last_day}"
    return f"in force until {project.last_day}" if today >= project.first_day else f"from {project.first_day}"


def _tell(answer: Reply, one: Known, *, peers: Peers | None) -> None:
    """Print what is signed, for people."""
    from rich.markup import escape

    project = one.project
    missing = set(project.missing(one.envelope))
    confirmed = {(peer.name, peer.organisation, peer.key) for peer in peers.sites} if peers else set()
    answer.say(
        f"[bold]{project.name}[/bold], for {project.purpose}, {project.first_day} to {project.last_day}",
        *([f"  {escape(project.description)}"] if project.description else []),
        f"  digest {one.digest}",
    )
    for site in project.sites:
        marks = ["has not signed" if site.name in missing else "has signed"]
        if peers is not None and (site.name, site.organisation, site.key) in confirmed:
            marks.append("confirmed by you")
        answer.say(
            f"  site {site.name} of {escape(site.organisation)}: {', '.join(marks)}",
            f"    {fingerprint(site.key)}",
        )
    for person in project.people:
        may = " and ".join(person.roles)
        answer.say(
            f"  person {person.name} of {escape(person.organisation)}: may {may}",
            f"    {fingerprint(person.key)}",
        )
