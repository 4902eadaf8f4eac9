"""Verbs that read: files, lists, cards, file systems."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import huggingface_hub as hub
from hub_frame import CARD, MINE, TOKEN, VERSION, api, command, modern, refused, verb, weights


@verb("hf download (revision, --local-dir)")
def _():
    command("download", MINE, "--revision", "v1", "--local-dir", "down")
    assert Path("down/model.safetensors").read_bytes() == weights(2_000_000)
    assert Path("down/deep/notes with blanks.txt").read_text() == "one\n"
    command("download", MINE, "config.json", "--revision", api.model_info(MINE).sha)


@verb("download goes on where it broke off")
def _():
    data = weights(24_000_000)  # clients keep what came in pieces of 10 MiB
    api.upload_file(path_or_fileobj=data, path_in_repo="cut.safetensors", repo_id=MINE)
    for _ in range(3):
        try:
            path = hub.hf_hub_download(
                MINE, "cut.safetensors", endpoint=os.environ["HUB_CUTTING"], cache_dir="cut"
            )
            break
        except Exception as error:  # noqa: BLE001 - 0.30 gives up, and goes on when it is called again
            last = error
    else:
        raise last
    assert Path(path).read_bytes() == data


@verb("snapshot_download")
def _():
    folder = Path(hub.snapshot_download(MINE, allow_patterns=["conf*.json", "model.*"]))
    assert sorted(one.name for one in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert folder.name == api.model_info(MINE).sha
    assert hub.file_exists(MINE, "config.json")
    assert not hub.file_exists(MINE, "absent.json")


@verb("hf cache verify")
def _():
    modern()
    assert "verified" in command("cache", "verify", MINE).lower()
    Path("down/config.json").write_text('{"model_type": "evil"}')
    try:
        said = command("cache", "verify", MINE, "--local-dir", "down")
    except AssertionError as error:
        said = str(error)
    assert "config.json" in said  # which bytes were changed


@verb("hf models ls, list_models")
def _():
    assert [one.id for one in api.list_models(search="verbs " + MINE.rsplit("verbs-")[1])] == [MINE]
    assert MINE in [
        one.id for one in api.list_models(author="ada", filter=["antibody", "license:apache-2.0"])
    ]
    assert not list(api.list_models(author="ada", filter="license:mit"))
    assert len(list(api.list_models(author="lab"))) == 105  # more than a page
    assert len(list(api.list_models(author="lab", limit=7))) == 7
    assert "antibody" in next(iter(api.list_models(search="verbs", author="ada", full=True))).tags
    if VERSION >= (1, 0):
        assert MINE in command("models", "ls", "--author", "ada", "--format", "json")


@verb("hf models info")
def _():
    info = api.model_info(MINE, expand=["tags", "sha", "cardData"])
    assert info.card_data.license == "apache-2.0"
    assert "antibody" in info.tags
    assert info.sha == api.model_info(MINE, revision="main").sha
    if VERSION >= (1, 0):
        assert MINE in command("models", "info", MINE)


@verb("ModelCard.load, cards checked on upload")
def _():
    card = hub.ModelCard.load(MINE)
    assert card.data.license == "apache-2.0"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        api.upload_file(path_or_fileobj=b"---\ntags: [a]\n---\n", path_in_repo="README.md", repo_id=MINE)
    assert any("no licence" in str(one.message) for one in caught)
    bad = b"---\nlicense: [1]\n---\n"
    refused(
        ValueError,
        lambda: api.upload_file(path_or_fileobj=bad, path_in_repo="README.md", repo_id=MINE),
        "license is not a text",
    )
    api.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id=MINE)


@verb("ModelCard.validate, push_to_hub")
def _():
    modern((2, 0))  # earlier ones ask the public hub, whatever HF_ENDPOINT says
    card = hub.ModelCard.load(MINE)
    card.text += "\nMore.\n"
    card.validate()
    card.push_to_hub(MINE, token=TOKEN)
    assert hub.ModelCard.load(MINE).text.endswith("More.\n")
    refused(ValueError, hub.ModelCard("---\nlicense: [1]\n---\n").validate, "license is not a text")


@verb("HfFileSystem ls, open, write")
def _():
    fs = hub.HfFileSystem(token=TOKEN)
    assert f"{MINE}/config.json" in fs.ls(MINE, detail=False)
    with fs.open(f"{MINE}/model.safetensors", "rb") as file:
        file.seek(1_000_000)
        assert file.read(100) == weights(2_000_000)[1_000_000:1_000_100]
    with fs.open(f"{MINE}/deep/written.txt", "w") as file:
        file.write("by fsspec")
    fs.invalidate_cache()
    assert fs.cat(f"{MINE}@main/deep/written.txt") == b"by fsspec"
    assert fs.glob(f"{MINE}/**/*.txt")
    assert fs.cat(f"{MINE}@feature%2Fx/x.txt") == b"x"
    fs.rm(f"{MINE}/deep/written.txt")
