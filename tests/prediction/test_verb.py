"""`plasmid predict` as people call it: options, progress, engines, adapters of a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs import predict as verb
from plasmid.core.errors import ModelError, PlasmidError
from plasmid.hubclient.client import RemoteFile, find_hub
from plasmid.prediction import adapters
from plasmid.prediction.adapters import adapter_folder
from support.federation.release_world import World
from support.hub.hub_server import served
from support.tiny.tiny_adapter import tiny_adapter, tiny_rows

pytestmark = pytest.mark.usefixtures("at_home")


@pytest.fixture(scope="module")
def adapter(tiny: dict[str, BaseModel], model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(tmp_path_factory.mktemp("made") / "adapter", tiny["esm"])


def answer(*arguments: Any) -> dict[str, Any]:
    """Run the verb and return its JSON answer."""
    found = CliRunner().invoke(verb.app, [*map(str, arguments), "--format", "json"])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    said: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return said


def test_a_file_of_scores_and_its_progress(adapter: Path, tmp_path: Path) -> None:
    data, out = tiny_rows(tmp_path / "rows.fasta", 40), tmp_path / "out.csv"
    found = CliRunner().invoke(verb.app, [str(adapter), "--data", str(data), "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "0 of 40 rows" in found.stderr
    assert "40 of 40 rows, " in found.stderr
    assert "rows/s" in found.stderr
    assert f"40 rows in {out}" in found.stdout
    assert out.read_text().splitlines()[0] == '"id","no","yes"'
    assert len(out.read_text().splitlines()) == 41


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("give either --data or --view", []),
        ("give either --data or --view", ["--data", "x.csv", "--view", "tcr-covid"]),
        ("--engine is local or ray", ["--data", "x.csv", "--out", "o.csv", "--engine", "spark"]),
        ("--engine ray, --column and --keep need --out", ["--data", "x.csv", "--engine", "ray"]),
        ("--engine ray, --column and --keep need --out", ["--data", "x.csv", "--keep", "id"]),
        ("--workers needs --engine ray", ["--data", "x.csv", "--out", "o.csv", "--workers", "2"]),
        ("a view is scored where it is", ["--view", "x", "--engine", "ray"]),
        ("a view has its own mapping", ["--view", "x", "--column", "a=b"]),
        ("--column is NAME=THEIRS", ["--data", "x.csv", "--out", "o.csv", "--column", "a"]),
    ],
)
def test_options_that_do_not_go_together(said: str, arguments: list[str], tmp_path: Path) -> None:
    error = answer(tmp_path, *arguments)["error"]
    assert error["code"] == "usage.predict_options"
    assert said in error["message"]


def test_without_the_platform_the_ray_engine_names_the_extra(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent:
        def load(self) -> None:
            raise ModuleNotFoundError("No module named 'ray'", name="ray")

    data = tiny_rows(tmp_path / "rows.csv", 4)
    for points in ([Absent()], []):
        monkeypatch.setattr(verb, "entry_points", lambda points=points, **_: points)
        error = answer(adapter, "--data", data, "--out", tmp_path / "o.csv", "--engine", "ray")["error"]
        assert error["code"] == "usage.extra_missing"
        assert "needs the package ray" in error["message"]
        assert "plasmid[platform]" in error["hint"]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class OneRepo:
    """A hub with the files of one folder; it counts what is asked."""

    def __init__(self, folder: Path, **sizes: int) -> None:
        self.folder, self.sizes, self.asked = folder, sizes, 0
        self.sha = COMMIT
        self.retired: str | None = None

    def info(self, repo: str, revision: str | None) -> OneRepo:
        assert (repo, revision) == ("acme/tcr", "v1")
        self.asked += 1
        return self

    def files(self, repo: str, commit: str) -> list[RemoteFile]:
        found = {path.name: path.stat().st_size for path in self.folder.iterdir()} | self.sizes
        return [RemoteFile(name, size, "", None) for name, size in sorted(found.items())]

    def fetch_all(self, repo: str, commit: str, folder: Path, files: list[RemoteFile]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            (folder / file.path).write_bytes((self.folder / file.path).read_bytes())


def test_an_adapter_of_a_hub_is_fetched_once_and_nothing_else_of_its_repository(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    hub = OneRepo(adapter, **{"evil.py": 1, "pytorch_model.bin": 1, "sub/x.json": 1})
    monkeypatch.setattr(adapters, "find_hub", lambda: hub)
    folder = adapter_folder("acme/tcr@v1")
    assert folder == tmp_path / "home" / "hub-adapters" / "acme--tcr" / COMMIT
    assert {path.name for path in folder.iterdir()} == {path.name for path in adapter.iterdir()}
    assert adapter_folder("acme/tcr@v1") == folder
    assert hub.asked == 2
    monkeypatch.setattr(adapters, "find_hub", lambda: None)
    assert adapter_folder(f"acme/tcr@{COMMIT}") == folder


def test_a_signed_adapter_of_a_hub_is_verified_and_a_retired_one_warned_about(
    tiny: dict[str, BaseModel],
    model_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = tmp_path / "released"
    with monkeypatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        World(tiny["bert"]).fetch(released)
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    head = (released / "head.json").read_bytes()
    (released / "head.json").write_bytes(head + b" ")
    hub = OneRepo(released)
    monkeypatch.setattr(adapters, "find_hub", lambda: hub)
    with pytest.raises(ModelError, match=r"head\.json is not as it was released") as changed:
        adapter_folder("acme/tcr@v1")
    assert changed.value.code == "model.release_changed"
    assert list((tmp_path / "home" / "hub-adapters" / "acme--tcr").iterdir()) == []
    (released / "head.json").write_bytes(head)
    hub.retired = "a site\x1b[2J withdrew"
    folder = adapter_folder("acme/tcr@v1")
    assert {path.name for path in folder.iterdir()} == {path.name for path in released.iterdir()}
    assert caplog.messages == ["acme/tcr was retired by its owner: a site [2J withdrew"]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("no-folder", "model.adapter_missing"),
        ("../up/and/away", "model.adapter_missing"),
        ("../up", "hub.name"),
        ("acme/tcr", "hub.no_endpoint"),
    ],
)
def test_what_is_no_adapter(given: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    with pytest.raises(PlasmidError) as missing:
        adapter_folder(given)
    assert missing.value.code == code


def test_a_repository_without_an_adapter_or_with_a_huge_one_is_refused(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    for folder, sizes, code in (
        (tmp_path / "empty", {}, "model.adapter_missing"),
        (adapter, {"adapter_model.safetensors": 2**40}, "model.adapter_invalid"),
    ):
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(adapters, "find_hub", lambda folder=folder, sizes=sizes: OneRepo(folder, **sizes))
        with pytest.raises(ModelError) as refused:
            adapter_folder("acme/tcr@v1")
        assert refused.value.code == code


def test_an_adapter_of_a_real_hub_scores_and_a_stranger_is_told(
    adapter: Path, model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_rows(tmp_path / "rows.csv", 12)
    with served(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", hub.user("ada"))
        api = find_hub().api()
        api.create_repo("ada/tcr", private=True)
        api.upload_folder(repo_id="ada/tcr", folder_path=adapter)
        found = answer("ada/tcr", "--data", data)
        assert found["data"]["scores"] == answer(adapter, "--data", data)["data"]["scores"]
        monkeypatch.setenv("HF_TOKEN", hub.user("bob"))
        refused = answer("ada/tcr@main", "--data", data)["error"]
        assert refused["code"] == "hub.repo_missing"
    assert (model_home / "hub-adapters" / "ada--tcr").is_dir()
