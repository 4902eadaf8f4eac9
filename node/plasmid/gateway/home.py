"""A site's own folder: its keys, its data, its policy, what it knows of others.

site.yaml      name, organisation, data                  policy.yaml   what may run (absent: nothing)
identity.key   signs messages (mode 0600)                  peers.yaml    confirmed identities
tls.key, tls.pem, ca.pem   the outer belt                  journal.jsonl one line per decision
data/          one CSV, or <recipe name>.csv per recipe    epochs.json   last key epoch per run
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from plasmid.core.errors import DataError, ProtocolError, UsageError
from plasmid.core.files import write_atomic
from plasmid.core.settings import dump_settings, read_settings
from plasmid.privacy.statements import SiteName
from plasmid.protocol.identity import Identity

_CLAIMING = threading.Lock()
"""Each run has its own thread, and all of them share one ``epochs.json``."""


class SiteConfig(BaseModel):
    """The contents of ``site.yaml``. ``data`` is a folder or a CSV file, relative to the site's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: SiteName
    organisation: str
    data: str = "data"


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

    def last_epoch(self, run: str) -> int:
        """Return the last epoch of *run* that this site took part in, 0 if none."""
        path = self.folder / "epochs.json"
        return int(json.loads(path.read_bytes()).get(run, 0)) if path.exists() else 0

    def claim_epoch(self, run: str, epoch: int) -> None:
        """Record that this site takes part in *epoch* of *run*, before anything about it leaves.

        Raises
        ------
        ProtocolError
            ``protocol.epoch_used``: not higher than the last one.
        """
        path = self.folder / "epochs.json"
        with _CLAIMING:
            last: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}
            if epoch <= last.get(run, 0):
                raise ProtocolError(
                    "protocol.epoch_used", f"epoch {epoch} of {run} was used before.", "Start a new run."
                )
            write_atomic(path, json.dumps({**last, run: epoch}).encode())
