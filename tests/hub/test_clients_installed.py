"""The installed Hugging Face client, unmodified, against a real hub: every verb, and the command as typed."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from support.hub.hub_matrix import hubs, run_verbs
from support.hub.hub_requests import SHA, WEIGHTS
from support.hub.hub_server import LiveHub
from support.hub.hub_verb_names import NAMES, documented

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveHub, dict[str, Any], Path]]:
    """A hub, and the outcome of every verb there."""
    folder = tmp_path_factory.mktemp("hub")
    with hubs(folder) as (hub, strict):
        yield hub, run_verbs(sys.executable, hub, strict, folder / "run"), folder


def hf(hub: LiveHub, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = hub.environment(folder / "home", token=hub.tokens["ada"])
    return subprocess.run(
        [str(BIN / "hf"), *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_verb_works(name: str, found: tuple[LiveHub, dict[str, Any], Path]) -> None:
    assert found[1]["outcomes"][name] == "ok"


def test_no_verb_is_left_out(found: tuple[LiveHub, dict[str, Any], Path]) -> None:
    assert list(found[1]["outcomes"]) == NAMES
    assert documented() == NAMES


def test_the_command_uploads_downloads_and_finds_a_changed_byte(
    found: tuple[LiveHub, dict[str, Any], Path], tmp_path: Path
) -> None:
    hub = found[0]
    (tmp_path / "m").mkdir()
    (tmp_path / "m/README.md").write_text("---\nlicense: mit\n---\n# M\n")
    assert hf(hub, tmp_path, "upload", "ada/typed", "m", ".").returncode == 0
    assert hf(hub, tmp_path, "download", "ada/typed", "--local-dir", "got").returncode == 0
    assert (tmp_path / "got/README.md").read_text() == (tmp_path / "m/README.md").read_text()
    (tmp_path / "got/README.md").write_text("---\nlicense: mit\n---\n# N\n")
    changed = hf(hub, tmp_path, "cache", "verify", "ada/typed", "--local-dir", "got")
    assert changed.returncode == 1
    assert "README.md" in changed.stdout + changed.stderr


def test_the_command_tells_what_the_hub_says(
    found: tuple[LiveHub, dict[str, Any], Path], tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text("import os")
    said = hf(found[0], tmp_path, "upload", "ada/typed", "evil.py")
    assert said.returncode == 1
    assert "evil.py (code is not hosted here)" in said.stderr
    assert "not found" in hf(found[0], tmp_path, "models", "info", "ada/absent").stderr


def test_a_byte_that_the_hub_changed_is_found_by_the_client(
    found: tuple[LiveHub, dict[str, Any], Path], tmp_path: Path
) -> None:
    hub = found[0]
    api = huggingface_hub.HfApi(endpoint=hub.url, token=hub.tokens["ada"])
    api.create_repo("ada/tampered")
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="model.safetensors", repo_id="ada/tampered")
    stored = hub.hub.blobs.path(SHA)
    assert stored is not None
    stored.chmod(0o600)
    stored.write_bytes(WEIGHTS[:-1] + b"!")
    api.snapshot_download("ada/tampered", local_dir=tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes()[-1:] == b"!"
    verified = api.verify_repo_checksums("ada/tampered", local_dir=tmp_path)
    assert [one["path"] for one in verified.mismatches] == ["model.safetensors"]


@pytest.mark.slow
def test_the_commands_on_a_page_work_as_they_are_pasted(
    found: tuple[LiveHub, dict[str, Any], Path], tmp_path: Path
) -> None:
    hub = found[0]
    ran = 0
    for name in re.findall(r'href="/(ada/verbs[\w-]*-(?:base|adapter))"', get(f"{hub.url}/ada")):
        box = re.search(r"<pre><code>(.*?)</code></pre>", get(f"{hub.url}/{name}"), re.DOTALL)
        assert box is not None
        environment = hub.environment(tmp_path / "home", PATH=f"{BIN}:/usr/bin:/bin", OMP_NUM_THREADS="1")
        del environment["HF_ENDPOINT"]  # the box says it
        run = subprocess.run(
            ["bash", "-euc", html.unescape(box[1])],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert ("PeftModel" if name.endswith("adapter") else "BertModel") in run.stdout
        ran += 1
    assert ran == 2


def get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    text: bytes = opener.open(url, timeout=20).read()
    return text.decode()
