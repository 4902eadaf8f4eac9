"""The option by which verbs of a site get its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plasmid.core.files import home
from plasmid.gateway.home import SiteHome

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The site's folder; default PLASMID_HOME/site")
]


def site_at(folder: Path | None) -> SiteHome:
    """Return the site in *folder*, None: in the state folder."""
    return SiteHome(folder or home() / "site")
