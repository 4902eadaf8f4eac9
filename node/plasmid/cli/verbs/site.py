"""Make, enrol and run a site: the owner's end of a federation."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict

from plasmid.cli.output import Format, FormatOption, reply
from plasmid.core.errors import UsageError
from plasmid.core.files import home
from plasmid.core.lifetime import end_event
from plasmid.core.settings import read_settings
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.peers import Peer, Peers, write_peers
from plasmid.protocol.identity import PublicKey, fingerprint
from plasmid.site.enrol import Confirm, Credential, enrol, fetch_roster, new_identity

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The site's folder; default PLASMID_HOME/site")
]


def _site(folder: Path | None) -> SiteHome:
    return SiteHome(folder or home() / "site")


def init_site(
    site: SiteHome,
    *,
    name: str,
    organisation: str,
    data: Path | None,
    public_size: int | None = None,
) -> Peer:
    """Make a site in its folder, with fresh keys, and return its public card."""
    config = SiteConfig(
        name=name,
        organisation=organisation,
        data=str(data.absolute()) if data else "data",
        public_size=public_size,
    )
    site.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    identity = new_identity(site.folder, name)
    site.write_config(config)
    if data is None:
        (site.folder / "data").mkdir(exist_ok=True)
    return Peer(name=name, organisation=organisation, key=identity.public)


def ask_owner(what: str, shown: str) -> bool:
    """Ask the owner at the terminal; without one, nothing is confirmed."""
    sys.stderr.write(f"Fingerprint of {what}:\n  {shown}\n")
    if not sys.stdin.isatty():
        return False
    return typer.confirm("Is it the one that its owner reads out?", err=True)


def confirm_with(expected: str | None) -> Confirm:
    """Return a confirmation that compares with *expected*, or asks the owner where it is None."""
    if expected is None:
        return ask_owner
    wanted = "".join(expected.split()).replace("-", "").upper()
    return lambda _, shown: shown.replace("-", "") == wanted


class PeersFile(BaseModel):
    """A ``--peers`` file: the confirmed sites, and the coordinator's key if it is to be compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    coordinator: PublicKey | None = None
    sites: list[Peer]


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The site's name: lower case, digits, - and _")],
    organisation: Annotated[str, typer.Option(help="Whose site it is, as peers know it")],
    data: Annotated[
        Path | None, typer.Option(help="A CSV file or a folder; default: the site's data/ folder")
    ] = None,
    public_size: Annotated[
        int | None, typer.Option(help="Rounded number of its records or patients, made public", min=1)
    ] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Make a site with its own keys. They never leave this folder."""
    with reply(format) as answer:
        if data is not None and not data.exists():
            raise UsageError(
                "usage.no_data", f"there is nothing at {data}.", "Give a CSV file or a folder of them."
            )
        try:
            card = init_site(
                _site(home), name=name, organisation=organisation, data=data, public_size=public_size
            )
        except ValueError as error:
            raise UsageError(
                "usage.name", f"{name!r} cannot be a site's name.", "Use lower-case letters, digits, - and _."
            ) from error
        answer.data |= {
            "folder": str(_site(home).folder),
            "card": card.model_dump(),
            "fingerprint": fingerprint(card.key),
        }
        answer.say(
            f"Site [bold]{name}[/bold] of {organisation} in {_site(home).folder}",
            f"Fingerprint to read out to the other owners: {fingerprint(card.key)}",
            "Next: plasmid site join --coordinator URL --invitation SECRET",
        )


@app.command()
def join(
    coordinator: Annotated[str | None, typer.Option(help="The coordinator's URL, https://host:port")] = None,
    invitation: Annotated[
        str | None, typer.Option(help="From the coordinator's operator; needed once")
    ] = None,
    coordinator_fingerprint: Annotated[
        str | None, typer.Option(help="As its operator reads it out; asked for if left out")
    ] = None,
    peers: Annotated[
        Path | None, typer.Option(help="A peers.yaml got out of band, instead of asking")
    ] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Enrol at a coordinator, and confirm the peers. Run it again to confirm new peers."""
    with reply(format) as answer:
        site = _site(home)
        config, credential = site.config(), Credential(site.folder)
        if not credential.enrolled:
            if not (coordinator and invitation):
                raise UsageError(
                    "usage.invitation",
                    "the first join needs --coordinator and --invitation.",
                    "Ask its operator.",
                )
            enrol(
                site.folder,
                site.identity(),
                url=coordinator,
                role="site",
                organisation=config.organisation,
                invitation=invitation,
                confirm=confirm_with(coordinator_fingerprint),
            )
        elif coordinator:
            credential.move(coordinator)
        url, key = credential.coordinator()
        confirmed = _confirm_peers(site, config.name, peers, key)
        write_peers(site.peers, Peers(coordinator=key, sites=confirmed))
        answer.data |= {
            "coordinator": url,
            "fingerprint": fingerprint(key),
            "peers": [p.name for p in confirmed],
        }
        answer.say(
            f"{config.name} is enrolled at {url}; the coordinator's fingerprint is {fingerprint(key)}",
            f"Confirmed peers: {', '.join(p.name for p in confirmed) or 'none (they count as colluders)'}",
            "Next: write policy.yaml with the digests that may run, then plasmid site start",
        )


def _confirm_peers(site: SiteHome, own: str, file: Path | None, coordinator_key: str) -> list[Peer]:
    if file is not None:
        given = read_settings(file, PeersFile)
        if given.coordinator not in (None, coordinator_key):
            raise UsageError(
                "usage.other_coordinator",
                f"{file} is about another coordinator than the one that this site is enrolled at.",
                "Get the file for this coordinator, or compare fingerprints with its operator.",
            )
        return [peer for peer in given.sites if peer.name != own]
    known = (
        {peer.name: peer for peer in read_settings(site.peers, Peers).sites} if site.peers.exists() else {}
    )
    link = Credential(site.folder).connect()
    try:
        roster, _ = fetch_roster(link)
    finally:
        link.close()
    for entry in roster:
        same = entry.name in known and known[entry.name].key == entry.key
        if entry.name == own or same:
            continue
        if ask_owner(f"the site {entry.name} of {entry.organisation}", fingerprint(entry.key)):
            known[entry.name] = Peer(name=entry.name, organisation=entry.organisation, key=entry.key)
    return sorted(known.values(), key=lambda peer: peer.name)


@app.command()
def start(
    until_stdin_closes: Annotated[
        bool, typer.Option(help="End when standard input does (for launchers)")
    ] = False,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Run the site: gateway and, for each run, a worker. It only dials out."""
    with reply(format) as answer:
        from plasmid.site.node import Node

        ended = end_event(until_stdin_closes=until_stdin_closes)
        node = Node(_site(home))
        failure: list[BaseException] = []

        def serve() -> None:
            try:
                node.serve()
            except BaseException as error:  # noqa: BLE001 - handed to the main thread, which answers for it
                failure.append(error)
            ended.set()

        threading.Thread(target=serve, daemon=True).start()
        answer.note(f"site {node.gateway.site} is up (Ctrl-C ends it)")
        ended.wait()
        node.close()
        if failure:
            raise failure[0]
        answer.data["site"] = node.gateway.site


@app.command()
def show(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """Show the site's public card and fingerprint, to give to other owners."""
    with reply(format) as answer:
        site = _site(home)
        config = site.config()
        card = Peer(name=config.name, organisation=config.organisation, key=site.identity().public)
        answer.data |= {"card": card.model_dump(), "fingerprint": fingerprint(card.key)}
        answer.say(json.dumps(card.model_dump()), f"Fingerprint: {fingerprint(card.key)}")
