"""Where a hub keeps what it has: its folder, its database, its blobs.

Rules
-----
1. The folder is ``PLASMID_HOME/hub``; ``PLASMID_HUB_DATABASE_URL`` and ``PLASMID_HUB_BLOBS_URL`` put the
   database and the blobs elsewhere, ``PLASMID_HUB_URL`` is the address that clients know the hub by. All
   links in answers begin with it: the ``Host`` header of a request is whatever its sender likes.
2. :meth:`HubSettings.open` brings the tables up to date before anything reads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from plasmid.core.errors import HubError
from plasmid.core.files import home
from plasmid.hub.accounts.accounts import Accounts
from plasmid.hub.store.blobs import BlobStore
from plasmid.hub.store.database import open_hub_engine
from plasmid.hub.store.finding import Finding
from plasmid.hub.store.migrations import check_release, upgrade
from plasmid.hub.store.registry import Registry


@dataclass(frozen=True)
class Hub:
    """An opened hub: the parts that share one database."""

    settings: HubSettings
    engine: Engine
    blobs: BlobStore
    accounts: Accounts
    registry: Registry
    finding: Finding


@dataclass(frozen=True)
class HubSettings:
    """See the module's rules.

    Attributes
    ----------
    database_url, blobs_url
        SQLAlchemy's and fsspec's.
    url
        ``https://hub.example.org`` without a slash at its end; None: it is not served.
    """

    folder: Path
    database_url: str
    blobs_url: str
    url: str | None = None

    @classmethod
    def from_environment(cls, folder: Path | None = None, *, url: str | None = None) -> HubSettings:
        """Return the settings of the hub in *folder*, by default ``PLASMID_HOME/hub``."""
        folder = folder or home() / "hub"
        known_as = url or os.environ.get("PLASMID_HUB_URL")
        if known_as is not None and not known_as.startswith(("http://", "https://")):
            raise HubError(
                "hub.url", f"{known_as!r} is no address of a hub.", "Write https://HOST or http://HOST:PORT."
            )
        return cls(
            folder=folder,
            database_url=os.environ.get("PLASMID_HUB_DATABASE_URL") or f"sqlite:///{folder / 'hub.db'}",
            blobs_url=os.environ.get("PLASMID_HUB_BLOBS_URL") or str(folder / "blobs"),
            url=known_as.rstrip("/") if known_as else None,
        )

    def known_as(self) -> str:
        """Return :attr:`url`. Raises HubError (``hub.url``) where it is not known."""
        if self.url is None:
            raise HubError(
                "hub.url",
                "under which address clients reach this hub is not known.",
                "Say it with --url https://HOST, or PLASMID_HUB_URL.",
            )
        return self.url

    def engine(self) -> Engine:
        """Return an engine of the database, whatever tables it has."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return open_hub_engine(self.database_url)

    @contextmanager
    def open(self, *, migrate: bool = True) -> Iterator[Hub]:
        """Yield the hub, its tables up to date.

        Raises
        ------
        HubError
            ``hub.migrations``: the tables are of a later release; without *migrate*, of another one;
            ``hub.database``: the database cannot be reached; ``hub.blobs_url``.
        """
        engine = self.engine()
        try:
            self.prepare(engine, migrate=migrate)
            blobs = BlobStore(self.blobs_url)
            registry = Registry(engine, blobs)
            try:
                yield Hub(self, engine, blobs, Accounts(engine), registry, Finding(engine))
            finally:
                registry.close()
        finally:
            engine.dispose()

    def prepare(self, engine: Engine, *, migrate: bool = True) -> bool:
        """Bring the tables up to date, or see that they are; return whether that changed anything.

        Raises
        ------
        HubError
            ``hub.migrations``, ``hub.database``; see :meth:`open`.
        """
        try:
            changed = migrate and upgrade(engine)
            check_release(engine)
            return changed
        except OperationalError as error:
            problem = str(error.orig).partition("\n")[0]
        shown = engine.url.render_as_string(hide_password=True)
        raise HubError(
            "hub.database",
            f"the hub's database {shown} cannot be used: {problem}.",
            "Check that it runs, and that PLASMID_HUB_DATABASE_URL names it and a role that may make tables.",
        )
