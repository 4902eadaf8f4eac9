"""Kinds of task: what they take for labels, what they answer, and how that reaches files and cards."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from plasmid.adapters.artifact import Adapter, read_adapter, read_head
from plasmid.adapters.card import code_block
from plasmid.adapters.export import LINEAR, code, export_merged
from plasmid.adapters.merge import merge
from plasmid.adapters.predict import Predictor
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, ModelError
from plasmid.encoders.slots import encode_covariates
from plasmid.tasks import IGNORED, Answers, AnyHead, Head, Task, source_of
from plasmid.tasks.metrics import FEWER_IS_BETTER, score
from plasmid.tasks.regression import Regression, RegressionHead
from plasmid.tasks.token_classification import TokenClassification, TokenHead
from support.tiny.served import ROWS, write

HEADS: TypeAdapter[Head] = TypeAdapter(AnyHead)
MASS = RegressionHead(unit="kg", bounds=(10.0, 30.0))
FOLD = TokenHead(labels=["h", "e"], unlabelled="-")
ONE = np.ones(9, np.int64)


# -- kinds ---------------------------------------------------------------------------------------------


def test_every_kind_has_a_section_a_head_and_a_source_and_they_agree() -> None:
    tasks = {get_args(one.model_fields["kind"].annotation)[0]: one for one in Task.__subclasses__()}
    heads = {one.model_fields["kind"].default: one for one in Head.__subclasses__()}
    known = {"classification", "regression", "token-classification", "causal", "masked-lm"}
    assert tasks.keys() == heads.keys() == known
    for kind, task in tasks.items():
        assert get_args(task.model_fields["metric"].annotation) == heads[kind].metrics
        assert task.own_head == heads[kind].own_head
        source = source_of(kind)
        assert source is not None
        assert source.name == f"{kind.replace('-', '_')}.py"
    assert source_of("ranking") is None


def test_a_head_without_a_kind_is_a_classification_and_is_written_without_one() -> None:
    old = {"labels": ["0", "1"], "covariates": []}
    head = HEADS.validate_python(old)
    assert (head.kind, head.width, head.classes) == ("classification", 2, ("0", "1"))
    assert json.dumps(head.model_dump(mode="json")) == json.dumps(old), "the same bytes as before"
    for known in (MASS, FOLD):
        assert HEADS.validate_python(known.model_dump(mode="json")) == known


@pytest.mark.parametrize(
    ("head", "place"),
    [
        ({"kind": "ranking"}, ()),
        ({"labels": ["0"]}, ("classification", "labels")),
        ({"kind": "regression", "unit": "kg", "bounds": [1, 1]}, ("regression",)),
        ({"kind": "regression", "unit": "kg", "bounds": [0, math.inf]}, ("regression", "bounds", 1)),
        ({"kind": "regression", "bounds": [0, 1]}, ("regression", "unit")),
        (
            {"kind": "token-classification", "labels": ["h", "-"], "unlabelled": "-"},
            ("token-classification",),
        ),
        (
            {"kind": "token-classification", "labels": ["he", "c"], "unlabelled": "-"},
            ("token-classification", "labels", 0),
        ),
    ],
)
def test_heads_that_are_none(head: dict[str, Any], place: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        HEADS.validate_python(head)
    assert [error["loc"] for error in caught.value.errors()] == [place]


def test_a_head_file_s_parts_belong_together(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    folder = write(tmp_path / "a", tiny["bert"], "number")
    whole = json.loads((folder / "head.json").read_text())
    assert whole["pooling"] == "mean"
    for change in (
        {"metric": "auc"},
        {"pooling": "none"},
        {"temperature": 1.5},
        {"kind": "text", "pooling": "none"},
    ):
        (folder / "head.json").write_text(json.dumps(whole | change))
        with pytest.raises(ModelError, match=r"head\.json is wrong"):
            read_head(folder)


# -- targets and losses --------------------------------------------------------------------------------


def test_numbers_are_clipped_and_scaled_by_public_bounds() -> None:
    targets = MASS.targets([10, 20.0, 30.0, 25, -7.0, 1e9], ONE)
    assert targets.dtype == np.float32
    assert targets.tolist() == [-1.0, 0.0, 1.0, 0.5, -1.0, 1.0]
    outputs = torch.tensor([[-1.0], [0.5], [3.0]])
    assert MASS.losses(outputs, torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0.0, 0.25, 4.0]
    assert MASS.answers(outputs, 1.0).tolist() == [[10.0], [25.0], [30.0]]
    for cells in ([20.0, "CANARY", None], [20.0, math.nan, True]):
        with pytest.raises(DataError) as caught:
            MASS.targets(cells, ONE)
        assert caught.value.code == "data.not_a_number"
        assert "2 rows" in caught.value.message
        assert "first in row 2" in caught.value.message
        assert "CANARY" not in str(caught.value)


def test_residues_without_a_label_count_nowhere() -> None:
    own = np.array([3, 2, 2])
    targets = FOLD.targets(["he-", "eehhh", "--"], own)
    assert targets.tolist() == [0, 1, IGNORED, 1, 1, IGNORED, IGNORED], "cut where the sequence is"
    logits = torch.tensor([[[0.0, 0.0], [2.0, 2.0], [9.0, 1.0]], [[0.0, 5.0], [0.0, 5.0], [1.0, 7.0]]])
    padded = torch.tensor([[0, 1, IGNORED], [IGNORED] * 3])
    losses = FOLD.losses(logits, padded)
    assert losses.tolist() == pytest.approx([math.log(2), 0.0])
    answers = Answers(
        np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.6, 0.4]], np.float32), np.array([0, 3, 4])
    )
    assert FOLD.score("accuracy", answers, ["he-", "e"]) == pytest.approx(2 / 3)
    assert FOLD.told(answers.row(0))["label"] == "heh"
    for cells in (["he", "eh", "hh"], ["heC", "eh", "hh"], ["hé-", "eh", "hh"], [None, "eh", "hh"]):
        with pytest.raises(DataError) as caught:
            FOLD.targets(cells, own)
        assert caught.value.code == "data.residue_labels"
        assert "1 rows have no label for each residue, first row 1" in caught.value.message


def test_demonstration_data_are_dealt_by_like_labels() -> None:
    number = Regression(kind="regression", unit="kg", bounds=(0, 1), metric="mae")
    found = number.strata([str(value) for value in range(100)])
    assert [found.count(str(place)) for place in range(10)] == [10] * 10
    assert found[:10] == ["0"] * 10
    fold = TokenClassification(kind="token-classification", labels=("h", "e"), metric="accuracy")
    assert fold.strata(["hhe-", "eeh---", "----"]) == ["h", "e", ""]


# -- metrics -------------------------------------------------------------------------------------------


def test_metrics_of_numbers() -> None:
    values, truth = np.array([1.0, 3.0, 2.0]), np.array([1.0, 2.0, 6.0])
    assert score("spearman", values, truth) == pytest.approx(0.5)
    assert score("rmse", values, truth) == pytest.approx(math.sqrt(17 / 3))
    assert score("mae", values, truth) == pytest.approx(5 / 3)
    assert score("r2", values, truth) == pytest.approx(1 - 17 / 14)
    assert score("spearman", np.ones(3), truth) == 0.0
    of_tokens = {"token-loss", "perplexity", "masked-loss", "pseudo-perplexity"}
    assert {"rmse", "mae"} | of_tokens == FEWER_IS_BETTER
    for metric in ("spearman", "r2"):
        with pytest.raises(DataError) as caught:
            score(metric, values, np.ones(3))
        assert caught.value.code == "data.one_value"
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])
    assert score("macro-f1", probabilities, np.array([0, 0, 1, 1])) == pytest.approx((0.8 + 2 / 3) / 2)


# -- files ---------------------------------------------------------------------------------------------


def _held(folder: Path, base: BaseModel, shape: str) -> Adapter:
    return read_adapter(write(folder, base, shape))


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("shape", ["number", "residues"])
def test_predictions_have_columns_of_their_kind(
    shape: str, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    adapter = _held(tmp_path / "a", tiny["esm"], shape)
    answers = Predictor(adapter, device="cpu").predict(ROWS).answers
    head = adapter.about.head
    table = head.table(answers)
    assert list(table) == list(head.columns())
    assert len(answers) == 6
    if shape == "number":
        assert (answers.values >= -5.0).all()
        assert (answers.values <= 15.0).all()
        assert np.ptp(answers.values) > 0.1
        assert head.told(answers.row(2)) == {"value": pytest.approx(float(table["prediction"][2]))}
        return
    assert [len(text) for text in table["prediction"]] == [len(one) for one in ROWS["sequence"]]
    shares = np.stack([np.concatenate(list(table[label])) for label in "hec"])
    np.testing.assert_allclose(shares.sum(0), 1.0, atol=1e-6)
    assert "".join("hec"[best] for best in shares.argmax(0)) == "".join(table["prediction"])


def _executed(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    space: dict[str, Any] = {}
    for line in block.splitlines():
        exec(line, space)
        name = line.split(" = ")[0]
        if name in given:
            space[name] = given[name]
    return space


def _flat(space: dict[str, Any], shape: str) -> np.ndarray:
    found = space["values"] if shape == "number" else torch.cat(space["probabilities"])
    return np.asarray(found.numpy())


@pytest.mark.usefixtures("at_home")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft on transformers 5
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the card leaves head.json open
@pytest.mark.parametrize("shape", ["number", "residues"])
def test_the_card_and_the_merged_model_say_what_predict_says(
    shape: str, tiny: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny["bert"]
    adapter = _held(tmp_path / "a", base, shape)
    wanted = Predictor(adapter, device="cpu").predict(ROWS).answers.values.squeeze()
    rows = [
        dict(zip(("sequence", "age"), cells, strict=True))
        for cells in zip(ROWS["sequence"], ROWS["age"], strict=True)
    ]
    block = code_block(adapter.about, str(base.path))
    assert len(block.splitlines()) <= 12 + 3 * (shape == "number")  # it counts words, too
    assert max(len(line) for line in block.splitlines() if not line.startswith("base = ")) <= 200
    found = _flat(_executed(block, tmp_path / "a", monkeypatch, rows=rows), shape)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    card = (tmp_path / "a" / "README.md").read_text()
    assert ("pipeline_tag: token-classification\n" in card) == (shape == "residues")
    assert adapter.about.head.says() in card

    export_merged(adapter, base, tmp_path / "out", licence="mit", name="Tiny")
    slots = torch.from_numpy(encode_covariates(adapter.about.head.covariates, ROWS, len(rows)))
    block = code(adapter, LINEAR["bert"])
    given = {"texts": ROWS["sequence"], "slots": slots}
    found = _flat(_executed(block, tmp_path / "out", monkeypatch, **given), shape)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    names = json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]
    assert list(names.values()) == (["prediction"] if shape == "number" else ["h", "e", "c"])


def test_adapters_merge_with_those_that_answer_alike_alone(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = tiny["bert"]
    first = _held(tmp_path / "a", base, "number")
    second = read_adapter(write(tmp_path / "b", base, "number", seed=1))
    merged = merge([first, second], [1, 1], base, method="cat")
    assert merged.distance < 1e-6
    whole = json.loads((tmp_path / "b" / "head.json").read_text())
    whole["head"]["bounds"] = [0.0, 15.0]
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    (tmp_path / "c" / "head.json").write_text(json.dumps(whole))
    with pytest.raises(ModelError) as caught:
        merge([first, read_adapter(tmp_path / "c")], [1, 1], base, method="cat")
    assert (
        "adapter 2 predicts a number from 0 to 15 (unit: `kg`), and not as adapter 1" in caught.value.message
    )
