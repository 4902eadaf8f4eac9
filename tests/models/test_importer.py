"""Import of folders and wheels: same bytes every time, no code run, nothing half-kept."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from plasmid.bases import catalogue
from plasmid.bases.importer import import_folder
from plasmid.bases.residues import AMINO_ACIDS
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.bases.tokenizing import Tokenizer
from plasmid.core.errors import ModelError, PlasmidError, UsageError
from plasmid.encoders.loading import load_encoder
from support.tiny.tiny_models import BERT_VOCABULARY, tiny_bert, tiny_esm


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _kept(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models").glob("*") if path.name != ".lock")


def _ids(tokenizer: Tokenizer, texts: list[str], max_length: int) -> list[list[int]]:
    return [row.ids for row in tokenizer.encode(texts, max_length)]


@pytest.mark.parametrize("make", [tiny_bert, tiny_esm])
def test_the_imported_encoder_is_the_original(make: object, home: Path, tmp_path: Path) -> None:
    source = make(tmp_path / "mine")  # type: ignore[operator]
    base = import_folder(source)
    assert (base.id, base.entry.input, base.entry.spaced) == ("mine", "protein", False)
    assert base.revision == base.digest[:12]
    ids = torch.tensor(_ids(Tokenizer(base), ["CASSYGQGPYGYTF"], 40))
    mask = torch.ones_like(ids)
    original = AutoModel.from_pretrained(source).eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    imported = load_encoder(base)(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(original, imported)
    assert original.std() > 0.5


def test_the_same_folder_has_the_same_digest_in_another_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_bert(tmp_path / "mine")
    first = import_folder(source)
    assert import_folder(source) == first
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "elsewhere"))
    assert import_folder(source, model_id="other").digest == first.digest
    assert str(tmp_path) not in "".join(path.read_text("utf-8", "ignore") for path in first.path.iterdir())


def test_plain_pickle_and_shards_convert_to_the_same_bytes(home: Path, tmp_path: Path) -> None:
    source = tiny_bert(tmp_path / "mine")
    digest = import_folder(source).digest
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    assert import_folder(source).digest == digest
    (source / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, source / file)
    index = source / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}})
    )
    assert import_folder(source).digest == digest
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "../mine/model-1.safetensors")}))
    with pytest.raises(ModelError, match="plain"):
        import_folder(source)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize(
    "trick", ["py", "auto_map", "pickle", "architecture", "tensors", "tokenizer", "unknown", "json"]
)
def test_refused(trick: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_bert(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    config = json.loads((source / "config.json").read_text())
    code = "model.refused"
    match trick:
        case "py":
            (source / "modeling.py").write_text("raise SystemExit")
        case "auto_map":
            (source / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))
        case "pickle":
            (source / "model.safetensors").unlink()
            (source / "pytorch_model.bin").write_bytes(pickle.dumps({"bert.x": _Evil()}, protocol=2))
        case "json":
            (source / "config.json").write_text("[]")
        case "architecture":
            code = "model.architecture_unknown"
            (source / "config.json").write_text(json.dumps(config | {"model_type": "mystery"}))
        case "tensors":
            code = "model.tensors_missing"
            (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
        case "tokenizer":
            code = "model.tokenizer_invalid"
            (source / "tokenizer.json").write_text("{}")
        case "unknown":
            code = "model.tokenizer_unknown"
            text = (source / "tokenizer.json").read_text()
            (source / "tokenizer.json").write_text(text.replace('"Y": 24', '"J": 24'))
    with pytest.raises(ModelError) as caught:
        import_folder(source)
    assert caught.value.code == code
    assert _kept(home) == []
    assert not (tmp_path / "ran").exists()


def test_bad_names(home: Path, tmp_path: Path) -> None:
    source = tiny_bert(tmp_path / "mine")
    for name in ("../up", "antiberty", "", "A"):
        with pytest.raises(UsageError) as caught:
            import_folder(source, model_id=name or "-")
        assert caught.value.code == "usage.model_id"
    with pytest.raises(ModelError) as missing:
        import_folder(tmp_path / "none")
    assert missing.value.code == "model.source_missing"


def test_a_vocabulary_that_needs_blanks(home: Path, tmp_path: Path) -> None:
    """A BERT word-piece tokenizer reads "CASS" as one unknown word; blanks are put in for it."""
    source = tiny_bert(tmp_path / "mine")
    (source / "tokenizer.json").unlink()
    (source / "vocab.txt").write_text("\n".join(BERT_VOCABULARY))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    base = import_folder(source)
    assert base.entry.spaced
    assert _ids(Tokenizer(base), ["CA"], 40) == [[2, 6, 5, 3]]


def test_unknown_letters_are_told_without_showing_them(at_home: None, tiny: dict[str, BaseModel]) -> None:
    tokenizer = Tokenizer(tiny["bert"])
    with pytest.raises(ModelError) as caught:
        tokenizer.encode(["CASS", "CAXS", "CAZS"], 40)
    assert caught.value.code == "model.tokenizer_unknown"
    assert "2 sequences" in caught.value.message
    assert "first in row 2" in caught.value.message
    assert "CAXS" not in str(caught.value)
    assert _ids(tokenizer, [], 40) == []
    assert _ids(tokenizer, [AMINO_ACIDS], 6) == [[2, 5, 6, 7, 8, 3]]


@pytest.mark.parametrize("name", ["antiberty", "minilm"])
def test_the_wheels_convert_to_the_pinned_digest(name: str, home: Path) -> None:
    entry = catalogue.get(name)
    assert isinstance(entry.source, catalogue.WheelSource)
    if importlib.util.find_spec(entry.source.module) is None:
        pytest.skip("the demo extra is not installed")
    base = ensure_model(name)
    assert base.digest == entry.digest
    tokenizer = Tokenizer(base)
    if name == "antiberty":
        assert _ids(tokenizer, ["CASS", "C A S S"], 40) == [[2, 6, 5, 20, 20, 3]] * 2
    else:
        assert _ids(tokenizer, ["A hand"], 40) == [[101, 1037, 2192, 102]]


def test_a_wheel_of_another_version(home: Path) -> None:
    from plasmid.bases.importer import import_entry

    entry = catalogue.get("antiberty").model_copy(update={"revision": "9.9"})
    with pytest.raises(PlasmidError) as caught:
        import_entry(entry)
    assert caught.value.code == "model.source_missing"
    assert "antiberty==9.9" in caught.value.hint
