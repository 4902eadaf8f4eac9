"""Run a hub on this machine."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from plasmid.cli.output import Format, FormatOption, reply
from plasmid.core.clock import now
from plasmid.core.errors import UsageError
from plasmid.core.lifetime import end_event
from plasmid.hub.settings import HubSettings
from plasmid.hub.store.blob_retention import collect as collect_blobs
from plasmid.hub.store.migrations import current

HomeOption = Annotated[Path | None, typer.Option("--home", help="The hub's folder; default PLASMID_HOME/hub")]


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 lets the system choose", min=0, max=65535)] = 8080,
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM file: the certificate with its chain", exists=True, dir_okay=False),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="PEM file: its private key", exists=True, dir_okay=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The address that clients know the hub by, if it is another one")
    ] = None,
    name: Annotated[str, typer.Option(help="What the pages call the hub")] = "Plasmid hub",
    require_licence: Annotated[
        bool, typer.Option(help="Refuse cards that name no licence, instead of warning")
    ] = False,
    until_stdin_closes: Annotated[
        bool, typer.Option(help="End when standard input does (for launchers)")
    ] = False,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Serve base models and adapters to Hugging Face clients until Ctrl-C."""
    with reply(format) as answer:
        from plasmid.hub.accounts.limits import Limits
        from plasmid.hub.app import build_app
        from plasmid.hub.server import Tls, serving

        if (certificate is None) != (key is None):
            raise UsageError("usage.tls", "--certificate and --key go together.", "Give both, or neither.")
        tls = Tls(certificate, key) if certificate and key else None
        settings = HubSettings.from_environment(home, url=url)
        limits = Limits(licence="require" if require_licence else "warn")
        app = partial(build_app, limits=limits, name=name)
        with serving(settings, host=host, port=port, tls=tls, app=app) as known_as:
            ended = end_event(until_stdin_closes=until_stdin_closes)
            answer.note(f"hub is up at {known_as} (Ctrl-C ends it)")
            answer.note(f"clients: export HF_ENDPOINT={known_as}")
            ended.wait()
        answer.data["url"] = known_as


def migrate(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """Bring the hub's database up to date; serving does that, too."""
    with reply(format) as answer:
        settings = HubSettings.from_environment(home)
        engine = settings.engine()
        changed = settings.prepare(engine)
        answer.data |= {"revision": current(engine), "changed": changed}
        engine.dispose()
        answer.say(f"The tables are at revision {answer.data['revision']}{'' if changed else ' already'}.")


def collect(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """Delete files that no repository uses any more and that nobody asked for in a day."""
    with reply(format) as answer, HubSettings.from_environment(home).open(migrate=False) as hub:
        done = collect_blobs(hub.engine, hub.blobs, now())
        answer.data |= asdict(done)
        answer.say(f"{done.blobs} files, {done.size:,} bytes and {done.partial} partial uploads are gone.")
