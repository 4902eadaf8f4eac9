"""``hf upload`` makes the repository first: where its files are then refused, nobody finds an empty one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi

from plasmid.hub.settings import Hub
from plasmid.hub.store.finding import Query
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.records import Add, Delete
from support.hub.hub_requests import CARD, WEIGHTS, client
from support.hub.hub_server import LiveHub


@pytest.fixture
def hf(live: LiveHub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the installed ``hf`` as Ada."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "hf"), *arguments],
            env=live.environment(tmp_path / "home", token=live.tokens["ada"], OMP_NUM_THREADS="1"),
            cwd=os.fspath(tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def listed(live: LiveHub, name: str) -> set[str]:
    """Return where a repository of that name is shown."""
    found = set()
    for who in ("ada", "eve"):
        api = HfApi(endpoint=live.url, token=live.tokens[who])
        for how in ({}, {"author": "ada"}, {"search": name}):
            if f"ada/{name}" in [one.id for one in api.list_models(**how)]:
                found.add(f"{who} {how}")
    with client(live, None, Accept="text/html") as browser:
        found |= {path for path in ("/", "/ada", f"/models?search={name}") if name in _rows(browser, path)}
    return found


def _rows(browser: httpx.Client, path: str) -> str:
    return browser.get(path).text.partition("<tbody>")[2]


def test_a_refused_upload_leaves_nothing_to_be_found_and_the_next_one_does(
    live: LiveHub, hf: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    refused = hf("upload", "ada/leftover", "mine", ".")
    assert refused.returncode != 0
    assert "a pickle can run code" in refused.stdout + refused.stderr
    assert listed(live, "leftover") == set()
    api = HfApi(endpoint=live.url, token=live.tokens["ada"])
    assert (
        api.model_info("ada/leftover").siblings == []
    )  # by its name its owner reaches it, to delete it, say

    (folder / "pytorch_model.bin").unlink()
    done = hf("upload", "ada/leftover", "mine", ".")
    assert done.returncode == 0, done.stderr
    assert len(listed(live, "leftover")) == 9


def test_what_something_was_committed_to_is_listed_even_when_it_is_empty_again(hub: Hub) -> None:
    def names() -> list[str]:
        return [str(one.repo.id) for one in hub.finding.search(Query(), viewer=ann).found]

    ann = hub.accounts.get("ann")
    repo = hub.registry.create(RepoId("ann", "x"), by=ann)
    assert names() == []
    hub.registry.branch(repo, "dev", "main")
    assert names() == []
    blob = hub.blobs.put(b"one")
    hub.registry.keep(blob)
    hub.registry.commit(repo, "dev", [Add("a", blob.sha256)], title="t", by=ann)
    assert names() == ["ann/x"]
    hub.registry.commit(repo, "dev", [Delete("a", folder=False)], title="t", by=ann)
    assert names() == ["ann/x"]
