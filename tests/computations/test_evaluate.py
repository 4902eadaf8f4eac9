"""What is told of an adapter from sums in cells is what its scores say, row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.computations import api, evaluate
from plasmid.core.errors import RecipeError
from plasmid.recipes.evaluation import EvaluationDocument, evaluation_from_recipe
from plasmid.recipes.query import noised
from plasmid.recipes.schema import Recipe
from plasmid.tasks.metrics import auc
from support.tiny.tiny_kinds import kind_recipe
from support.tiny.tiny_task import tiny_recipe

ROWS = 3000


@pytest.fixture
def recipe(tiny: dict[str, BaseModel]) -> Recipe:
    return tiny_recipe(tiny["bert"])


def asked(recipe: Recipe, given: str = "0" * 64, **settings: Any) -> EvaluationDocument:
    digest = str(recipe.model.digest)
    rest: dict[str, Any] = {"rows": "all", **settings}
    return evaluation_from_recipe(
        recipe, lora=recipe.adapter.lora, head=recipe.head(), base=digest, given=given, **rest
    )


def scored(document: EvaluationDocument, logits: np.ndarray, labels: np.ndarray) -> list[api.Scored]:
    likely = np.exp(logits - logits.max(1, keepdims=True))
    likely /= likely.sum(1, keepdims=True)
    rows = []
    for probabilities, label in zip(likely, labels, strict=True):
        row = api.Scored({document.data.label: document.task.labels[int(label)]})
        row.probabilities = probabilities.tolist()
        rows.append(row)
    return rows


def answer(document: EvaluationDocument, base: BaseModel, rows: list[api.Scored]) -> dict[str, Any]:
    """Return what the sum over three sites says."""
    shape = evaluate.shape(document, base)
    total = np.zeros(shape.schema.size)
    for row in rows:
        total += evaluate.per_record(document, total, row)
    assert np.abs(total).max() <= shape.bound
    state = evaluate.first(document, shape, np.zeros(shape.state.size - shape.schema.size, np.float32))
    state = evaluate.advance(document, shape, state, api.Sum(total, 3, 1))
    assert state.size == shape.state.size
    return evaluate.result(document, state, 3)


def two_labels(seed: int = 0, sharp: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [rows, 2] and labels drawn from them, the logits *sharp* times too large."""
    source = np.random.default_rng(seed)
    margin = source.normal(0.3, 1.4, ROWS)
    labels = (source.random(ROWS) < 1 / (1 + np.exp(-margin))).astype(np.int64)
    return np.stack([np.zeros(ROWS), margin * sharp], 1), labels


@pytest.mark.parametrize(("bins", "off"), [(40, 0.004), (128, 0.0015)])
def test_the_auc_of_cells_is_nearly_that_of_the_scores(
    recipe: Recipe, tiny: dict[str, BaseModel], bins: int, off: float
) -> None:
    logits, labels = two_labels()
    document = asked(recipe, bins=bins)
    found = answer(document, tiny["bert"], scored(document, logits, labels))
    likely = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    exact = auc(np.stack([1 - likely, likely], 1), labels)
    assert found["auc"] == pytest.approx(exact, abs=off)
    low, high = found["auc_interval"]
    assert low < exact < high
    assert high - low < 0.04
    right = (likely >= 0.5) == (labels == 1)
    assert found["accuracy"] == pytest.approx(right.mean(), abs=1e-12)
    assert found["count"] == np.sum(found["confusion"]) == ROWS
    assert found["calibration_error"] < 0.04
    assert found["suppressed"] == 0


@pytest.mark.parametrize("std", [0.3, 1.5, 6.0])
def test_noise_in_empty_cells_makes_no_records(std: float) -> None:
    rng = np.random.default_rng(int(10 * std))
    true = np.zeros((2, 40))
    true[:, 15:25] = rng.integers(5, 60, (2, 10))
    off = []
    for _ in range(200):
        noised = true + rng.normal(0.0, std, true.shape)
        found = evaluate.nearest_counts(noised)
        assert found.min() >= 0.0
        assert found.sum() == pytest.approx(noised.sum())
        assert ((found - true) ** 2).sum() < ((noised - true) ** 2).sum(), "it is nearer than before"
        off.append(found.sum() - true.sum())
    assert abs(np.mean(off)) < 5.0 * std * np.sqrt(true.size / len(off))


def test_counts_without_noise_stay_as_they_are() -> None:
    exact = np.random.default_rng(0).integers(0, 9, (3, 3, 5)).astype(float)
    assert evaluate.nearest_counts(exact) == pytest.approx(exact)
    assert evaluate.nearest_counts(np.full((2, 4), -1.0)).tolist() == [[0.0] * 4] * 2


