"""Verbs that say who one is, and that write."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub as hub
from hub_frame import CARD, MINE, STRICT_TOKEN, TOKEN, VERSION, api, command, modern, refused, verb, weights
from huggingface_hub import constants
from huggingface_hub import errors as failures

SCRIPT = str(Path(__file__).with_name("hub_verbs.py"))


@verb("hf auth login, whoami")
def _():
    command(*(["login"] if VERSION < (1, 0) else ["auth", "login"]), "--token", TOKEN)
    assert hub.get_token() == TOKEN
    assert "ada" in command(*(["whoami"] if VERSION < (1, 0) else ["auth", "whoami"]))
    assert hub.whoami()["orgs"][0]["name"] == "lab"


@verb("wrong token")
def _():
    stranger = hub.HfApi(token="hf_" + "x" * 34)
    error = refused(OSError, stranger.whoami, "Invalid user token")
    assert error.response.status_code == 401
    refused(failures.HfHubHTTPError, lambda: stranger.model_info(MINE), "Invalid credentials")


@verb("create_repo")
def _():
    assert str(api.create_repo(MINE)) == f"{constants.ENDPOINT}/{MINE}"
    assert str(api.create_repo(MINE, exist_ok=True)) == f"{constants.ENDPOINT}/{MINE}"
    assert refused(failures.HfHubHTTPError, lambda: api.create_repo(MINE)).response.status_code == 409
    forbidden = refused(failures.HfHubHTTPError, lambda: api.create_repo("bob/his"), "may not create")
    assert forbidden.response.status_code == 403


@verb("hf upload")
def _():
    folder = Path("up")
    (folder / "deep").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "deep/notes with blanks.txt").write_text("one\n")
    (folder / "model.safetensors").write_bytes(weights(2_000_000))
    assert f"{constants.ENDPOINT}/{MINE}" in command("upload", MINE, str(folder), ".")
    assert len(api.list_repo_files(MINE)) == 4
    again = api.upload_folder(repo_id=MINE, folder_path=folder)
    assert again.oid == api.model_info(MINE).sha  # nothing changed, no commit


@verb("upload_file, delete_file")
def _():
    api.upload_file(path_or_fileobj=b"two", path_in_repo="deep/two.txt", repo_id=MINE)
    with Path("up/config.json").open("rb") as file:
        api.upload_file(path_or_fileobj=file, path_in_repo="deep/three.json", repo_id=MINE)
    api.delete_file("deep/two.txt", MINE)
    copied = hub.CommitOperationCopy("deep/three.json", "deep/four.json")
    api.create_commit(MINE, [copied], commit_message="copy")
    api.delete_folder("deep", MINE)
    api.upload_file(path_or_fileobj=b"one\n", path_in_repo="deep/notes with blanks.txt", repo_id=MINE)
    files = {"README.md", "config.json", "model.safetensors", "deep/notes with blanks.txt"}
    assert files <= set(api.list_repo_files(MINE)), api.list_repo_files(MINE)


@verb("branches and tags")
def _():
    api.create_branch(MINE, branch="feature/x")
    api.create_branch(MINE, branch="feature/x", exist_ok=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=MINE, revision="feature/x")
    assert "x.txt" not in api.list_repo_files(MINE)
    path = hub.hf_hub_download(MINE, "x.txt", revision="feature/x")
    assert Path(path).read_bytes() == b"x"
    api.create_tag(MINE, tag="v1", tag_message="first")
    api.create_tag(MINE, tag="v1", exist_ok=True)
    refs = api.list_repo_refs(MINE)
    assert [ref.name for ref in refs.branches] == ["main", "feature/x"]
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", api.model_info(MINE).sha)]
    api.create_tag(MINE, tag="gone", revision="feature/x")
    api.delete_tag(MINE, tag="gone")
    assert api.list_repo_tree(MINE, revision="feature/x", recursive=True)


@verb("list_repo_tree, commits, paths")
def _():
    tree = {one.path: one for one in api.list_repo_tree(MINE, recursive=True, expand=True)}
    assert tree["model.safetensors"].lfs.sha256 == hashlib.sha256(weights(2_000_000)).hexdigest()
    config = Path("up/config.json").read_bytes()
    assert tree["config.json"].blob_id == hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()
    assert tree["config.json"].last_commit.oid in {one.commit_id for one in api.list_repo_commits(MINE)}
    assert [one.path for one in api.list_repo_tree(MINE, "deep")] == ["deep/notes with blanks.txt"]
    found = api.get_paths_info(MINE, ["config.json", "deep", "absent"])
    assert [one.path for one in found] == ["config.json", "deep"]
    info = api.model_info(MINE, files_metadata=True)
    assert {one.rfilename: one.size for one in info.siblings}["config.json"] == len(config)


@verb("large file by LFS")
def _():
    told = os.environ | {
        "HF_ENDPOINT": os.environ["HUB_STRICT"],
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": STRICT_TOKEN,
    }
    run = subprocess.run(
        [sys.executable, SCRIPT, "--large"], env=told, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr[-800:]


@verb("large file with hf_xet is told HF_HUB_DISABLE_XET=1")
def _():
    modern()
    told = os.environ | {"HF_ENDPOINT": os.environ["HUB_STRICT"], "HF_TOKEN": STRICT_TOKEN}
    run = subprocess.run(
        [sys.executable, SCRIPT, "--large"], env=told, capture_output=True, text=True, timeout=120
    )
    assert run.returncode != 0
    assert "HF_HUB_DISABLE_XET=1" in run.stderr.rsplit("Error", 1)[-1], run.stderr[-800:]


def large():
    """In a process of its own: what a client does about files beyond the cap is decided when it starts."""
    here = hub.HfApi()
    here.create_repo(MINE, exist_ok=True)
    data = weights(3_000_000, seed=VERSION[0] * 100 + VERSION[1])
    Path("large.safetensors").write_bytes(data)
    here.upload_file(path_or_fileobj="large.safetensors", path_in_repo="model.safetensors", repo_id=MINE)
    assert Path(hub.hf_hub_download(MINE, "model.safetensors", force_download=True)).read_bytes() == data
