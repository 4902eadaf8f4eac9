"""Enrol yourself at a coordinator, so that you may plan and launch runs there."""

from __future__ import annotations

from typing import Annotated

import typer

from plasmid.cli.confirming import confirm_with
from plasmid.cli.keys import PassphraseFd, PassphraseFile
from plasmid.cli.output import Format, FormatOption, reply
from plasmid.client.api import person_credential
from plasmid.gateway.keys.keystore import KEYS_FILE, EncryptedFile
from plasmid.gateway.keys.passphrase import find
from plasmid.protocol.identity import fingerprint
from plasmid.uplink.enrol import enrol

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
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Make your keys here and enrol them with an invitation."""
    with reply(format) as answer:
        credential = person_credential()
        new = find(name, file=passphrase_file, descriptor=passphrase_fd, twice=True)
        keys = EncryptedFile.create(credential.folder / KEYS_FILE, name, new)
        try:
            enrol(
                credential.folder,
                keys,
                url=coordinator,
                role="person",
                organisation=organisation,
                invitation=invitation,
                confirm=confirm_with(coordinator_fingerprint),
            )
        except BaseException:
            keys.path.unlink(missing_ok=True)
            raise
        url, key = credential.coordinator()
        answer.data |= {
            "coordinator": url,
            "fingerprint": fingerprint(key),
            "name": name,
            "own_fingerprint": fingerprint(keys.public),
        }
        answer.say(
            f"{name} is enrolled at {url}.",
            f"Your fingerprint, to read out to the sites' owners: {fingerprint(keys.public)}",
            "Next: plasmid project new; once its sites have signed it, plasmid run RECIPE --coordinator "
            + url,
        )
