"""A link server over real TLS on this host, in a thread: no Ray, no controller.

The class is the one that the coordinator runs as an actor; what it would ask the controller is answered by
:attr:`LiveLink.asked`, a list of the calls.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

from plasmid.coordinator.coordinator import CoordinatorHome
from plasmid.gateway.keys.keystore import KEYS_FILE, Cost, EncryptedFile
from plasmid.link import server
from plasmid.link.connection_limits import Limits
from plasmid.link.engine import sqlite_url
from plasmid.link.registry import Registry
from plasmid.link.server import LinkServer
from plasmid.protocol.identity import fingerprint
from plasmid.uplink.enrol import Credential, enrol
from plasmid.uplink.link import LinkClient

PASSPHRASE = "one for all members"


class LiveLink:
    """A context manager; :meth:`member` enrols whoever a test needs."""

    def __init__(self, folder: Path, *, limits: Limits | None = None) -> None:
        self.folder = folder
        self.limits = limits
        self.home = CoordinatorHome(folder / "coordinator")
        self.home.create(["localhost", "127.0.0.1"])
        self.identity = self.home.identity()
        self.asked: list[tuple[Any, ...]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> LiveLink:
        async def ask(*call: Any) -> dict[str, Any]:
            self.asked.append(call)
            return {"answered": True}

        self._patch.setattr(server, "_ask_controller", ask)
        self._patch.setattr(server, "log_to", lambda folder: None)
        self._thread.start()
        self.server = LinkServer(str(self.home.folder), sqlite_url(self.home.folder), self.limits)
        self.url = f"https://localhost:{self.run(self.server.start('127.0.0.1', 0))}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self.registry._engine.dispose()
        self._patch.undo()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run *coroutine* on the server's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call a function of the server's objects on its loop, where they are used without locks."""

        async def there() -> Any:
            return function(*arguments)

        return self.run(there())

    @property
    def registry(self) -> Registry:
        """The server's registry."""
        return self.server._registry

    @property
    def app(self) -> Any:
        """The server's application."""
        assert self.server._server is not None
        return self.server._server.config.app

    def member(
        self, name: str, role: Any = "site", organisation: str = ""
    ) -> tuple[Credential, EncryptedFile]:
        """Enrol a member over the wire, as its owner would, and return its credential and keys."""
        organisation = organisation or f"{name}-org"
        folder = self.folder / name
        keys = EncryptedFile.create(folder / KEYS_FILE, name, lambda: PASSPHRASE, cost=Cost(n=2))
        shown = fingerprint(self.identity.public)
        enrol(
            folder,
            keys,
            url=self.url,
            role=role,
            organisation=organisation,
            invitation=self.registry.invite(name=name, role=role, organisation=organisation),
            confirm=lambda what, found: found == shown,
        )
        return Credential(folder), keys

    def keys(self, credential: Credential) -> EncryptedFile:
        """Return the keys of a member that :meth:`member` has enrolled."""
        return credential.keys(lambda: PASSPHRASE)

    def client(self, credential: Credential, *, patience_s: float = 0.0) -> LinkClient:
        """Return a client with *credential*; its caller closes it."""
        return credential.connect(self.keys(credential), patience_s=patience_s)

    def http(
        self, certificate: Path | None = None, key: Path | None = None, password: bytes | None = None
    ) -> httpx.Client:
        """Return a bare client that trusts this coordinator's CA and shows *certificate*, if any."""
        context = ssl.create_default_context(cafile=str(self.home.folder / "ca.pem"))
        if certificate is not None:
            context.load_cert_chain(certificate, key, password)
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=30.0)
