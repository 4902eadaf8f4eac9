"""Find, fetch, publish and check adapters and base models; run a hub."""

from __future__ import annotations

import typer

from plasmid.cli.main import LazyVerbs
from plasmid.cli.verbs import hub_find, hub_make, hub_share, hub_verify


class HubVerbs(LazyVerbs):
    """What is defined here is a node's; what runs a hub is the platform's, and found as entry points."""

    points_group = "plasmid.verbs.hub"


app = typer.Typer(cls=HubVerbs, add_completion=False, no_args_is_help=True, help=__doc__)


@app.callback()
def _hub() -> None:
    """Find, fetch, publish and check adapters and base models; run a hub."""


for _verb in (
    hub_find.ls,
    hub_find.search,
    hub_find.show,
    hub_find.history,
    hub_share.push,
    hub_share.pull,
    hub_verify.verify,
    hub_share.tag,
    hub_share.retire,
    hub_make.merge,
    hub_make.export,
):
    app.command()(_verb)
