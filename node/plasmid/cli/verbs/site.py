"""Make, enrol and run a site: the owner's end of a federation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from plasmid.cli.confirming import ask_owner, confirm_with
from plasmid.cli.keys import PassphraseFd, PassphraseFile, site_keys
from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.cli.verbs.site_keys import leave, rekey, rotate
from plasmid.cli.verbs.site_outbox import outbox, page
from plasmid.cli.verbs.site_peers import app as peers_app
from plasmid.cli.verbs.site_peers import ask_for, keep_peers, peers_of, roster
from plasmid.cli.verbs.site_retention import derived, purge
from plasmid.cli.verbs.site_state import pause, resume, status
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import UsageError
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.keys.keystore import Cost, EncryptedFile, Passphrase
from plasmid.gateway.keys.passphrase import find
from plasmid.gateway.members.peers import Peer, read_peers
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.identity import fingerprint
from plasmid.uplink.enrol import Credential, enrol

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


def init_site(
    site: SiteHome,
    *,
    name: str,
    organisation: str,
    data: Path | None,
    passphrase: Passphrase,
    cost: Cost | None = None,
    public_size: int | None = None,
) -> Peer:
    """Make a site in its folder, with fresh keys, and return its public card. Its log begins with them."""
    config = SiteConfig(
        name=name,
        organisation=organisation,
        data=str(data.absolute()) if data else "data",
        public_size=public_size,
    )
    keys = EncryptedFile.create(site.keys, name, passphrase, cost=cost)
    site.write_config(config)
    AuditLog(site.audit, keys.identity()).write("keys.made", actor="owner", object=_digest(keys.public))
    if data is None:
        (site.folder / "data").mkdir(exist_ok=True)
    return Peer(name=name, organisation=organisation, key=keys.public)


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
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Make a site with its own keys. They never leave this folder.

    The keys lie encrypted under a passphrase, which is asked for twice.
    --public-size is public from then on; recipes with a privacy unit need it.
    """
    with reply(format) as answer:
        if data is not None and not data.exists():
            raise UsageError(
                "usage.no_data", f"there is nothing at {data}.", "Give a CSV file or a folder of them."
            )
        try:
            new = find(f"the site {name}", file=passphrase_file, descriptor=passphrase_fd, twice=True)
            card = init_site(
                site_at(home),
                name=name,
                organisation=organisation,
                data=data,
                passphrase=new,
                public_size=public_size,
            )
        except ValueError as error:
            raise UsageError(
                "usage.name",
                f"{name!r} of {organisation!r} cannot be a site's name and organisation.",
                "Letters, digits, - and _ for the name; 1 to 100 visible characters for the organisation.",
            ) from error
        answer.data |= {
            "folder": str(site_at(home).folder),
            "card": card.model_dump(),
            "fingerprint": fingerprint(card.key),
        }
        answer.say(
            f"Site [bold]{name}[/bold] of {plain(organisation)} in {site_at(home).folder}",
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
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Enrol at a coordinator, and confirm the peers. Run it again to confirm new peers.

    Without --peers each site of the coordinator's list is asked about;
    without a terminal none is confirmed. A file for --peers replaces the
    peers known so far.
    """
    with reply(format) as answer:
        site = site_at(home)
        config, credential = site.config(), Credential(site.folder)
        keys = site_keys(site, file=passphrase_file, descriptor=passphrase_fd)
        if not credential.enrolled:
            if not (coordinator and invitation):
                raise UsageError(
                    "usage.invitation",
                    "the first join needs --coordinator and --invitation.",
                    "Ask its operator.",
                )
            enrol(
                site.folder,
                keys,
                url=coordinator,
                role="site",
                organisation=config.organisation,
                invitation=invitation,
                confirm=confirm_with(coordinator_fingerprint),
            )
            _, pinned = credential.coordinator()
            log = AuditLog(site.audit, keys.identity())
            log.write("coordinator.confirmed", actor="owner", object=_digest(pinned), key=pinned)
        elif coordinator:
            credential.move(coordinator)
        url, key = credential.coordinator()
        if peers is not None:
            confirmed = peers_of(peers, coordinator=key, own=config.name)
        else:
            known = read_peers(site.peers).sites if site.peers.exists() else []
            confirmed = ask_for(roster(site, keys), known, ask_owner)
        keep_peers(site, key, confirmed)
        answer.data |= {
            "coordinator": url,
            "fingerprint": fingerprint(key),
            "peers": [p.name for p in confirmed],
        }
        answer.say(
            f"{config.name} is enrolled at {url}; the coordinator's fingerprint is {fingerprint(key)}",
            f"Confirmed peers: {', '.join(p.name for p in confirmed) or 'none (they count as colluders)'}",
            "Next: plasmid project sign, policy.yaml with what may run, then plasmid site start",
        )


@app.command()
def start(
    until_stdin_closes: Annotated[
        bool, typer.Option(help="End when standard input does (for launchers)")
    ] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Run the site: gateway and, for each run, a worker. It only dials out."""
    with reply(format, extra="worker") as answer:
        from plasmid.gateway.process import Start, become

        site = site_at(home)
        site.config()
        Credential(site.folder).coordinator()
        become(
            Start(
                home=str(site.folder.absolute()),
                passphrase_file=None if passphrase_file is None else str(passphrase_file.absolute()),
                passphrase_fd=passphrase_fd,
                until_stdin_closes=until_stdin_closes,
                machine=answer.is_json,
            )
        )


@app.command()
def show(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """Show the site's public card and fingerprint, to give to other owners."""
    with reply(format) as answer:
        site = site_at(home)
        config = site.config()
        card = Peer(name=config.name, organisation=config.organisation, key=site.public)
        answer.data |= {"card": card.model_dump(), "fingerprint": fingerprint(card.key)}
        answer.say(json.dumps(card.model_dump()), f"Fingerprint: {fingerprint(card.key)}")


def _digest(key: str) -> str:
    return sha256_hex(bytes.fromhex(key))


for command in (status, pause, resume, leave, rekey, rotate, outbox, page, purge, derived):
    app.command()(command)
app.add_typer(peers_app, name="peers")
