"""What the client verbs of ``plasmid hub`` have in common: which hub, whose token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.core.errors import UsageError

EndpointOption = Annotated[
    str | None, typer.Option("--endpoint", help="The hub's address; else HF_ENDPOINT. The public hub only so")
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", help="A file with a token; else that of 'hf auth login' or HF_TOKEN"),
]
RepoArgument = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository, @REVISION may follow")]


def hub_of(endpoint: str | None, token_file: Path | None) -> Any:
    """Return the hub that the options mean.

    Raises
    ------
    UsageError
        ``usage.token_file``: the file cannot be read, or holds no token.
    HubError
        As :func:`plasmid.hubclient.client.find_hub`.
    """
    from plasmid.hubclient.client import find_hub

    token = None
    if token_file is not None:
        try:
            token = token_file.read_text("utf-8").strip()
        except (OSError, ValueError):
            token = ""
        if not token or len(token) > 1000 or not token.isprintable() or " " in token:
            raise UsageError(
                "usage.token_file",
                f"{token_file} holds no token.",
                "One line: what 'plasmid hub token create' printed.",
            )
    return find_hub(endpoint, token=token)
