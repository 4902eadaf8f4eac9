"""A base model that reads SMILES, and the classical model that it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

from plasmid.adapters.adapter import initial_state
from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel
from plasmid.bases.tokenizing import Tokenizer as Reader
from plasmid.core.errors import ModelError
from plasmid.data.table import Table
from plasmid.experiments.simple import fit, simple_scores
from plasmid.recipes.columns import SMILES_CHARACTERS
from plasmid.recipes.schema import Recipe
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _source(folder: Path, letters: list[str]) -> Path:
    words = [*SPECIAL, "Br", "Cl", *letters]
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = Split(Regex("Br|Cl|."), "isolated")
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ", ".join(f'"{word[1:-1].lower()}_token": "{word}"' for word in SPECIAL)
    (folder / "tokenizer_config.json").write_text(
        f'{{"tokenizer_class": "PreTrainedTokenizerFast", {names}}}', "utf-8"
    )
    return folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    source = _source(tmp_path / "source", sorted(SMILES_CHARACTERS - {"%"}))
    return import_folder(source, model_id="tiny-smiles", kind="molecule")


def _recipe(base: BaseModel) -> Recipe:
    document: dict[str, Any] = tiny_recipe(base).model_dump(mode="json")
    document["task"] = {"kind": "regression", "unit": "1", "bounds": [0.0, 1.0], "metric": "spearman"}
    columns = document["data"]["columns"]
    del columns["gene"]
    columns["sequence"] = {"type": "molecule", "max_length": 40}
    columns["label"] = {"type": "number", "bounds": [0.0, 1.0]}
    document["adapter"]["covariates"] = []
    document["adapter"]["lora"]["layers"] = 1
    return Recipe.model_validate(document)


def _table(rows: int, seed: int) -> Table:
    """Chains of carbon and other atoms; the number is the share of nitrogen."""
    source = np.random.default_rng(seed)
    texts = ["C" + "".join(source.choice(list("CCNO"), int(source.integers(4, 20)))) for _ in range(rows)]
    return Table({"sequence": list(texts), "label": [one.count("N") / len(one) for one in texts]}, rows)


def test_smiles_are_read_letter_by_letter_and_other_signs_are_refused(base: BaseModel) -> None:
    assert (base.entry.input, base.entry.tasks) == ("molecule", ["classification"])
    reader = Reader(base)
    (found,) = reader.encode(["ClCBr"], 42)
    assert (len(found.ids), found.special) == (5, [1, 0, 0, 0, 1])
    with pytest.raises(ModelError) as caught:
        reader.encode(["CC", "C%10CC%10"], 42)
    assert caught.value.code == "model.tokenizer_unknown"
    assert "1 SMILES hold other signs, first in row 2" in caught.value.message
    assert "%" not in caught.value.message


def test_a_tokenizer_that_knows_no_molecule_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    with pytest.raises(ModelError) as caught:
        import_folder(_source(tmp_path / "s", ["C", "O"]), model_id="few", kind="molecule")
    assert caught.value.code == "model.tokenizer_unknown"
    assert "a plain SMILES" in caught.value.message


def test_an_adapter_learns_of_molecules_beside_a_model_of_their_fragments(base: BaseModel) -> None:
    recipe, test = _recipe(base), _table(60, 9)
    engine = Engine(recipe, base, _table(96, 0), device="cpu")
    first = initial_state(engine.schema, 0)
    state = engine.train(first, steps=60, seed=0)
    assert engine.score(first, test.columns) == 0.0
    assert engine.score(state, test.columns) > 0.5
    pytest.importorskip("rdkit")
    assert simple_scores(recipe, {"a": _table(96, 0)}, test)["central"] > 0.8
    strange = Table({"sequence": ["C(", "CN"], "label": [0.0, 0.5]}, 2)
    assert fit(recipe, _table(96, 0)).predict(strange).values.shape == (2, 1), (
        "what is no molecule has no part"
    )
