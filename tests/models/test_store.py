"""The catalogue, and opening what is imported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from plasmid.bases import catalogue, store
from plasmid.bases.store import BaseModel, ensure_model, hash_files, open_model
from plasmid.core.canonical import digest_json
from plasmid.core.errors import ModelError


def test_every_shipped_entry_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    files = sorted(path.stem for path in catalogue.ENTRIES.glob("*.yaml"))
    assert [entry.id for entry in catalogue.ls()] == files
    assert {"antiberty", "minilm"} <= set(files)
    for name in files:
        assert catalogue.get(name).installed


def test_unknown_name_gets_a_suggestion(at_home: None) -> None:
    with pytest.raises(ModelError) as caught:
        catalogue.get("antibery")
    assert caught.value.code == "model.unknown"
    assert "Did you mean antiberty?" in caught.value.hint


def test_imported_folders_are_entries(at_home: None, tiny: dict[str, BaseModel]) -> None:
    assert catalogue.get("tiny-esm") == tiny["esm"].entry
    assert {"tiny-bert", "tiny-esm"} <= {entry.id for entry in catalogue.ls()}


def test_open(at_home: None, tiny: dict[str, BaseModel]) -> None:
    base = tiny["bert"]
    assert open_model("tiny-bert") == base
    assert open_model("tiny-bert", revision=base.revision, digest=base.digest) == base
    assert digest_json(hash_files(base.path)) == base.digest
    with pytest.raises(ModelError) as caught:
        open_model("tiny-bert", digest="0" * 64)
    assert caught.value.code == "model.digest_differs"


@pytest.mark.parametrize("name", ["antiberty", "tiny-bert"])
def test_not_imported(at_home: None, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        open_model(name, revision="7")
    assert caught.value.code == "model.not_imported"
    assert (
        f"plasmid models import {'antiberty' if name == 'antiberty' else 'FOLDER --id tiny-bert'}"
        in caught.value.hint
    )


@pytest.mark.parametrize("change", ["edit", "add", "remove", "record"])
def test_changed_files_are_refused(
    tmp_path: Path, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    base = tiny["bert"]
    folder = tmp_path / "models" / base.id / base.revision
    shutil.copytree(base.path, folder)
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    assert open_model(base.id).path == folder
    match change:
        case "edit":
            with (folder / "model.safetensors").open("r+b") as file:
                file.seek(-1, 2)
                file.write(b"\x07")
        case "add":
            (folder / "adapter_config.json").write_text("{}")
        case "remove":
            (folder / "tokenizer.json").unlink()
        case "record":
            record = folder / catalogue.RECORD
            record.write_text(record.read_text().replace('"config.json":"', '"config.json":"0')[:-1])
    with pytest.raises(ModelError) as caught:
        open_model(base.id)
    assert caught.value.code == ("model.unknown" if change == "record" else "model.digest_differs")


def test_a_wheel_that_is_not_installed_comes_from_the_hub_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def child(model_id: str, arguments: list[str], timeout_s: float | None) -> ModelError | None:
        asked.append(arguments)
        return ModelError("model.source_missing", "no wheel") if len(arguments) == 1 else None

    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    monkeypatch.setattr(store, "_in_child", child)
    for endpoint in ("", "https://huggingface.co"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(ModelError) as caught:
            ensure_model("antiberty")
        assert caught.value.code == "model.source_missing"
    assert asked == [["antiberty"], ["antiberty"]]
    monkeypatch.setenv("HF_ENDPOINT", "http://hub:8000")
    with pytest.raises(ModelError) as still:
        ensure_model("antiberty", digest="0" * 64)
    assert still.value.code == "model.not_imported"  # this child fetched nothing
    assert asked[-1] == ["antiberty", "--from-hub", "--revision=0.1.3", f"--digest={'0' * 64}"]


def test_ensure_passes_on_what_the_child_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "file" / "home"))
    (tmp_path / "file").write_text("in the way")
    from plasmid.core.errors import StorageError

    with pytest.raises(StorageError) as caught:
        ensure_model("antiberty")
    assert caught.value.code == "storage.unwritable"
