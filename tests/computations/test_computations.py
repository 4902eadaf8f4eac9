"""The public halves: what is summed, how far it reaches, and what the sum makes of the state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from plasmid.bases.store import BaseModel
from plasmid.computations import api, finetune, mean, ping
from plasmid.core.errors import RecipeError
from plasmid.planner.attempts import attempt_plan
from plasmid.protocol.messages import Planned
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.recipes.schema import Recipe
from support.federation.attacks import count_document
from support.tiny.tiny_task import tiny_recipe

AGES = QueryDocument(name="ages", column="age", bounds=(20.0, 80.0), max_rows=500)


@pytest.mark.parametrize("name", ["counts", "mean", "ping", *api.METHODS])
def test_a_computation_has_one_site_half(name: str) -> None:
    computation: Any = api.load(name)
    halves = {"loss": "losses", "per_record": "per_record", "vector": "vector"}
    has = [half for half, function in halves.items() if hasattr(computation, function)]
    assert has == [computation.SITE_HALF]


@pytest.mark.parametrize("name", ["api", "nothing", "../os", "os.path", ""])
def test_what_is_no_computation(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        api.load(name)
    assert caught.value.code == "recipe.computation_unknown"


# -- mean ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "z"), [(20.0, -1.0), (50.0, 0.0), (65.0, 0.5), (80.0, 1.0), (1e9, 1.0)])
def test_a_record_reaches_from_minus_one_to_one(age: float, z: float) -> None:
    assert mean.per_record(AGES, np.zeros(4), {"age": age}).tolist() == [z, z * z, 1.0, 0.0]
    assert mean.per_record(AGES, np.zeros(3), {"age": age}).tolist() == [z, z * z, 1.0]  # under a unit


def test_a_missing_cell_contributes_nothing() -> None:
    assert mean.per_record(AGES, np.zeros(3), {"age": None}) is None


def test_a_site_s_sums_are_bounded_by_its_rows() -> None:
    shape = mean.shape(AGES, None)
    assert (shape.schema.size, shape.bound, shape.norm, shape.bits) == (4, 500.0, None, 64)
    assert shape.dtype == np.float64


def test_the_sums_are_the_moments() -> None:
    ages = np.array([20.0, 44.0, 71.0, 80.0])
    total = np.sum([mean.per_record(AGES, np.zeros(4), {"age": age}) for age in ages], axis=0)
    state = mean.advance(AGES, mean.shape(AGES, None), np.zeros(4), api.Sum(total, 3, 1))
    answer = mean.result(AGES, state, 3)
    assert answer["mean"] == pytest.approx(ages.mean())
    assert answer["variance"] == pytest.approx(ages.var())
    assert (answer["count"], answer["sites"], answer["suppressed_at"]) == (4, 3, 0)


@pytest.mark.parametrize("count", [-3.4, 0.0, 0.4])
def test_a_count_that_noise_has_eaten_has_no_mean(count: float) -> None:
    answer = mean.result(count_document(), np.array([1.0, 1.0, count]), 3)
    assert answer == {"mean": None, "variance": None, "count": round(count), "sites": 3}


def test_it_says_at_how_many_sites_the_rules_against_disclosure_kept_it_back() -> None:
    answer = mean.result(AGES, np.array([0.0, 0.0, 0.0, 2.0]), 3)
    assert answer == {"mean": None, "variance": None, "count": 0, "sites": 3, "suppressed_at": 2}


def test_noise_makes_no_variance_negative() -> None:
    assert mean.result(count_document(), np.array([90.0, 60.0, 100.0]), 3)["variance"] == 0.0


# -- ping ------------------------------------------------------------------------------------------


def test_a_ping_reads_nothing_and_adds_the_mean() -> None:
    document = PingDocument(length=4)
    shape = ping.shape(document, None)
    assert (shape.schema.size, shape.bound, shape.norm, shape.bits) == (4, 1.0, None, 32)
    state = ping.initial(document, shape)
    assert ping.vector(document, state).tolist() == [1.0] * 4
    assert ping.advance(document, shape, state, api.Sum(np.full(4, 6.0), 3, 1)).tolist() == [2.0] * 4


def test_an_output_without_a_norm_cannot_be_noised() -> None:
    privacy = {"unit": "site", "mechanism": "output", "epsilon": 1.0, "delta": 1e-5}
    document = PingDocument.model_validate({"length": 4, "privacy": privacy})
    planned = Planned(sites=4, c=1, noise_rate=1.0)
    with pytest.raises(RecipeError) as caught:
        attempt_plan(document, ping.shape(document, None), sites=4, c=1, planned=planned)
    assert caught.value.code == "recipe.no_norm"


# -- finetune --------------------------------------------------------------------------------------


def recipe(base: BaseModel, training: dict[str, Any], **privacy: Any) -> Recipe:
    values = tiny_recipe(base, **training).model_dump(mode="json")
    values["privacy"] |= privacy
    return Recipe.model_validate(values)


UNIT = {"unit": "record", "epsilon": 8.0, "delta": 1e-5, "record_clip": 0.5}


@pytest.mark.usefixtures("at_home")
def test_an_update_is_bounded_in_l2_and_its_mean_is_added(tiny: dict[str, BaseModel]) -> None:
    for privacy in ({}, UNIT | {"mechanism": "dp-sgd"}):
        document = recipe(tiny["esm"], {}, update_clip=3.0, **privacy)
        shape = finetune.shape(document, tiny["esm"])
        assert (shape.bound, shape.norm, shape.bits) == (3.0, 3.0, 32)
        state = finetune.initial(document, shape)
        total = np.arange(shape.schema.size, dtype=np.float64)
        moved = finetune.advance(document, shape, state, api.Sum(total, 4, 1))
        assert moved.dtype == np.float32
        assert np.allclose(moved, state + (total / 4).astype(np.float32))


@pytest.mark.usefixtures("at_home")
def test_a_sum_of_gradients_reaches_as_far_as_a_large_sample(tiny: dict[str, BaseModel]) -> None:
    """One coordinate of B + 8 sqrt(B) + 8 clipped gradients; the chance of more is below 1e-12."""
    document = recipe(tiny["esm"], {"steps": 1, "batch": 16}, **UNIT, mechanism="dp-fedsgd")
    shape = finetune.shape(document, tiny["esm"])
    assert (shape.bound, shape.norm) == (0.5 * (16 + 8 * 4 + 8), None)
    poisson = [math.exp(-16 + k * math.log(16) - math.lgamma(k + 1)) for k in range(57, 300)]
    assert sum(poisson) < 1e-12


@pytest.mark.usefixtures("at_home")
def test_a_step_of_sgd_takes_each_group_s_rate(tiny: dict[str, BaseModel]) -> None:
    rates = {"steps": 1, "batch": 16, "lora_lr": 1.0, "head_lr": 2.0, "covariate_lr": 3.0}
    document = recipe(tiny["esm"], rates, **UNIT, mechanism="dp-fedsgd")
    shape = finetune.shape(document, tiny["esm"])
    state = finetune.initial(document, shape)
    moved = finetune.advance(
        document, shape, state, api.Sum(np.full(shape.schema.size, 32.0), 2, 1)
    )  # a mean of 16
    step = shape.schema.unflatten(state - moved)
    for name, values in step.items():
        rate = {"head.weight": 2.0, "head.bias": 2.0, "head.covariates": 3.0}.get(name, 1.0)
        assert np.allclose(values, rate, atol=1e-5), name
