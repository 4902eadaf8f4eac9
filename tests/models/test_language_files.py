"""Adapters whose base answers with its own head, as files: cards, merging, exports, predictions, refusals."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plasmid.adapters.adapter import adapter_schema
from plasmid.adapters.artifact import read_adapter, read_head
from plasmid.adapters.causal_adapter import is_causal
from plasmid.adapters.export import export_merged
from plasmid.adapters.predict import Predictor
from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, ModelError
from plasmid.encoders.encoder import AdaptedModel
from plasmid.encoders.loading import load_encoder, load_language
from plasmid.exchange.merging import merge_adapters, read_parent
from plasmid.prediction.evaluation import write_release
from plasmid.prediction.inputs import file_input
from plasmid.prediction.job import predict_to
from plasmid.tasks.classification import ClassificationHead
from support.tiny.tiny_causal import tiny_causal
from support.tiny.tiny_language import language_bases, language_recipe, language_table
from support.tiny.tiny_models import tiny_bert

TEXTS = ["abba", "CABA", "ddcb"]
PAIRS = [("causal", "llama"), ("masked-lm", "bert")]
both = pytest.mark.parametrize("kind", ["causal", "masked-lm"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(home))


@pytest.fixture(scope="module")
def bases(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(home))
        found = language_bases(tmp_path_factory.mktemp("sources"), PAIRS)
    return {kind: base for (kind, _), base in found.items()}


def _written(folder: Path, base: BaseModel, kind: str, seed: int = 0) -> Path:
    """Write an adapter with random factors."""
    recipe = language_recipe(base, kind)
    size = adapter_schema(base, recipe.adapter.lora, recipe.head()).size
    state = np.random.default_rng(seed).normal(0, 0.2, size).astype(np.float32)
    write_release(folder, recipe, base, state, provenance={"rounds": 0})
    return folder


def _ran(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, **named: str) -> str:
    """Run the lines of the card in *folder*, with *named* for what they name; return what they print."""
    block = (folder / "README.md").read_text("utf-8").split("```python\n")[1].split("\n```")[0]
    assert len(block.splitlines()) <= 12
    monkeypatch.chdir(folder)
    space: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for line in block.splitlines():
            exec(line, space)
            name = line.split(" = ")[0]
            if name in named:
                space[name] = named[name]
    return str(capsys.readouterr().out)


def test_the_card_s_lines_write_the_answer(
    bases: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    base = bases["causal"]
    folder = _written(tmp_path / "adapter", base, "causal")
    card = (folder / "README.md").read_text("utf-8")
    assert "(head included)" not in card
    assert "pipeline_tag: text-generation\nplasmid: {task: causal}" in card
    assert "answers in at most 6 tokens, told before: `Say it.`" in card
    asked = ["An anomaly of the hand.", "A hand."]
    answers = Predictor.load(folder, device="cpu").predict({"sequence": asked}).answers.values[:, 0]
    assert _ran(folder, monkeypatch, capsys, base=str(base.path)).strip() == answers[0].strip()

    done = export_merged(read_adapter(folder), base, tmp_path / "merged", licence="mit", name="Tiny")
    assert (done.auto_class, done.layers) == ("AutoModelForCausalLM", 7)
    assert not (tmp_path / "merged" / "head.safetensors").exists()
    assert not (tmp_path / "merged" / "modules.json").exists()
    assert _ran(tmp_path / "merged", monkeypatch, capsys).strip() == answers[1].strip()


def test_a_merged_export_of_masked_tokens_is_an_encoder_to_begin_with(
    bases: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    base = bases["masked-lm"]
    folder = _written(tmp_path / "adapter", base, "masked-lm")
    assert not is_causal(folder)
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] is None
    assert _ran(folder, monkeypatch, capsys, base=str(base.path)).startswith("{")
    done = export_merged(read_adapter(folder), base, tmp_path / "merged", licence="mit", name="Tiny")
    assert done.auto_class == "AutoModelForMaskedLM"
    assert _ran(tmp_path / "merged", monkeypatch, capsys).startswith("{")

    adapted = import_folder(tmp_path / "merged", model_id="adapted")
    assert (adapted.entry.architecture, adapted.entry.input, adapted.entry.tasks) == (
        "bert",
        "protein",
        ["classification"],
    )
    recipe = language_recipe(base, "masked-lm")
    model = AdaptedModel.load(base, recipe.adapter.lora, recipe.head())
    model.set_state(read_adapter(folder).on(base)[1])
    ids = torch.tensor([[2, 5, 9, 12, 3]])
    with torch.no_grad():
        wanted = model.encoder.bert(input_ids=ids).last_hidden_state
        found = load_encoder(adapted, attention="eager")(input_ids=ids).last_hidden_state
        plain = load_language(base).bert(input_ids=ids).last_hidden_state
    assert (wanted - plain).abs().max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@both
def test_two_adapters_merge_and_their_child_is_of_the_kind(
    kind: str, bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    parents = [read_parent(_written(tmp_path / str(seed), bases[kind], kind, seed)) for seed in (0, 1)]
    child = merge_adapters(parents, [1.0, 1.0], tmp_path / "child", method="cat", licence="mit")
    assert child.merged.distance < 1e-5
    assert read_head(tmp_path / "child").head.kind == kind
    assert f"plasmid: {{task: {kind}}}" in (tmp_path / "child" / "README.md").read_text()
    assert read_adapter(tmp_path / "child").on(bases[kind])[1].size == child.merged.schema.size


@both
def test_a_file_of_predictions_is_what_the_predictor_says(
    kind: str, bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    folder, table = _written(tmp_path / "adapter", bases[kind], kind), language_table(kind, 10, seed=4)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*table.columns], *zip(*table.columns.values(), strict=True)])
    about = read_head(folder)
    predict_to(tmp_path / "out.csv", folder, file_input(tmp_path / "rows.csv", about), block_rows=4)
    with (tmp_path / "out.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    answers = Predictor.load(folder, device="cpu").predict(table.columns).answers
    assert len(answers) == 10
    wanted = about.head.table(answers)
    for name, shape in about.head.columns().items():
        cells = [row[name] for row in written]
        if shape == "text":
            assert [cell.strip() for cell in cells] == [str(one).strip() for one in wanted[name]]
        else:
            np.testing.assert_allclose([float(cell) for cell in cells], wanted[name], atol=1e-4)
    told = about.head.told(answers.row(0))
    assert told.keys() == about.head.columns().keys()


def test_a_prompt_is_cut_within_its_text_and_a_longer_answer_is_refused(bases: dict[str, BaseModel]) -> None:
    base, recipe = bases["causal"], language_recipe(bases["causal"], "causal")
    model = AdaptedModel.load(base, recipe.adapter.lora, recipe.head())
    columns: Any = {"sequence": ["a" * 100, "a"], "label": ["lo", "hi"]}
    rows = model.encode(columns, input_column="sequence", max_length=50, label_column="label")
    whole = model.encode(columns, input_column="sequence", max_length=90, label_column="label")
    assert rows.lengths.tolist() == [50 + 3, whole.lengths[1]]
    tail = whole.ids[: int(whole.starts[1])][-30:]
    assert rows.ids[: int(rows.starts[1])][-16:].tolist() == tail[-16:].tolist(), "marks and answer stay"
    assert model.lengths(["a" * 100, "a"], 51) == [51, whole.lengths[1] - 3]
    columns["label"][1] = "far too long"
    with pytest.raises(DataError) as caught:
        model.encode(columns, input_column="sequence", max_length=50, label_column="label")
    assert caught.value.code == "data.answer_too_long"
    assert "first in row 2" in caught.value.message
    assert "far" not in caught.value.message + caught.value.hint
    model.refuses = False
    cut = model.encode(columns, input_column="sequence", max_length=50, label_column="label")
    assert cut.lengths[1] == whole.lengths[1] - 3 + model.spec.most, "under a privacy unit it is cut"


def test_a_base_that_is_for_something_else_is_refused(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    masked, causal = bases["masked-lm"], bases["causal"]
    recipe = language_recipe(causal, "causal")
    lora, mute = (
        recipe.adapter.lora,
        import_folder(tiny_causal(tmp_path / "s"), model_id="mute", head="causal"),
    )
    encoder = import_folder(tiny_bert(tmp_path / "e"), model_id="bare")
    of_masked = language_recipe(masked, "masked-lm").head()
    for base, head, code in (
        (masked, ClassificationHead(labels=["0", "1"]), "model.masked"),
        (causal, ClassificationHead(labels=["0", "1"]), "model.causal"),
        (encoder, recipe.head(), "model.own_head"),
        (masked, recipe.head(), "model.own_head"),
        (causal, of_masked, "model.own_head"),
        (mute, recipe.head(), "model.no_chat"),
    ):
        with pytest.raises(ModelError) as caught:
            AdaptedModel.load(base, lora, head)
        assert caught.value.code == code
