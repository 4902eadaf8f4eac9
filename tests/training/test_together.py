"""The steps of several sites in one pass are those of each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.bases.store import BaseModel
from plasmid.computations import fedsb
from plasmid.computations.api import Part
from plasmid.recipes.schema import Recipe
from plasmid.worker import stacked_sites as together
from plasmid.worker.engine import EVERYTHING, Engine
from plasmid.worker.stacked_sites import Together, groups, may_go_together
from support.tiny import method_rounds
from support.tiny.tiny_kinds import KINDS, kind_recipe, kind_table
from support.tiny.tiny_language import language_bases, language_recipe, language_table
from support.tiny.tiny_task import tiny_recipe, tiny_table

ROWS = (40, 17, 96)


def engines(recipe: Recipe, base: BaseModel, kind: str, **more: Any) -> list[Engine]:
    first, *others = (kind_table(kind, rows, seed) for seed, rows in enumerate(ROWS))
    made = Engine(recipe, base, first, device="cpu", **more)
    return [made, *(made.over(table) for table in others)]


def started(engine: Engine) -> Vector:
    """Return a state in which neither B nor the head is zero."""
    state = initial_state(engine.schema, 0)
    return state + 0.05 * np.random.default_rng(0).standard_normal(state.size).astype(np.float32)


def compare(own: list[Engine], *, learn: frozenset[Part] = EVERYTHING, tolerance: float = 2e-5) -> None:
    start = started(own[0])
    how: dict[str, Any] = {"steps": 5, "learn": learn, "pace": [1.0, 0.5, 1.0, 0.2, 1.0]}
    every = Together(own).train_each(start, seeds=[7, 8, 9], **how)
    alone = [one.train(start, seed=seed, **how) for one, seed in zip(own, (7, 8, 9), strict=True)]
    np.testing.assert_allclose(every, alone, atol=tolerance)
    assert all(np.abs(one - start).max() > 1e-2 for one in alone)
    assert np.abs(alone[0] - alone[1]).max() > 100 * tolerance, "sites differ by more than what is allowed"
    again = Together(own).train_each(start, seeds=[7, 8, 9], **how)  # with what is cached by now
    np.testing.assert_allclose(again, every, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_each_site_ends_where_it_would_alone(kind: str, tiny: dict[str, BaseModel]) -> None:
    recipe = kind_recipe(tiny["esm"], kind, lora_b_ratio=2.0, proximal=0.1)
    compare(engines(recipe, tiny["esm"], kind))


@pytest.mark.parametrize("learn", [{"A", "head"}, {"B", "covariates"}])
def test_what_does_not_learn_stays(learn: set[Part], tiny: dict[str, BaseModel]) -> None:
    recipe = tiny_recipe(tiny["bert"], optimizer="sgd", lora_lr=0.5, head_lr=0.5)
    own = engines(recipe, tiny["bert"], "classification")
    start = started(own[0])
    how: dict[str, Any] = {"steps": 3, "learn": learn}
    every = Together(own).train_each(start, seeds=[7, 8, 9], **how)
    alone = [one.train(start, seed=seed, **how) for one, seed in zip(own, (7, 8, 9), strict=True)]
    np.testing.assert_allclose(every, alone, atol=2e-5)
    assert np.array_equal(every == start, np.array(alone) == start)
    assert 0.1 < (every == start).mean() < 0.9


def test_cores_are_copied_too(tiny: dict[str, BaseModel]) -> None:
    document = method_rounds.recipe(tiny["esm"], "fedsb")
    own = engines(document, tiny["esm"], "classification", frames=fedsb.frames(document, tiny["esm"]))
    compare(own, learn=fedsb.learns(document, 1), tolerance=1e-4)


@pytest.mark.usefixtures("at_home")
def test_models_that_answer_in_words_go_together(tmp_path: Path) -> None:
    base = language_bases(tmp_path, [("causal", "llama")])["causal", "llama"]
    recipe = language_recipe(base, "causal")
    first = Engine(recipe, base, language_table("causal", 20), device="cpu")
    compare([first, *(first.over(language_table("causal", rows, seed=rows)) for rows in (24, 48))])
    masked = language_bases(tmp_path, [("masked-lm", "esm")])["masked-lm", "esm"]
    assert not may_go_together(language_recipe(masked, "masked-lm")), "its masks are drawn by site"


def test_a_site_trains_alone_again_afterwards(tiny: dict[str, BaseModel]) -> None:
    own = engines(tiny_recipe(tiny["bert"]), tiny["bert"], "classification")
    start = started(own[0])
    before = own[1].train(start, steps=3, seed=1)
    Together(own).train_each(start, steps=2, seeds=[1, 2, 3])
    assert np.array_equal(own[1].train(start, steps=3, seed=1), before)


def test_those_in_a_group_have_batches_of_one_size_and_fit(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tiny["esm"])
    first = Engine(recipe, tiny["esm"], tiny_table(30), device="cpu")
    own = [first, *(first.over(tiny_table(rows, seed=rows)) for rows in (9, 96, 9, 40, 50, 60))]
    assert groups(own) == [[0, 2, 4, 5, 6], [1, 3]]
    one, whole = own[2].numbers()
    assert one * 6 == whole, "a batch is 16 of 96 rows"
    monkeypatch.setattr(together, "FEW", 2 * max(some.numbers()[0] for some in own))
    assert groups(own) == [[0, 2], [4, 5], [6], [1, 3]]
    monkeypatch.setattr(together, "SMALL", whole - 1)
    assert [2] in groups(own)
    monkeypatch.setattr(together, "FEW", 0)
    assert sorted(groups(own)) == [[place] for place in range(7)]


def test_what_is_noised_or_drawn_or_frozen_goes_alone(tiny: dict[str, BaseModel]) -> None:
    recipe = tiny_recipe(tiny["bert"])
    assert may_go_together(recipe)
    assert not may_go_together(tiny_recipe(tiny["bert"], lora_lr=0.0))
    private = recipe.privacy.model_copy(update={"unit": "record"})
    assert not may_go_together(recipe.model_copy(update={"privacy": private}))
