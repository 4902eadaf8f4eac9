"""A coordinator on one host: its folder, and the process that starts Ray, the link and the controller."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasmid.coordinator.database import Runs
from plasmid.core.errors import StorageError, UsageError
from plasmid.core.files import write_atomic
from plasmid.link.authority import Authority
from plasmid.link.engine import open_engine, sqlite_url
from plasmid.link.projects import ProjectRegistry
from plasmid.link.registry import Registry
from plasmid.protocol.identity import Identity

LOCK_PATIENCE_S = 3.0
"""For whoever only looks whether the folder is held, which takes the lock for a moment."""


@dataclass(frozen=True)
class CoordinatorHome:
    """A coordinator's folder: identity, CA, server certificate, ``state.db``, bodies, lock."""

    folder: Path

    @property
    def exists(self) -> bool:
        """Whether a coordinator was made here."""
        return (self.folder / "identity.key").exists()

    @property
    def database_url(self) -> str:
        """The database: ``PLASMID_DATABASE_URL``, or SQLite in this folder."""
        return os.environ.get("PLASMID_DATABASE_URL") or sqlite_url(self.folder)

    def identity(self) -> Identity:
        """Return the coordinator's identity. Raises UsageError (``usage.no_coordinator``)."""
        if not self.exists:
            raise UsageError(
                "usage.no_coordinator",
                f"there is no coordinator in {self.folder}.",
                "Make one with 'plasmid coordinator init'.",
            )
        return Identity.from_pem("coordinator", (self.folder / "identity.key").read_bytes())

    def create(self, hosts: Sequence[str]) -> Identity:
        """Make a coordinator certified for *hosts*. Raises UsageError (``usage.exists``)."""
        if self.exists:
            raise UsageError(
                "usage.exists", f"{self.folder} already holds a coordinator.", "Choose another folder."
            )
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        Authority.create(self.folder).issue_server(self.folder, hosts)
        identity = Identity.generate("coordinator")
        write_atomic(self.folder / "identity.key", identity.to_pem(), mode=0o600)
        return identity

    def registry(self) -> Registry:
        """Return the registry of members."""
        return Registry(open_engine(self.database_url))

    def check_database(self) -> None:
        """Make the tables that are not there. Raises StorageError (``storage.other_release``)."""
        engine = open_engine(self.database_url)
        try:
            for part in (Runs, Registry, ProjectRegistry):
                part(engine)
        finally:
            engine.dispose()

    def endpoint(self, process: int | None = None) -> str | None:
        """Return the URL of the coordinator that is running from this folder, None if none is.

        With *process*, only if the coordinator is that process.
        """
        if not self.exists or not self.locked():
            return None
        try:
            known = json.loads((self.folder / "endpoint.json").read_bytes())
        except (OSError, ValueError):
            return None
        return str(known["url"]) if process in (None, known["process"]) else None

    def locked(self) -> bool:
        """Whether a coordinator process holds this folder."""
        try:
            with (self.folder / "lock").open("r") as file:
                return not _try_lock(file.fileno(), fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder. Raises StorageError (``storage.in_use``) if another process does."""
        with (self.folder / "lock").open("a") as file:
            give_up = time.monotonic() + LOCK_PATIENCE_S
            while not _try_lock(file.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > give_up:
                    raise StorageError(
                        "storage.in_use",
                        f"another coordinator is running from {self.folder}.",
                        "Wait for it to end, or set PLASMID_HOME to another folder.",
                    )
                time.sleep(0.05)
            yield


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def secure_ray(folder: Path) -> None:
    """Make Ray, whose ports listen on every interface, refuse whoever does not hold this folder's token.

    Ray reads these settings once, when it is imported, and its token when that is first wanted. Where it was
    imported before and does not run, it is made to read them again: else the processes that it starts would
    ask for a token that this one does not send.
    """
    token = folder / "ray.token"
    if not token.exists():
        write_atomic(token, secrets.token_hex(32).encode(), mode=0o600)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    imported: Any = sys.modules.get("ray._raylet")
    if imported is not None and not sys.modules["ray"].is_initialized():
        imported.Config.initialize("")
        imported.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def running(home: CoordinatorHome, *, host: str, port: int) -> Iterator[str]:
    """Run the coordinator of *home* and yield its URL; on exit everything it started ends.

    Raises
    ------
    LinkError
        ``link.port_taken``, before anything is started.
    StorageError
        ``storage.in_use``: another coordinator runs from this folder; ``storage.other_release``: its database
        was made by another release.
    """
    home.identity()
    with home.lock():
        home.check_database()
        secure_ray(home.folder)
        os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
        os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
        import ray

        from plasmid.coordinator.controller import Controller
        from plasmid.link.actors import start_actor
        from plasmid.link.server import CONTROLLER, LinkServer, free_port

        free_port(host, port)  # of 0 the server chooses for itself, later: a port named now may be taken then
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=200 * 2**20,
            namespace="plasmid",
            logging_level=logging.ERROR,
        )
        controller = None
        try:
            link = start_actor(LinkServer, "link", str(home.folder), home.database_url)
            controller = start_actor(Controller, CONTROLLER, str(home.folder), home.database_url, link)
            ray.get(controller.ready.remote())
            bound = ray.get(link.start.remote(host, port))
            url = f"https://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{bound}"  # noqa: S104 - compared
            endpoint = {"url": url, "process": os.getpid()}
            write_atomic(home.folder / "endpoint.json", json.dumps(endpoint).encode())
            yield url
        finally:
            (home.folder / "endpoint.json").unlink(missing_ok=True)
            if controller is not None:
                ray.kill(controller)  # first: it would take the end of a run's actor for that run's failure
            ray.shutdown()
