"""A site's own folder: its keys, its data, its policy, what it knows of others.

site.yaml      name, organisation, data, public size       policy.yaml   what may run (absent: nothing)
identity.key   signs messages (mode 0600)                  peers.yaml    confirmed identities
tls.key, tls.pem, ca.pem   the outer belt                  journal.jsonl one line per decision
data/          one CSV, or <recipe name>.csv per recipe    ledger.jsonl  privacy spent, per population
runs/          last key epoch and signed round per run     heads.json    newest ledger lines of peers
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from plasmid.core.errors import DataError, UsageError
from plasmid.core.files import write_atomic
from plasmid.core.settings import dump_settings, read_settings
from plasmid.privacy.statements import SiteName
from plasmid.protocol.identity import Identity


class SiteConfig(BaseModel):
    """The contents of ``site.yaml``.

    Attributes
    ----------
    data
        A folder or a CSV file, relative to the site's folder.
    public_size
        The rounded number of units (records, or patients) that the owner makes public; needed by documents
        with a privacy unit.
    population
        The people whom the data are about. Views, tables and connectors that show the same people must name
        the same population: they draw on one privacy budget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: SiteName
    organisation: str
    data: str = "data"
    public_size: Annotated[int, Field(ge=1, le=10**12)] | None = None
    population: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] = "default"


@dataclass(frozen=True)
class SiteHome:
    """The paths inside a site's folder, and the little that is read and written there directly."""

    folder: Path

    @property
    def policy(self) -> Path:
        """The policy file; it may be absent."""
        return self.folder / "policy.yaml"

    @property
    def peers(self) -> Path:
        """The confirmed identities."""
        return self.folder / "peers.yaml"

    @property
    def journal(self) -> Path:
        """The log."""
        return self.folder / "journal.jsonl"

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.folder / "ledger.jsonl"

    @property
    def heads(self) -> Path:
        """The newest ledger lines of peers."""
        return self.folder / "heads.json"

    @property
    def runs(self) -> Path:
        """The folder of :class:`plasmid.gateway.marks.Marks`."""
        return self.folder / "runs"

    @property
    def tls(self) -> tuple[Path, Path, Path]:
        """CA certificate, own certificate, own TLS key."""
        return self.folder / "ca.pem", self.folder / "tls.pem", self.folder / "tls.key"

    def config(self) -> SiteConfig:
        """Return ``site.yaml``. Raises UsageError (``usage.no_site``) where there is none."""
        path = self.folder / "site.yaml"
        if not path.exists():
            raise UsageError(
                "usage.no_site",
                f"there is no site in {self.folder}.",
                "Make one with 'plasmid site init NAME'.",
            )
        return read_settings(path, SiteConfig)

    def write_config(self, config: SiteConfig) -> None:
        """Write ``site.yaml``."""
        write_atomic(self.folder / "site.yaml", dump_settings(config.model_dump()))

    def identity(self) -> Identity:
        """Return the site's identity."""
        return Identity.from_pem(self.config().name, (self.folder / "identity.key").read_bytes())

    def view(self, document_name: str) -> Path:
        """Return the CSV that documents called *document_name* may read.

        Raises
        ------
        DataError
            ``data.absent``: neither ``<document name>.csv`` nor exactly one CSV is there.
        """
        data = (self.folder / self.config().data).resolve()
        if data.is_file():
            return data
        named = data / f"{document_name}.csv"
        found = [named] if named.is_file() else sorted(data.glob("*.csv"))
        if len(found) != 1:
            raise DataError(
                "data.absent",
                f"{data} holds {len(found)} CSV files and none is called {named.name}.",
                "Put one CSV there, or name it after the recipe.",
            )
        return found[0]
