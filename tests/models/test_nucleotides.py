"""A base model that reads DNA, and the classical model that it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig, BertModel

from plasmid.adapters.adapter import initial_state
from plasmid.bases import catalogue, untrained
from plasmid.bases.importer import import_entry, import_folder
from plasmid.bases.residues import residue_tokenizer
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_floats
from plasmid.bases.tokenizing import Tokenizer
from plasmid.core.errors import ModelError
from plasmid.data.table import Table
from plasmid.experiments.simple import fit, simple_scores
from plasmid.recipes.schema import Recipe
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "C", "G", "T", "N"]


def _source(folder: Path, vocabulary: list[str]) -> Path:
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    for name, content in residue_tokenizer(vocabulary, 64).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    return import_folder(_source(tmp_path / "source", VOCABULARY), model_id="tiny-dna", kind="nucleotide")


def test_the_model_that_ships_is_what_its_command_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    base = import_entry(catalogue.get("untrained-dna"))
    untrained.write(tmp_path / "made")
    made = import_folder(tmp_path / "made", model_id="made", kind="nucleotide")
    # Bytes may differ by the release of transformers; names, shapes and numbers do not.
    assert {name: info.shape for name, info in made.header.items()} == {
        name: info.shape for name, info in base.header.items()
    }
    ours, again = (read_floats(one.path / "model.safetensors") for one in (base, made))
    assert max(float(abs(ours[name] - again[name]).max()) for name in ours) < 1e-3
    assert base.entry.licence == "Apache-2.0"


def recipe(base: BaseModel) -> Recipe:
    document: dict[str, Any] = tiny_recipe(base, steps=40).model_dump(mode="json")
    document["data"]["columns"]["sequence"] = {"type": "nucleotide", "max_length": 30, "too_long": "truncate"}
    return Recipe.model_validate(document)


def junctions(rows: int, seed: int) -> Table:
    """Windows of 20; the label says whether GT stands in their middle."""
    source = np.random.default_rng(seed)
    sequences = ["".join(source.choice(list("ACGT"), 20)) for _ in range(rows)]
    labels = ["yes" if source.random() < 0.5 else "no" for _ in range(rows)]
    windows = [
        f"{one[:10]}{'GT' if label == 'yes' else 'CA'}{one[12:]}"
        for one, label in zip(sequences, labels, strict=True)
    ]
    return Table({"sequence": windows, "gene": ["a"] * rows, "label": labels}, rows)


def test_dna_is_read_letter_by_letter(base: BaseModel) -> None:
    assert (base.entry.input, base.entry.spaced) == ("nucleotide", False)
    (one,) = Tokenizer(base).encode(["ACGTN"], 16)
    assert one.ids == [2, 5, 6, 7, 8, 9, 3]
    with pytest.raises(ModelError, match="1 sequences hold letters that are not nucleotides, first in row 2"):
        Tokenizer(base).encode(["ACGT", "ACGU"], 16)


def test_a_base_without_nucleotides_is_no_model_of_dna(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    with pytest.raises(ModelError, match="maps A, C, G, T or N to") as caught:
        import_folder(_source(tmp_path / "source", VOCABULARY[:-2]), kind="nucleotide")
    assert caught.value.code == "model.tokenizer_unknown"


def test_an_adapter_learns_on_dna(base: BaseModel) -> None:
    engine = Engine(recipe(base), base, junctions(160, 0))
    state = engine.train(initial_state(engine.schema, 0), steps=160, seed=0)
    assert engine.score(state, junctions(100, 1).columns) > 0.9


def test_the_classical_model_knows_where_a_letter_stands(base: BaseModel) -> None:
    train, test = junctions(300, 2), junctions(200, 3)
    assert simple_scores(recipe(base), {"a": train}, test)["central"] > 0.99  # type: ignore[operator]
    # Shorter and longer rows than any that it has seen are read from their first letter on.
    others = Table(
        {**test.columns, "sequence": [one[:14] + "T" * 30 for one in test.columns["sequence"]]}, 200
    )
    found = fit(recipe(base), train).predict(others).values
    assert (found[:, 1] > 0.5).tolist() == [label == "yes" for label in others.columns["label"]]
