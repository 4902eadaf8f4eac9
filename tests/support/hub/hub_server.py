"""A real hub on loopback for tests: its own folder, uvicorn in a thread or in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from plasmid.hub.accounts.limits import Limits
from plasmid.hub.app import build_app
from plasmid.hub.settings import Hub, HubSettings

GENEROUS = Limits(files=1_000_000, requests=1_000_000)
"""Tests ask faster than people."""


@dataclass
class LiveHub:
    """A hub that answers at *url*; *hub* are its parts, for what no client can do."""

    url: str
    hub: Hub
    tokens: dict[str, str] = field(default_factory=dict)

    def user(self, name: str, *, scope: str = "admin") -> str:
        """Make a user where there is none, and return a new token of theirs."""
        if name not in {account.name for account in self.hub.accounts.all()}:
            self.hub.accounts.create_user(name)
        self.tokens[name] = self.hub.accounts.create_token(name, "test", scope=scope)[1]  # type: ignore[arg-type]
        return self.tokens[name]

    def environment(self, home: Path, *, token: str | None = None, **more: str) -> dict[str, str]:
        """Return the environment of a client of this hub; see :func:`client_environment`."""
        return client_environment(self.url, home, token=token, **more)


def client_environment(url: str, home: Path, *, token: str | None = None, **more: str) -> dict[str, str]:
    """Return the environment of a client: that hub, a home of its own, no telemetry, no progress bars."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    told = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    return kept | told | ({"HF_TOKEN": token} if token else {}) | more


@contextmanager
def served(
    folder: Path, *, limits: Limits = GENEROUS, database_url: str | None = None, blobs_url: str | None = None
) -> Iterator[LiveHub]:
    """Serve a fresh hub from a thread of this process, its database and files in *folder* or elsewhere."""
    with ExitStack() as stack:
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))
        settings = HubSettings(
            folder=folder,
            database_url=database_url or f"sqlite:///{folder / 'hub.db'}",
            blobs_url=blobs_url or str(folder / "blobs"),
            url=f"http://127.0.0.1:{bound.getsockname()[1]}",
        )
        hub = stack.enter_context(settings.open())
        config = uvicorn.Config(
            build_app(hub, limits=limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield LiveHub(settings.known_as(), hub)
        finally:
            server.should_exit = True
            thread.join(20)


@contextmanager
def served_apart(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve the hub in *folder* from a process of its own; yield its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, str(folder), str(port)]
    paths = [str(Path(__file__).parents[3] / root) for root in ("platform", "models", "recipes", "node")]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/models", timeout=5).read()
                break
            except OSError:
                if child.poll() is not None:
                    raise
                time.sleep(0.05)
        yield url, child.pid
    finally:
        child.terminate()
        child.wait(20)


def _main(folder: Path, port: int) -> None:
    settings = HubSettings(
        folder=folder,
        database_url=f"sqlite:///{folder / 'hub.db'}",
        blobs_url=str(folder / "blobs"),
        url=f"http://127.0.0.1:{port}",
    )
    with settings.open() as hub:
        config = uvicorn.Config(
            build_app(hub, limits=GENEROUS),
            host="127.0.0.1",
            port=port,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        uvicorn.Server(config).run()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
