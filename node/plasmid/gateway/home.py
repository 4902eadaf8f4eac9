"""A site's own folder: its keys, its data, its policy, what it knows of others.

site.yaml      name, organisation, data, public size       policy.yaml   what may run (absent: nothing)
keys.json      private keys, encrypted                     peers.yaml    confirmed identities
tls.pem, ca.pem   the outer belt                           audit/        every decision, under a Merkle root
data/          one table, or <recipe name>.csv per recipe  ledger.jsonl  privacy spent, per population
runs/          last key epoch and signed round per run     heads.json    newest contributions of peers
projects/      the projects that this site has signed      people/       the owner's people, their own keys
approvals/     what waits for approval, what was signed    paused.json   who paused it, and why (absent: not)
revoked.json   who may not take part any more              status.json   what the running node last said
connections.yaml   where data are, without secrets         views/        what of them a recipe may see
lineage/       who was in which run, and in released statistics
personal/      what the site keeps for itself of runs: its own adapters
data.key       secret of keyed hashes and date shifts      scratch/      private files of readers and workers
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from plasmid.core.errors import DataError, StorageError, UsageError
from plasmid.core.files import storage_error, write_atomic
from plasmid.core.settings import dump_settings, read_settings
from plasmid.data.settings import table_kind, table_name
from plasmid.gateway.keys.keystore import KEYS_FILE, stated_key
from plasmid.isolation.levels import Device, Limits
from plasmid.protocol.enrolment import Organisation
from plasmid.secagg.statements import IsolationLevel, SiteName
from plasmid.uplink.network import Network


class SiteConfig(BaseModel):
    """The contents of ``site.yaml``.

    Attributes
    ----------
    data
        A folder or a file, relative to the site's folder.
    public_size
        The rounded number of units (records, or patients) that the owner makes public; needed by documents
        with a privacy unit.
    population
        The people whom the data are about. Views, tables and connectors that show the same people must name
        the same population: they draw on one privacy budget.
    network
        How the site gets out of its network, if not straight.
    isolation
        How workers are locked in; ``best`` is the strongest level that this host has. One that it does not
        have refuses to start.
    limits
        What one worker may use.
    devices
        What a worker may reach beside memory and processors.
    retention_days
        How long it is known who was in which run, and what the site learned for itself is kept
        (:mod:`plasmid.gateway.retention`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: SiteName
    organisation: Organisation
    data: str = "data"
    public_size: Annotated[int, Field(ge=1, le=10**12)] | None = None
    population: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] = "default"
    network: Network = Network()
    isolation: IsolationLevel | Literal["best"] = "best"
    limits: Limits = Limits()
    devices: list[Device] = []
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 3650


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
    def audit(self) -> Path:
        """The folder of :class:`plasmid.log.audit_log.AuditLog`."""
        return self.folder / "audit"

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
        """The folder of :class:`plasmid.gateway.replay.Marks`."""
        return self.folder / "runs"

    @property
    def projects(self) -> Path:
        """The folder of :class:`plasmid.gateway.members.projects.Projects`."""
        return self.folder / "projects"

    @property
    def keys(self) -> Path:
        """The file of :class:`plasmid.gateway.keys.keystore.EncryptedFile`."""
        return self.folder / KEYS_FILE

    @property
    def paused(self) -> Path:
        """The file of :mod:`plasmid.gateway.pause`."""
        return self.folder / "paused.json"

    @property
    def revoked(self) -> Path:
        """The file of :class:`plasmid.gateway.members.revocations.Revoked`."""
        return self.folder / "revoked.json"

    @property
    def status(self) -> Path:
        """The file of :mod:`plasmid.gateway.status`."""
        return self.folder / "status.json"

    @property
    def lock(self) -> Path:
        """Held by the running node; see :mod:`plasmid.gateway.status`."""
        return self.folder / "node.lock"

    @property
    def approvals(self) -> Path:
        """The folder of :class:`plasmid.gateway.approvals.register.Approvals`."""
        return self.folder / "approvals"

    @property
    def people(self) -> Path:
        """The folder of :class:`plasmid.gateway.approvals.people.People`."""
        return self.folder / "people"

    @property
    def connections(self) -> Path:
        """The file of :class:`plasmid.data.settings.Connections`; it may be absent."""
        return self.folder / "connections.yaml"

    @property
    def views(self) -> Path:
        """The folder of view files, ``<recipe name>.yaml`` each."""
        return self.folder / "views"

    @property
    def scratch(self) -> Path:
        """Where readers and workers keep what ends with them."""
        return self.folder / "scratch"

    @property
    def lineage(self) -> Path:
        """The folder of :class:`plasmid.disclosure.overlap.Overlap`, one folder for each population."""
        return self.folder / "lineage"

    @property
    def personal(self) -> Path:
        """The folder of :class:`plasmid.gateway.personal.Personal`."""
        return self.folder / "personal"

    def data_key(self) -> bytes:
        """Return the site's 32 secret bytes for keyed hashes of people and for date shifts; drawn once.

        It outlives a rotation of the identity.

        Raises
        ------
        StorageError
            It cannot be kept; ``storage.data_key``: it is damaged, or gone where hashes under it are kept.
        """
        path = self.folder / "data.key"
        if not path.exists():
            if any(path for kind in ("lineage", "people") for path in self.lineage.rglob(f"*.{kind}")):
                raise _no_data_key(path, "gone")
            fresh = path.with_name(f".data.key.{secrets.token_hex(8)}")
            write_atomic(fresh, secrets.token_bytes(32).hex().encode() + b"\n", mode=0o600)
            try:
                os.link(fresh, path)  # the first of several processes has drawn it
            except FileExistsError:
                pass
            except OSError as error:
                raise storage_error(error, path) from error
            finally:
                fresh.unlink(missing_ok=True)
        try:
            key = bytes.fromhex(path.read_text(encoding="ascii"))
        except ValueError:
            key = b""
        if len(key) != 32:
            raise _no_data_key(path, "damaged")
        return key

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

    @property
    def public(self) -> str:
        """The site's raw public key in hexadecimal. Raises KeysError (``keys.absent``, ``keys.damaged``)."""
        return stated_key(self.keys)

    def table(self, document_name: str) -> Path:
        """Return the file in the data folder that documents called *document_name* may read.

        Raises
        ------
        DataError
            ``data.absent``: neither one called so nor exactly one table is there.
        """
        data = (self.folder / self.config().data).resolve()
        if data.is_file():
            return data
        tables = sorted(path for path in data.glob("*") if path.is_file() and table_kind(path))
        found = [path for path in tables if table_name(path) == document_name] or tables
        if len(found) != 1:
            raise DataError(
                "data.absent",
                f"{data} holds {len(tables)} tables and not one called {document_name}.csv.",
                "Put one table there, name it after the recipe, or write a view ('plasmid data map').",
            )
        return found[0]


def _no_data_key(path: Path, what: str) -> StorageError:
    return StorageError(
        "storage.data_key",
        f"{path} is {what}, so that nobody can be found any more among those whose hashes are kept.",
        "Restore it from your backup.",
    )
