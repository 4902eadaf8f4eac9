"""The client verbs of ``plasmid hub`` against a real hub."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel
from plasmid.cli.verbs import models
from plasmid.cli.verbs.hub import app
from plasmid.hubclient.bases import push_base
from plasmid.hubclient.client import find_hub
from support.federation.release_world import DP_SGD, World
from support.hub.hub_server import LiveHub, served
from support.tiny.tiny_models import tiny_bert

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def live(tiny: dict[str, BaseModel], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A hub with a base and two adapters of it that are signed."""
    folder = tmp_path_factory.mktemp("hub")
    with served(folder) as hub:
        hub.user("plasmid")
        hub.user("ada")
        hub.user("bob", scope="read")
        client = find_hub(hub.url, token=hub.tokens["plasmid"])
        push_base(client, tiny["bert"], "plasmid/tiny-bert", licence="MIT")
        yield hub


@pytest.fixture
def run(live: LiveHub, model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb as ada, and return its answer."""
    monkeypatch.setenv("PLASMID_HOME", str(model_home))
    monkeypatch.setenv("HF_ENDPOINT", live.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, who: str = "ada", of: Any = app) -> dict[str, Any]:
        monkeypatch.setenv("HF_TOKEN", live.tokens[who])
        words = [*map(str, arguments), "--format", "json"]
        answer: dict[str, Any] = json.loads(CliRunner().invoke(of, words).stdout.splitlines()[-1])
        return answer

    return run


def _signed(folder: Path, base: BaseModel, run: str = "tiny-0123456789abcdef") -> Path:
    World(base, privacy=DP_SGD, run=run).fetch(folder)
    return folder


def test_a_signed_adapter_is_pushed_found_shown_and_pulled(
    run: Run, live: LiveHub, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    folder = _signed(tmp_path / "one", tiny["bert"])
    api = find_hub(live.url, token=live.tokens["ada"]).api()
    api.create_repo("ada/one")
    api.upload_file(path_or_fileobj=b"of before", path_in_repo="left.txt", repo_id="ada/one")
    pushed = run("push", folder, "ada/one", "--tag", "v1")
    assert pushed["status"] == "ok", pushed
    assert len(pushed["data"]["verified"]["countersigned"]) == 3
    commit = pushed["data"]["commit"]
    assert "left.txt" not in api.list_repo_files("ada/one"), "it would be one more than was signed"

    names = [one["id"] for one in run("ls")["data"]["models"]]
    assert {"ada/one", "plasmid/tiny-bert"} <= set(names)
    assert [one["id"] for one in run("ls", "ada")["data"]["models"]] == ["ada/one"]
    row = run("search", "one", "--base", "tiny-bert", "--licence", "mit", "--unit", "record")["data"][
        "models"
    ][0]
    assert (row["id"], row["licence"], row["base"]) == ("ada/one", "mit", "plasmid/tiny-bert")
    assert row["epsilon"] == 8.0
    assert run("search", "--epsilon", "8")["data"]["models"]
    found = run("search", "task", "--task", "classification", "--tag", "tiny", "--tag", "protein")["data"]
    assert "ada/one" in [one["id"] for one in found["models"]], "by a word of its title, and its card's tags"
    assert run("search", "--epsilon", "7.9")["data"]["models"] == []

    shown = run("show", "ada/one@v1")["data"]
    assert (shown["commit"], shown["kind"], shown["licence"]) == (commit, "adapter", "mit")
    assert shown["base"] == f"plasmid/tiny-bert@{tiny['bert'].revision}"
    assert shown["labels"] == ["no", "yes"]
    assert (shown["privacy"]["unit"], shown["privacy"]["epsilon"]) == ("record", 8.0)
    assert shown["privacy"]["spent"] < 8.0
    assert any("whoever receives the result" in line for line in shown["privacy"]["statement"])
    made_from = {edge["kind"]: edge["name"] for edge in shown["lineage"]["parents"]}
    assert made_from["base"] == "plasmid/tiny-bert"
    assert made_from["run"] == "tiny-0123456789abcdef"
    assert "ada/one" in [
        edge["name"] for edge in run("show", "plasmid/tiny-bert")["data"]["lineage"]["children"]
    ]
    text = CliRunner().invoke(app, ["show", "ada/one"]).stdout
    assert "signed: attestations are there" in text
    assert f"hf download ada/one --revision {commit} --local-dir one" in text

    pull = next(line for line in shown["commands"] if " pull " in line).split()[2:]
    assert pull == ["pull", f"ada/one@{commit[:12]}", "--to", "one"]
    pulled = run("pull", pull[1], "--to", tmp_path / "two")["data"]
    assert pulled["commit"] == commit
    assert pulled["verified"]["server_step"] == "re-run"
    for path in folder.iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()
    again = run("pull", "ada/one", "--to", tmp_path / "two")
    assert again["error"]["code"] == "usage.folder_exists"

    listed = run("history", "ada/one")["data"]["commits"]
    assert listed[0]["id"] == commit
    assert listed[0]["refs"] == ["main", "v1"]
    assert run("tag", f"ada/one@{commit[:10]}", "best")["data"]["commit"] == commit
    assert run("tag", "ada/one", "best")["error"]["code"] == "hub.ref_exists"


def test_what_was_changed_is_not_pushed_and_what_the_hub_changes_is_not_taken(
    run: Run, live: LiveHub, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    folder = _signed(tmp_path / "one", tiny["bert"])
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    data = bytearray((changed / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (changed / "head.safetensors").write_bytes(bytes(data))
    problem = run("push", changed, "ada/changed")["error"]
    assert problem["code"] == "model.release_changed"
    assert problem["hint"].startswith("Publish the folder as 'plasmid run' wrote it, or take attestations.")
    assert run("show", "ada/changed")["error"]["code"] == "hub.repo_missing"

    # Past our client, a stranger's could put it there; it is caught on arrival, and no folder is made.
    from huggingface_hub import HfApi

    api = HfApi(endpoint=live.url, token=live.tokens["ada"])
    api.create_repo("ada/changed")
    api.upload_folder(repo_id="ada/changed", folder_path=changed)
    refused = run("pull", "ada/changed", "--to", tmp_path / "got")
    assert refused["error"]["code"] == "model.release_changed"
    assert not (tmp_path / "got").exists()

    # A hub whose disk lies: the bytes are not those of the digest.
    assert run("push", folder, "ada/rotten")["status"] == "ok"
    rotten = next(
        path
        for path in (live.hub.settings.folder / "blobs").rglob("*")
        if path.is_file() and path.read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    )
    kept = rotten.read_bytes()
    rotten.chmod(0o600)
    rotten.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        broken = run("pull", "ada/rotten", "--to", tmp_path / "got")
    finally:
        rotten.write_bytes(kept)
    assert broken["error"]["code"] == "hub.broken_file"
    assert not (tmp_path / "got").exists()


def test_two_adapters_become_one_and_a_retired_parent_says_what_was_built_on_it(
    run: Run,
    live: LiveHub,
    tiny: dict[str, BaseModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, number in (("left", "1"), ("right", "2")):
        folder = _signed(tmp_path / name, tiny["bert"], run=f"tiny-000000000000000{number}")
        assert run("push", folder, f"ada/{name}")["status"] == "ok"
    merged = run("merge", "ada/left", "ada/right", "--method", "cat", "--out", tmp_path / "both")["data"]
    assert merged["licence"] == "mit"
    assert merged["distance"] < 1e-6
    assert (merged["privacy"]["unit"], merged["privacy"]["epsilon"]) == ("record", 16.0)
    assert merged["privacy"]["delta"] == pytest.approx(2e-5)
    card = (tmp_path / "both" / "README.md").read_text("utf-8")
    assert "base_model:\n- plasmid/tiny-bert\n- ada/left\n- ada/right\nbase_model_relation: merge" in card
    assert "epsilons and deltas are added" in card
    assert "| ada/left | 0.5 |" in card
    assert "Nobody has signed this adapter" in card

    assert run("push", tmp_path / "both", "ada/both")["status"] == "ok"
    shown = run("show", "ada/both")["data"]
    assert shown["privacy"]["epsilon"] == 16.0
    parents = {edge["name"]: edge["kind"] for edge in shown["lineage"]["parents"]}
    assert parents == {"ada/left": "merge", "ada/right": "merge", "plasmid/tiny-bert": "base"}
    assert run("search", "both")["data"]["models"][0]["base"] == "plasmid/tiny-bert"
    # A run that stands behind two parents counts once.
    again = run("merge", "ada/both", "ada/left", "--method", "svd", "--out", tmp_path / "third")["data"]
    assert again["privacy"]["epsilon"] == 16.0
    apart = run("merge", "ada/left", "ada/right", "--disjoint", "--out", tmp_path / "fourth")["data"]
    assert apart["privacy"]["epsilon"] == 8.0

    assert run("retire", "ada/left", "--reason", "A site withdrew.")["error"]["code"] == "usage.not_confirmed"
    problem = run("retire", "ada/left", "--reason", "x", "--yes", who="bob")["error"]
    assert problem["code"] == "hub.forbidden"
    assert problem["message"] == "bob may not administer ada/left with this token, which is for: read."
    retired = run("retire", "ada/left", "--reason", "A site withdrew.", "--yes")["data"]
    assert retired["built_on_it"] == ["ada/both"]
    printed: list[logging.LogRecord] = []  # by the client's library, beside what the verb tells
    library = logging.getLogger("huggingface_hub")
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", printed.append)
    library.addHandler(handler)
    pulled = run("pull", "ada/left", "--to", tmp_path / "gone")["data"]
    assert (pulled["retired"], pulled["built_on_it"]) == ("A site withdrew.", ["ada/both"])
    text = CliRunner().invoke(app, ["pull", "ada/left", "--to", str(tmp_path / "again")]).stderr
    assert "retired: ada/left: A site withdrew. Do not use it any more." in text
    assert run("show", "ada/left")["data"]["retired"] == "A site withdrew."
    assert printed == []
    from huggingface_hub.utils import _http

    _http._WARNED_TOPICS.clear()
    find_hub(live.url, token=live.tokens["ada"]).info("ada/left")  # as a verb does that tells nothing itself
    library.removeHandler(handler)
    assert [record.getMessage() for record in printed] == ["ada/left was retired: A site withdrew."]
    assert not library.propagate, "the root's handler would tell it again"
    row = {one["id"]: one for one in run("ls", "ada")["data"]["models"]}["ada/left"]
    assert row["retired"] == "A site withdrew."


def test_an_exported_adapter_is_a_model_under_a_licence_that_follows(
    run: Run, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    folder = _signed(tmp_path / "one", tiny["bert"])
    assert run("export", folder, "--out", tmp_path / "x")["error"]["code"] == "usage.export"
    refused = run("export", folder, "--merged", "--out", tmp_path / "x")
    assert refused["error"]["code"] == "model.licences_differ"  # the tiny base says none
    done = run("export", folder, "--merged", "--licence", "MIT", "--out", tmp_path / "x")["data"]
    assert (done["class"], done["layers"]) == ("AutoModelForTokenClassification", 4)
    assert (tmp_path / "x" / "README.md").read_text("utf-8").startswith("---\nlicense: mit\n")
    assert run("push", tmp_path / "x", "ada/exported")["status"] == "ok"
    assert run("show", "ada/exported")["data"]["kind"] == "model"
    assert run("pull", "ada/exported", "--to", tmp_path / "y")["data"]["verified"] is None
    for path in (tmp_path / "x").rglob("*"):
        assert (
            path.is_dir()
            or (tmp_path / "y" / path.relative_to(tmp_path / "x")).read_bytes() == path.read_bytes()
        )


def test_a_folder_becomes_a_base_on_the_hub_and_comes_back(
    run: Run, live: LiveHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_bert(tmp_path / "source", seed=7)
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    wanted = ("import", source, "--id", "seventh", "--push", "plasmid/seventh")
    assert run(*wanted, who="plasmid", of=models.app)["error"]["code"] == "hub.no_licence"
    made = run(*wanted, "--licence", "MIT", who="plasmid", of=models.app)["data"]
    assert made["digest"] == import_folder(source, model_id="seventh").digest
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "other"))
    found = run("import", "plasmid/seventh", "--revision", made["revision"], of=models.app)["data"]
    assert (found["digest"], found["licence"], found["source"]) == (made["digest"], "MIT", "plasmid/seventh")
    shown = run("show", "plasmid/seventh")["data"]
    assert (shown["kind"], shown["licence"]) == ("base", "mit")
    pulled = run("pull", "plasmid/seventh", "--to", tmp_path / "folder")["data"]
    assert pulled["files"] == len(list((tmp_path / "folder").iterdir()))


def test_who_waits_to_be_let_in_is_told_to_wait(run: Run, live: LiveHub) -> None:
    api = find_hub(live.url, token=live.tokens["ada"]).api()
    api.create_repo("ada/gated")
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="ada/gated")
    api.update_repo_settings("ada/gated", gated="manual")
    problem = run("pull", "ada/gated", who="bob")["error"]
    assert problem["message"].endswith(f"read and accept its terms at {live.url}/ada/gated")
    bob = {"Authorization": f"Bearer {live.tokens['bob']}"}
    assert httpx.post(f"{live.url}/ada/gated/ask-access", headers=bob, trust_env=False).status_code == 200
    problem = run("pull", "ada/gated", who="bob")["error"]
    assert (problem["code"], problem["hint"]) == ("hub.gated", "Its terms are accepted: wait for its owners.")
    assert problem["message"].endswith("its owners have not yet let this caller in.")


def test_merging_cannot_hide_what_a_parent_says(run: Run, tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    """Facts that were changed no longer give the epsilon beside them."""
    folder = _signed(tmp_path / "one", tiny["bert"])
    (folder / "attestations.intoto.jsonl").unlink()
    said = json.loads((folder / "provenance.json").read_text())
    said["privacy"]["participants"][0]["noise_multiplier"] = float(np.float64(0.1))
    (folder / "provenance.json").write_text(json.dumps(said))
    found = run("merge", folder, folder, "--out", tmp_path / "two")
    assert found["error"]["code"] == "protocol.claims"
    assert not (tmp_path / "two").exists()
