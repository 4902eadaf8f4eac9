"""What a run made, published to a live hub: by ``plasmid runs fetch --publish``, and when the hub dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.client.run import Run
from plasmid.client.verbs import runs
from plasmid.exchange import sharing
from plasmid.hubclient.client import find_hub
from plasmid.release.folder import Trust
from support.federation.release_world import SITES, World
from support.hub.hub_server import LiveHub, served

DYING = """
import os, sys
from pathlib import Path
from support.hub.hub_server import _main
from plasmid.hub.store import revisions

made = revisions.publish

def then_die(*arguments, **options):
    made(*arguments, **options)
    os.kill(os.getpid(), 9)

revisions.publish = then_die
_main(Path(sys.argv[1]), int(sys.argv[2]))
"""
"""A hub that is killed in its first commit: all bytes have come, and the transaction has not ended."""


@pytest.fixture(scope="module")
def world(tiny: dict[str, BaseModel]) -> World:
    return World(tiny["bert"])


@pytest.fixture
def fetch(world: World, at_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The verb, for a run of that world; ``HF_HOME`` is the test's own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    @contextmanager
    def at(*_: Any) -> Iterator[Any]:
        run = Run(world, world.run, world.document)  # type: ignore[arg-type]
        run._final = world.shown()
        yield SimpleNamespace(get=lambda _: run)

    monkeypatch.setattr(runs, "_at", at)

    def call(*options: str) -> dict[str, Any]:
        found = CliRunner().invoke(runs.app, ["fetch", world.run, *options, "--format", "json"])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        said: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
        return said

    return call


def use(hub: LiveHub, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process be that user of that hub."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", hub.tokens.get(name) or hub.user(name))


def test_a_run_s_adapter_is_on_the_hub_private_and_verifies_there(
    fetch: Any, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub").mkdir()
    with served(tmp_path / "hub") as hub:
        use(hub, "ada", monkeypatch)
        refused = fetch("--publish", "lab/tiny")["error"]
        assert refused["code"] == "hub.forbidden"
        hub.hub.accounts.create_organisation("lab")
        hub.hub.accounts.join("lab", "ada", "write")
        done = fetch("--publish", "lab/tiny")["data"]
        commit = done["published"]["commit"]
        assert done["published"] == {"repo": "lab/tiny", "commit": commit, "endpoint": hub.url}
        (newest, *_) = find_hub().api().list_repo_commits("lab/tiny")
        assert (newest.commit_id, newest.title) == (commit, f"run {world.run}")

        pins = Trust(coordinator=world.coordinator.public, sites={"alpha": world.identities["alpha"].public})
        pulled = sharing.pull(find_hub(), "lab/tiny", tmp_path / "pulled", trust=pins)
        assert pulled.verified is not None
        assert (pulled.verified.countersigned, pulled.verified.pinned) == (SITES, ("alpha", "coordinator"))
        here = {path.name: path.read_bytes() for path in Path(done["adapter"]).iterdir()}
        assert {path.name: path.read_bytes() for path in pulled.folder.iterdir()} == here
        assert fetch("--publish", "lab/tiny")["data"]["published"]["commit"] == commit  # nothing has changed

        use(hub, "eve", monkeypatch)
        assert find_hub().models() == []


def test_a_hub_that_dies_in_between_has_published_nothing_and_the_next_try_does(
    fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    with served(folder) as hub:
        token = hub.user("ada")
    monkeypatch.setenv("HF_TOKEN", token)
    with dying(folder) as (url, child):
        monkeypatch.setenv("HF_ENDPOINT", url)
        said = fetch("--publish", "ada/tiny")
        assert (said["status"], said["error"]["code"]) == ("error", "hub.unreachable")
        assert child.wait(20) == -signal.SIGKILL
    with served(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert find_hub().models() == []
        left = find_hub().api().model_info("ada/tiny")
        assert (left.siblings, left.private) == ([], True)
        done = fetch("--publish", "ada/tiny")["data"]["published"]
        assert [one["id"] for one in find_hub().models()] == ["ada/tiny"]
        assert sharing.pull(find_hub(), "ada/tiny", tmp_path / "pulled").commit == done["commit"]


@contextmanager
def dying(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve :data:`DYING` in *folder*; yield its address, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", DYING, str(folder), str(port)], env=environment)
    try:
        until = time.monotonic() + 60
        while not _listens(port) and time.monotonic() < until:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", child
    finally:
        child.kill()
        child.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
