"""Which tokens are special is the tokenizer's own word, and the pooled mean leaves exactly those out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from plasmid.bases.importer import import_folder
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.bases.tokenizing import Tokenizer
from plasmid.core.errors import ModelError
from plasmid.encoders.encoder import AdaptedModel
from plasmid.tasks.classification import ClassificationHead
from support.tiny.tiny_models import tiny_llama

HEAD = ClassificationHead(labels=["no", "yes"])
LORA = LoraSpec(rank=2, alpha=2.0, targets=["all-linear"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "special"),
    [
        ("bert", [1, 0, 0, 0, 1]),
        ("esm", [1, 0, 0, 0, 1]),
        ("roberta", [1, 0, 0, 0, 1]),
        ("modernbert", [1, 0, 0, 0, 1]),
        ("llama", [1, 0, 0, 0]),
    ],
)
def test_special_tokens_are_marked(kind: str, special: list[int], zoo: dict[str, BaseModel]) -> None:
    tokenizer = Tokenizer(zoo[kind])
    whole, cut = tokenizer.encode(["CAS", "CASSYGQGPY"], len(special))
    assert whole.special == cut.special == special
    assert len(whole.ids) == len(special)
    one, other = (ids[special.index(0) : special.index(0) + 3] for ids in (whole.ids, cut.ids))
    assert one == other


def test_a_tokenizer_without_special_tokens(home: Path) -> None:
    base = import_folder(tiny_llama(home / "bare", first=False))
    (encoded,) = Tokenizer(base).encode(["CASSY"], 4)
    assert (len(encoded.ids), encoded.special) == (4, [0, 0, 0, 0])
    model = AdaptedModel.load(base, LORA, HEAD)
    rows = model.encode({"x": ["CASSY", "W"]}, input_column="x", max_length=10)
    torch.nn.init.normal_(model.head.weight)
    with torch.no_grad():
        hidden = model.encoder(input_ids=rows.ids[None, :5]).last_hidden_state[0]
        wanted = model.head(hidden.mean(0))
        torch.testing.assert_close(model(rows.batch([0, 1]))[0], wanted, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_without_padding_is_refused(home: Path) -> None:
    folder = tiny_llama(home / "bare")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError) as caught:
        import_folder(folder)
    assert caught.value.code == "model.tokenizer_invalid"
    assert "pad_token" in caught.value.hint
