"""The peers that an owner has confirmed: list, confirm, drop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import typer
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from plasmid.cli.confirming import confirm_with
from plasmid.cli.keys import PassphraseFd, PassphraseFile, site_keys
from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.core.errors import LinkError, ProtocolError, UsageError
from plasmid.core.settings import read_settings
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import KeyStore
from plasmid.gateway.members.peers import Peer, Peers, check_each_once, read_peers, write_peers
from plasmid.gateway.members.revocations import Revoked
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.enrolment import RosterEntry
from plasmid.protocol.identity import PublicKey, fingerprint
from plasmid.uplink.enrol import Confirm, Credential, fetch_roster

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


class PeersFile(BaseModel):
    """A ``--peers`` file: the confirmed sites, and the coordinator's key if it is to be compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    coordinator: PublicKey | None = None
    sites: list[Peer]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        check_each_once(self.sites)
        return self


def peers_of(file: Path, *, coordinator: str, own: str) -> list[Peer]:
    """Return the sites of a ``--peers`` file but the site *own* itself.

    Raises
    ------
    UsageError
        ``usage.other_coordinator``.
    """
    given = read_settings(file, PeersFile)
    if given.coordinator not in (None, coordinator):
        raise UsageError(
            "usage.other_coordinator",
            f"{file} is about another coordinator than the one that this site is enrolled at.",
            "Get the file for this coordinator, or compare fingerprints with its operator.",
        )
    return [peer for peer in given.sites if peer.name != own]


def roster(site: SiteHome, keys: KeyStore) -> dict[str, RosterEntry]:
    """Return the other sites that the coordinator lists, by name."""
    link = Credential(site.folder).connect(keys)
    try:
        listed, _ = fetch_roster(link)
    finally:
        link.close()
    own = site.config().name
    return {entry.name: entry for entry in listed if entry.name != own}


def ask_for(listed: dict[str, RosterEntry], known: list[Peer], confirm: Confirm) -> list[Peer]:
    """Return *known* with those of *listed* that the owner confirms now; none is asked about twice.

    Raises
    ------
    ProtocolError
        ``protocol.key_twice``: the coordinator lists the key of a confirmed peer under another name.
    """
    found = {peer.name: peer for peer in known}
    for name, entry in listed.items():
        if name in found and found[name].key == entry.key:
            continue
        twin = next((peer.name for peer in found.values() if peer.key == entry.key), None)
        if twin is not None and twin != name:
            raise ProtocolError(
                "protocol.key_twice",
                f"the coordinator lists the key of {twin} as that of {name}, too.",
                "Ask its operator why. Who holds one key is one site.",
            )
        if confirm(f"the site {name} of {entry.organisation}", fingerprint(entry.key)):
            found[name] = Peer(name=name, organisation=entry.organisation, key=entry.key)
    return sorted(found.values(), key=lambda peer: peer.name)


def keep_peers(site: SiteHome, coordinator: str, peers: list[Peer]) -> None:
    """Write ``peers.yaml``; what changes is logged first."""
    before = read_peers(site.peers).sites if site.peers.exists() else []
    log = AuditLog(site.audit)
    for action, some, others in (("peer.dropped", before, peers), ("peer.confirmed", peers, before)):
        for peer in some:
            if peer not in others:
                log.write(action, actor="owner", **peer.model_dump())
    write_peers(site.peers, Peers(coordinator=coordinator, sites=peers))


@app.command()
def ls(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """List the confirmed peers, with fingerprints. Whoever is not here counts as a colluder."""
    with reply(format) as answer:
        site = site_at(home)
        site.config()
        _, coordinator = Credential(site.folder).coordinator()
        out = Revoked(site.revoked)
        found = [
            {**peer.model_dump(), "fingerprint": fingerprint(peer.key), "revoked": out.has(peer.key)}
            for peer in read_peers(site.peers).sites
        ]
        answer.data |= {"coordinator": fingerprint(coordinator), "peers": found}
        answer.say(f"The coordinator: {fingerprint(coordinator)}")
        for row in found:
            state = "  REVOKED: counts as a colluder" if row["revoked"] else ""
            answer.say(f"  {row['name']} ({plain(str(row['organisation']))}): {row['fingerprint']}{state}")
        if not found:
            answer.say("No peer is confirmed: all others count as colluders.")


@app.command()
def confirm(
    name: Annotated[str | None, typer.Argument(help="The peer; default: asks about each that is new")] = None,
    fingerprint_: Annotated[
        str | None, typer.Option("--fingerprint", help="As its owner reads it out; asked for if left out")
    ] = None,
    organisation: Annotated[
        str | None, typer.Option(help="Whose it is, as its owner says; with --fingerprint")
    ] = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Confirm a peer of the coordinator's list: its fingerprint and organisation, as its owner says them.

    With --fingerprint and --organisation only the key is taken from the list,
    and the fingerprint must fit it. Named again, a peer gets its new
    organisation.
    """
    with reply(format) as answer:
        if name is None and (fingerprint_ is not None or organisation is not None):
            raise UsageError("usage.peer", "--fingerprint and --organisation are about one peer.", "Name it.")
        if (fingerprint_ is None) != (organisation is None):
            raise UsageError(
                "usage.peer",
                "--fingerprint and --organisation go together: nothing is taken from the coordinator's list.",
                "Give both, as the peer's owner says them, or neither to be asked.",
            )
        site = site_at(home)
        keys = site_keys(site, file=passphrase_file, descriptor=passphrase_fd)
        known = read_peers(site.peers)
        listed = roster(site, keys)
        before = known.sites
        if name is not None:
            one = _listed(listed, name)
            listed = {name: one if organisation is None else _of(one, organisation)}
            before = [peer for peer in before if peer.name != name]  # it is asked about again
        peers = ask_for(listed, before, confirm_with(fingerprint_))
        names = [peer.name for peer in peers]
        if name is not None and name not in names:
            raise ProtocolError(
                "protocol.fingerprint",
                f"the fingerprint of {name} is {fingerprint(listed[name].key)}; it was not confirmed.",
                "Ask its owner to read it out ('plasmid site show').",
            )
        keep_peers(site, known.coordinator, peers)
        answer.data["peers"] = names
        answer.say(f"Confirmed peers: {', '.join(names) or 'none (they count as colluders)'}")


def _listed(listed: dict[str, RosterEntry], name: str) -> RosterEntry:
    if name not in listed:
        raise LinkError(
            "link.site_unknown",
            f"not enrolled here: {name}.",
            f"Enrolled are: {', '.join(listed) or 'none'}.",
        )
    return listed[name]


def _of(entry: RosterEntry, organisation: str) -> RosterEntry:
    try:
        return RosterEntry(name=entry.name, organisation=organisation, key=entry.key)
    except ValidationError as error:
        raise UsageError(
            "usage.peer", f"{organisation!r} is no organisation.", "Give 1 to 100 visible characters."
        ) from error


@app.command()
def drop(
    name: Annotated[str, typer.Argument(help="The peer")],
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Trust a peer no more: it counts as a colluder, and its statements are refused from now on."""
    with reply(format) as answer:
        site = site_at(home)
        site.config()
        known = read_peers(site.peers)
        left = [peer for peer in known.sites if peer.name != name]
        if len(left) == len(known.sites):
            raise UsageError("usage.peer", f"{name} is not in peers.yaml.", "See 'plasmid site peers ls'.")
        keep_peers(site, known.coordinator, left)
        answer.data["peers"] = [peer.name for peer in left]
        answer.say(f"{name} is confirmed no more.")