def test_more_labels_have_a_confusion_and_no_auc(recipe: Recipe, tiny: dict[str, BaseModel]) -> None:
    task = recipe.task.model_copy(update={"labels": ("a", "b", "c"), "metric": "accuracy"})
    document = asked(recipe.model_copy(update={"task": task}))
    source = np.random.default_rng(1)
    logits, labels = source.normal(0, 2, (400, 3)), source.integers(0, 3, 400)
    found = answer(document, tiny["bert"], scored(document, logits, labels))
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (labels, logits.argmax(1)), 1)
    assert found["confusion"] == confusion.tolist()
    assert found["accuracy"] == pytest.approx(np.trace(confusion) / 400)
    assert found["auc"] is None
    assert np.shape(found["counts"]) == (3, 3, 40)


@pytest.mark.parametrize("sharp", [0.4, 1.0, 2.5])
def test_logits_too_large_by_a_factor_have_that_temperature(
    recipe: Recipe, tiny: dict[str, BaseModel], sharp: float
) -> None:
    logits, labels = two_labels(3, sharp)
    document = asked(recipe, measure="temperature")
    found = answer(document, tiny["bert"], scored(document, logits, labels))
    assert found["temperature"] == pytest.approx(sharp, rel=0.08)
    assert found["slope"] == sorted(found["slope"])


def test_a_label_that_is_never_right_has_no_temperature(recipe: Recipe, tiny: dict[str, BaseModel]) -> None:
    document = asked(recipe, measure="temperature")
    logits, labels = np.tile([0.0, 3.0], (50, 1)), np.zeros(50, np.int64)
    assert answer(document, tiny["bert"], scored(document, logits, labels))["temperature"] is None
    assert answer(document, tiny["bert"], [])["temperature"] is None


def test_no_record_reaches_further_than_its_norm(recipe: Recipe, tiny: dict[str, BaseModel]) -> None:
    for measure in ("scores", "temperature"):
        norm = evaluate.record_norm(measure)
        document = asked(recipe, measure=measure, privacy=noised(1.0, 1e-4, norm))
        shape = evaluate.shape(document, tiny["bert"])
        assert "suppressed" not in [tensor.name for tensor in shape.schema.tensors]
        logits = np.array([[0.0, 900.0], [900.0, 0.0], [0.0, 0.0], [0.0, math.inf]])
        with np.errstate(invalid="ignore"):
            rows = scored(document, np.nan_to_num(logits, posinf=2000.0), np.zeros(4, np.int64))
        vectors = [evaluate.per_record(document, np.zeros(0), row) for row in rows]
        assert max(np.linalg.norm(vector) for vector in vectors) <= norm + 1e-12
        assert np.abs(np.array(vectors)).max() <= shape.record_bound


def test_a_run_begins_with_the_adapter_that_the_document_names(
    recipe: Recipe, tiny: dict[str, BaseModel]
) -> None:
    shape = evaluate.shape(asked(recipe), tiny["bert"])
    given = np.arange(shape.state.size - shape.schema.size, dtype=np.float32)
    document = asked(recipe, given=api.given_digest(given))
    state = api.first_state(evaluate, document, shape, given.tobytes())
    assert evaluate.begins(document, shape, state)
    np.testing.assert_array_equal(evaluate.adapter_of(shape, state), given)
    for place in (0, given.size, state.size - 1):
        other = state.copy()
        other[place] += 1e-12 if place == 0 else 1.0
        assert not evaluate.begins(document, shape, other)
    for nothing in (None, given[1:].tobytes(), b""):
        with pytest.raises(RecipeError, match="was not given") as caught:
            api.first_state(evaluate, document, shape, nothing)
        assert caught.value.code == "recipe.given"


def test_another_recipes_adapter_is_refused_with_all_that_differs(recipe: Recipe) -> None:
    head: Any = recipe.head().model_copy(update={"labels": ["yes", "no"]})
    with pytest.raises(RecipeError) as caught:
        evaluation_from_recipe(
            recipe,
            lora=LoraSpec(rank=2, alpha=8.0, targets=["query"]),
            head=head,
            base="f" * 64,
            given="0" * 64,
            rows="holdout",
        )
    assert caught.value.code == "recipe.evaluation"
    for what in ("LoRA settings", "labels are yes, no", "base model is ffffffffffff", "holds out no rows"):
        assert what in caught.value.message


def test_a_table_of_too_many_cells_is_refused(recipe: Recipe) -> None:
    task = recipe.task.model_copy(update={"labels": tuple(f"l{n}" for n in range(40)), "metric": "accuracy"})
    with pytest.raises(ValueError, match="at most 4096 cells"):
        asked(recipe.model_copy(update={"task": task}))


def test_what_has_no_label_a_row_is_refused(recipe: Recipe, tiny: dict[str, BaseModel]) -> None:
    """Scores are counted by label."""
    other = kind_recipe(tiny["bert"], "regression")
    with pytest.raises(RecipeError, match="counted by label, and a regression has none"):
        asked(other)
