"""The options by which verbs get at a party's keys: a place where the passphrase is, never the passphrase."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import EncryptedFile
from plasmid.gateway.keys.passphrase import find
from plasmid.uplink.enrol import Credential

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A file of mode 0600 with the passphrase; default: asked for"),
]
PassphraseFd = Annotated[
    int | None, typer.Option("--passphrase-fd", help="An inherited descriptor to read it from", min=0)
]


def site_keys(site: SiteHome, *, file: Path | None = None, descriptor: int | None = None) -> EncryptedFile:
    """Return a site's keys, which open at their first use. Raises UsageError (``usage.no_site``)."""
    what = f"the site {site.config().name}"
    return EncryptedFile(site.keys, find(what, file=file, descriptor=descriptor))


def person_keys(
    credential: Credential, *, file: Path | None = None, descriptor: int | None = None
) -> EncryptedFile:
    """Return a person's keys, which open at their first use. Raises UsageError (``usage.not_enrolled``)."""
    return credential.keys(find(credential.name, file=file, descriptor=descriptor))
