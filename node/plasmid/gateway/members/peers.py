"""The identities that a site's owner has confirmed: ``peers.yaml``.

Rules
-----
1. The coordinator's key and every peer's key are pinned here, by the owner, and nowhere else.
2. A site of a roster that is not here is unconfirmed: it counts as a colluder, and since its statements
   cannot be checked, an epoch with it is refused.
3. No two peers have one key or one name: whoever holds a key would else count as several.
4. Organisations are told apart by :func:`counted`: "Hospital B" and "hospital  b" are one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from plasmid.core.errors import ProtocolError
from plasmid.core.files import write_atomic
from plasmid.core.settings import dump_settings, read_settings
from plasmid.protocol.enrolment import Organisation
from plasmid.protocol.identity import PublicKey
from plasmid.secagg.statements import SiteName


class Peer(BaseModel):
    """One confirmed site."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: SiteName
    organisation: Organisation
    key: PublicKey


def check_each_once(sites: Sequence[Peer]) -> None:
    """Raise ValueError if two of *sites* have one key or one name."""
    seen: dict[str, str] = {}
    for peer in sites:
        for said in (peer.name, peer.key):
            if said in seen:
                raise ValueError(
                    f"{seen[said]} and {peer.name} have one {'key' if said == peer.key else 'name'}"
                )
            seen[said] = peer.name


class Peers(BaseModel):
    """The contents of ``peers.yaml``: the coordinator's key and the confirmed sites."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    coordinator: PublicKey
    sites: list[Peer] = []

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        check_each_once(self.sites)
        return self

    def key(self, site: str) -> str:
        """Return the pinned key of *site*. Raises ProtocolError (``protocol.unknown_peer``)."""
        for peer in self.sites:
            if peer.name == site:
                return peer.key
        raise ProtocolError(
            "protocol.unknown_peer",
            f"the site {site} is not in peers.yaml.",
            "Compare fingerprints with its owner and run 'plasmid site join' again to confirm it.",
        )

    def organisation(self, site: str) -> str | None:
        """Return the confirmed organisation of *site*, None if it is unconfirmed."""
        return next((peer.organisation for peer in self.sites if peer.name == site), None)


def counted(organisation: str) -> str:
    """Return *organisation* without what does not make it another one: case, spaces, compatibility forms."""
    return " ".join(unicodedata.normalize("NFKC", organisation).casefold().split())


def read_peers(path: Path) -> Peers:
    """Return the peers in *path* as it is now. Raises RecipeError with file and line if it is malformed.

    Every message asks, so the file is parsed again only when it has changed.
    """
    try:
        now = path.stat()
    except OSError:
        return read_settings(path, Peers)  # which says what is wrong
    return _parsed(path, now.st_mtime_ns, now.st_size, now.st_ino)


@lru_cache(maxsize=64)
def _parsed(path: Path, changed_ns: int, size: int, inode: int) -> Peers:  # noqa: ARG001 - the cache's key
    return read_settings(path, Peers)


def write_peers(path: Path, peers: Peers) -> None:
    """Write *peers* to *path*."""
    write_atomic(path, dump_settings(peers.model_dump()))
