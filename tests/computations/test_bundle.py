"""The public half of a bundle follows from what the document declares, and from nothing in its Python."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from plasmid.computations import api, bundle
from plasmid.planner.attempts import attempt_plan
from plasmid.protocol.messages import Planned
from plasmid.recipes.bundle import BundleRecipe
from support.federation.bundle_recipes import OUTPUT, RECORD, bundle_recipe

NOT_PYTHON = "this is no Python at all, and nobody minds who does not run it"


def test_records_reach_as_far_as_the_public_number_of_rows_says() -> None:
    shape = bundle.shape(bundle_recipe(NOT_PYTHON, bound=2.5, max_rows=40), None)
    assert (shape.bound, shape.record_bound, shape.norm, shape.bits) == (100.0, 2.5, None, 64)
    assert shape.dtype == np.float64


def test_a_finished_vector_reaches_as_far_as_its_bound() -> None:
    document = bundle_recipe(NOT_PYTHON, half="vector", bound=2.5, max_rows=40, privacy=OUTPUT)
    shape = bundle.shape(document, None)
    assert (shape.bound, shape.norm) == (2.5, 1.0)
    assert api.site_half(api.load("bundle"), document) == "vector"


def test_tensors_have_one_order_at_both_ends() -> None:
    """A document that has travelled comes with its keys sorted."""
    tensors = {"zeta": [2], "alpha": [1, 3]}
    here = bundle_recipe(NOT_PYTHON, tensors=tensors)
    there = BundleRecipe.model_validate(json.loads(json.dumps(here.model_dump(mode="json"), sort_keys=True)))
    for document in (here, there):
        names = [(tensor.name, tensor.shape) for tensor in bundle.shape(document, None).schema.tensors]
        assert names == [("alpha", (1, 3)), ("zeta", (2,))]
        told = bundle.result(document, np.arange(5.0), 4)
        assert told == {"tensors": {"alpha": [[0.0, 1.0, 2.0]], "zeta": [3.0, 4.0]}, "sites": 4}


def test_the_first_state_is_the_declared_one() -> None:
    """The same everywhere, and another for each tensor and seed where it is drawn."""
    tensors = {"a": [2, 2], "b": [2], "c": [1000], "d": [1000], "e": [1]}
    first = {"a": [1, 2, 3, 4], "b": 0.5, "c": {"std": 2}, "d": {"std": 2}}
    document = bundle_recipe(NOT_PYTHON, tensors=tensors, initial=first)
    shape = bundle.shape(document, None)
    state = bundle.initial(document, shape)
    assert state[:6].tolist() == [1.0, 2.0, 3.0, 4.0, 0.5, 0.5]
    assert state[-1] == 0.0
    drawn, other = state[6:1006], state[1006:2006]
    assert (drawn.mean(), drawn.std()) == (pytest.approx(0, abs=0.2), pytest.approx(2, abs=0.15))
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.1
    assert drawn[:2] == pytest.approx([-2.26465449, 2.4517002], abs=1e-7)
    again = bundle.initial(document.model_copy(update={"seed": 1}), shape)
    assert not np.isclose(again[6:2006], state[6:2006]).any()


@pytest.mark.parametrize(("advance", "expected"), [("total", 12.0), ("mean", 4.0), ("update", 5.0)])
def test_what_becomes_of_the_sum(advance: str, expected: float) -> None:
    document = bundle_recipe(NOT_PYTHON, advance=advance)
    shape = bundle.shape(document, None)
    assert bundle.initial(document, shape).tolist() == [0.0] * 3
    state = bundle.advance(document, shape, np.ones(3), api.Sum(np.full(3, 12.0), 3, 1))
    assert (state.dtype, state.tolist()) == (np.float64, [expected] * 3)


def test_a_large_result_is_not_written_out() -> None:
    document = bundle_recipe(NOT_PYTHON, size=5000)
    assert bundle.result(document, np.zeros(5000), 3) == {"tensors": {}, "sites": 3}


@pytest.mark.parametrize(
    ("half", "privacy", "sensitivity"),
    [("per_record", RECORD, 1.0), ("vector", OUTPUT, 2.0), ("per_record", OUTPUT, 2.0)],
)
def test_noise_is_for_one_record_or_for_the_whole_bound(
    half: str, privacy: dict[str, Any], sensitivity: float
) -> None:
    """What nobody can look into gets noise for twice its norm, a record for its clip."""
    document = bundle_recipe(NOT_PYTHON, half=half, privacy=privacy | {"epsilon": 1.0, "delta": 1e-6})
    planned = Planned(sites=4, c=1, noise_rate=1.0)
    plan = attempt_plan(document, bundle.shape(document, None), sites=4, c=1, planned=planned)
    attempts = document.rounds + document.federation.spare_attempts
    assert plan.noise_std == pytest.approx(sensitivity * 4.75 * attempts**0.5, rel=0.15)
