"""Enrol yourself at a coordinator, so that you may plan and launch runs there."""

from __future__ import annotations

from typing import Annotated

import typer

from plasmid.cli.output import Format, FormatOption, reply
from plasmid.cli.verbs.site import confirm_with
from plasmid.client.api import person_credential
from plasmid.protocol.identity import fingerprint
from plasmid.site.enrol import enrol, new_identity

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def login(
    name: Annotated[str, typer.Argument(help="Your name, as the invitation has it")],
    coordinator: Annotated[str, typer.Option(help="The coordinator's URL, https://host:port")],
    invitation: Annotated[str, typer.Option(help="From the coordinator's operator, with --role person")],
    organisation: Annotated[str, typer.Option(help="As the invitation has it")],
    coordinator_fingerprint: Annotated[
        str | None, typer.Option(help="As its operator reads it out; asked for if left out")
    ] = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Make your keys here and enrol them with an invitation."""
    with reply(format) as answer:
        credential = person_credential()
        identity = new_identity(credential.folder, name)
        try:
            enrol(
                credential.folder,
                identity,
                url=coordinator,
                role="person",
                organisation=organisation,
                invitation=invitation,
                confirm=confirm_with(coordinator_fingerprint),
            )
        except BaseException:
            (credential.folder / "identity.key").unlink(missing_ok=True)
            raise
        url, key = credential.coordinator()
        answer.data |= {"coordinator": url, "fingerprint": fingerprint(key), "name": name}
        answer.say(f"{name} is enrolled at {url}.", "Next: plasmid run RECIPE --coordinator " + url)
