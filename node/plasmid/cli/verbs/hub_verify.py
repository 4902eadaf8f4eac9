"""Verify an adapter's folder, offline: its files, signatures, and what its card says about privacy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plasmid.cli.output import Format, FormatOption, reply

if TYPE_CHECKING:
    from plasmid.release.folder import Verified

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="The adapter's folder", exists=True, file_okay=False)],
    trust: Annotated[
        Path | None,
        typer.Option(help="Keys or fingerprints that you have compared; a site's peers.yaml will do"),
    ] = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Check every byte and signature of an adapter, down to keys that you have pinned.

    Also checks that card and provenance say what was signed. Without --trust
    the release vouches for itself. Exit status 1 where anything does not
    hold.
    """
    with reply(format) as answer:
        from plasmid.release.folder import read_trust, verify_release

        found = verify_release(folder, None if trust is None else read_trust(trust))
        answer.data |= found.as_json()
        answer.say("[bold green]verified[/bold green]", *(f"  {line}" for line in told(found)))


def told(found: Verified) -> list[str]:
    """Return what was found, as lines for people."""
    count = f"{len(found.countersigned)} of {len(found.participants)}"
    lines = [
        f"{found.files} files are as {found.person} of the project {found.project} released them",
        f"run {found.run}, recipe {found.recipe}, base {found.base}",
        f"signed by the coordinator {found.coordinator}",
        f"countersigned by {count} participants: {', '.join(found.countersigned) or 'none'}",
    ]
    if found.missing:
        lines.append(f"not countersigned by {', '.join(found.missing)}")
    lines.append(f"server step {found.server_step}")
    if found.pinned:
        lines.append(f"by keys that you have pinned: {', '.join(found.pinned)}")
    else:
        lines.append(
            "NO KEY IS PINNED: the keys are only those that the release itself names. Compare fingerprints "
            "with an owner, and give --trust FILE."
        )
    return [*lines, *found.privacy]
