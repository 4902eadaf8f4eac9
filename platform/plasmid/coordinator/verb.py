"""Make and run a coordinator: the neutral party that sees sums."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.coordinator.coordinator import CoordinatorHome
from plasmid.core.errors import UsageError
from plasmid.core.files import home
from plasmid.core.lifetime import end_event
from plasmid.protocol.enrolment import Organisation
from plasmid.protocol.identity import fingerprint
from plasmid.secagg.statements import SiteName

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The coordinator's folder; default PLASMID_HOME/coordinator")
]


def _coordinator(folder: Path | None) -> CoordinatorHome:
    return CoordinatorHome(folder or home() / "coordinator")


@app.command()
def init(
    host: Annotated[
        list[str] | None, typer.Option(help="A name or address that sites dial; repeatable")
    ] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Make a coordinator: identity, local CA, server certificate."""
    with reply(format) as answer:
        coordinator = _coordinator(home)
        identity = coordinator.create(host or ["localhost", "127.0.0.1"])
        answer.data |= {"folder": str(coordinator.folder), "fingerprint": fingerprint(identity.public)}
        answer.say(
            f"Coordinator in {coordinator.folder}",
            f"Fingerprint to read out to sites and people: {fingerprint(identity.public)}",
            "Next: plasmid coordinator start --port 8443, and plasmid coordinator invite NAME",
        )


@app.command()
def start(
    host: Annotated[str, typer.Option(help="The address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 lets the system choose", min=0, max=65535)] = 0,
    until_stdin_closes: Annotated[
        bool, typer.Option(help="End when standard input does (for launchers)")
    ] = False,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Run the coordinator until Ctrl-C."""
    with reply(format) as answer:
        from plasmid.coordinator.coordinator import running

        with running(_coordinator(home), host=host, port=port) as url:
            # Ray has set its own handler of SIGTERM by now.
            ended = end_event(until_stdin_closes=until_stdin_closes)
            answer.note(f"coordinator is up at {url} (Ctrl-C ends it)")
            ended.wait()
        answer.data["url"] = url


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="The newcomer's name")],
    organisation: Annotated[str, typer.Option(help="The newcomer's organisation")],
    role: Annotated[str, typer.Option(help="site or person")] = "site",
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Print an invitation: a secret that enrols one newcomer, once, within three days."""
    with reply(format) as answer:
        if role not in ("site", "person"):
            raise UsageError("usage.role", f"{role!r} is not a role.", "Use --role site or --role person.")
        try:
            TypeAdapter(SiteName).validate_python(name)
            TypeAdapter(Organisation).validate_python(organisation)
        except ValidationError as error:
            raise UsageError(
                "usage.name",
                f"{name!r} of {organisation!r} cannot be a name and an organisation.",
                "Letters, digits, - and _ for the name; 1 to 100 visible characters for the organisation.",
            ) from error
        coordinator = _coordinator(home)
        shown = fingerprint(coordinator.identity().public)
        secret = coordinator.registry().invite(name=name, role=role, organisation=organisation)
        answer.data |= {"invitation": secret, "fingerprint": shown}
        answer.say(f"Invitation for {name}: {secret}", f"The coordinator's fingerprint: {shown}")


@app.command()
def invitations(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """List the invitations: open, used, expired."""
    with reply(format) as answer:
        coordinator = _coordinator(home)
        coordinator.identity()
        found = coordinator.registry().invitations()
        answer.data["invitations"] = [asdict(known) for known in found]
        for known in found:
            answer.say(
                f"  {known.id}  {known.state}  {known.role} {known.name} ({plain(known.organisation)}), "
                f"until {known.expires}"
            )
        if not found:
            answer.say("There are no invitations.")


@app.command("revoke-invitation")
def revoke_invitation(
    invitation: Annotated[str, typer.Argument(help="Its id ('invitations' lists them), or its name")],
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Take back an invitation that was not used."""
    with reply(format) as answer:
        coordinator = _coordinator(home)
        coordinator.identity()
        known = coordinator.registry().take_back(invitation)
        answer.data["invitation"] = asdict(known)
        answer.say(f"The invitation {known.id} for {known.role} {known.name} enrols nobody any more.")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The member's name")],
    reason: Annotated[str, typer.Option(help="Why; every site is told")],
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Put a site or person out, for good and at once: nothing is open to it, and every site is told.

    Its waiting poll ends, a person's runs stop, and every site refuses the
    key. The reason goes to every site.
    """
    with reply(format) as answer:
        coordinator = _coordinator(home)
        identity = coordinator.identity()
        try:
            said = coordinator.registry().revoke(name, reason=reason, by=identity)
        except ValidationError as error:
            raise UsageError(
                "usage.reason", "--reason is one line of 1 to 300 characters.", "Say why in a few words."
            ) from error
        answer.data["revocation"] = said.model_dump()
        answer.say(f"{said.role} {said.name} ({fingerprint(said.key)}) is out since {said.revoked}.")


@app.command()
def show(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """Show the coordinator's fingerprint, its address and who is enrolled, with fingerprints."""
    with reply(format) as answer:
        coordinator = _coordinator(home)
        shown = fingerprint(coordinator.identity().public)
        registry = coordinator.registry()
        members, intercepted = registry.members(), registry.intercepted()
        answer.data |= {
            "fingerprint": shown,
            "url": coordinator.endpoint(),
            "members": [{**asdict(member), "fingerprint": fingerprint(member.key)} for member in members],
            "intercepted": intercepted,
        }
        answer.say(f"Fingerprint: {shown}", f"Running at: {coordinator.endpoint() or 'not running'}")
        for member in members:
            proxied = "; its TLS ends at a proxy" if member.name in intercepted else ""
            shown = fingerprint(member.key)
            answer.say(f"  {member.role} {member.name} ({plain(member.organisation)}): {shown}{proxied}")
