"""The gateway's look at a step that its worker was told to noise."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.bases.store import BaseModel
from plasmid.computations import api
from plasmid.computations.api import Shape
from plasmid.core.errors import ProtocolError
from plasmid.gateway.noise_check import check_noised, limits, most_units
from plasmid.protocol.messages import UnitTerms
from plasmid.recipes.beside import shape_of
from plasmid.recipes.schema import Recipe
from plasmid.worker import dp
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from plasmid.worker.rounds import site_vector
from support.tiny.tiny_task import tiny_recipe, tiny_table

ROWS, SIGMA, RATE = 40, 2.0, 0.4
TERMS = UnitTerms(public_size=ROWS, rate=RATE, noise_multiplier=SIGMA, attempts=4)
PRIVACY = {"unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 0.5}


def recipe(base: BaseModel, *, computation: str = "finetune", **changed: Any) -> Recipe:
    values = tiny_recipe(base, **{"steps": 1, "optimizer": "sgd", **changed.pop("training", {})}).model_dump(
        mode="json"
    )
    values["computation"] = computation
    values["privacy"] |= PRIVACY | changed.pop("privacy", {})
    values["federation"] |= changed.pop("federation", {})
    assert not changed
    return Recipe.model_validate(values)


class Worker:
    """A worker's engine for a recipe: what it returns in a round."""

    def __init__(self, document: Recipe, base: BaseModel, *, sigma: float = SIGMA) -> None:
        self.terms = TERMS.model_copy(update={"noise_multiplier": sigma})
        self.document, self.base, method = document, base, api.method(document)
        self.shape: Shape = shape_of(method, document, base)
        self.state = method.initial(document, method.shape(document, base))
        self.engine = Engine(document, base, tiny_table(ROWS), device="cpu")
        scale = document.privacy.gradient_scale.model_dump()
        self.sampling = {
            "unit": "record", "clip": 0.5, "rate": RATE, "expected": float(document.training.batch),
            "noise_multiplier": sigma, "max_records": 1, "scale": scale,
        }  # fmt: skip

    def vector(self, round_: int = 1) -> Any:
        return site_vector(
            self.engine, self.document, self.base, self.state, site="alpha", round_=round_, seed=0,
            sampling=self.sampling,
        )  # fmt: skip

    def check(self, vector: Any, round_: int = 1) -> None:
        check_noised(self.document, self.shape, self.terms, vector, site="alpha", round_=round_, units=ROWS)


RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "several steps": {"training": {"steps": 3}},
    "scaled, with rates of their own": {
        "privacy": {"gradient_scale": {"lora": 2.0, "head": 0.3}}, "training": {"lora_b_ratio": 4.0},
    },
    "a falling rate": {
        "training": {"schedule": {"kind": "cosine", "final": 0.1}}, "federation": {"rounds": 5},
    },
    "weighed": {"federation": {"weights": {"by": "public", "sites": {"alpha": 1.0}, "others": 3.0}}},
    "frozen factors": {"training": {"lora_lr": 0.0}},
    "ffa_lora": {"computation": "ffa_lora"},
    "rolora": {"computation": "rolora"},
    "fedsa": {"computation": "fedsa"},
    "fedsvd": {"computation": "fedsvd"},
}  # fmt: skip
UNSEEN = ("rolora", "frozen factors", "several steps")
"""Too few values are the adapter's own here, or the sums of the steps could hide as much."""


@pytest.mark.parametrize("name", RECIPES)
def test_an_honest_step_is_let_through(tiny: dict[str, BaseModel], name: str) -> None:
    worker = Worker(recipe(tiny["esm"], **RECIPES[name]), tiny["esm"])
    for round_ in (1, 2, 1, 2):
        worker.check(worker.vector(round_), round_)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in UNSEEN])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_worker_that_leaves_out_noise_or_half_of_it_is_refused(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch, name: str, share: float
) -> None:
    worker = Worker(recipe(tiny["esm"], **RECIPES[name]), tiny["esm"])
    monkeypatch.setattr(dp, "gaussian", lambda size, std, draw=dp.gaussian: draw(size, share * std))
    with pytest.raises(ProtocolError, match="is shorter than one of") as caught:
        worker.check(worker.vector())
    assert caught.value.code == "protocol.noise"
    assert "alpha" not in caught.value.message


def test_the_noise_of_several_steps_is_missed_where_their_sums_could_not_hide_it(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(recipe(tiny["esm"], training={"steps": 3}), tiny["esm"], sigma=10.0)
    for _ in range(3):
        worker.check(worker.vector())
    monkeypatch.setattr(dp, "gaussian", lambda size, std: np.zeros(size))
    with pytest.raises(ProtocolError, match="is shorter than one of"):
        worker.check(worker.vector())


def test_a_worker_that_noises_too_much_or_does_not_clip_is_refused(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(recipe(tiny["esm"]), tiny["esm"])
    with pytest.raises(ProtocolError, match="is longer than one of"):
        worker.check(100 * worker.vector())
    worker.sampling["clip"] = 50.0
    with pytest.raises(ProtocolError, match="is longer than one of"):
        worker.check(worker.vector())


def test_what_does_not_learn_may_not_move(tiny: dict[str, BaseModel]) -> None:
    """Nothing is noised there; a bit that is put there would leave as it is."""
    worker = Worker(recipe(tiny["esm"], training={"lora_lr": 0.0}), tiny["esm"])
    vector = worker.vector()
    vector[0] = 1e-9
    with pytest.raises(ProtocolError, match="do not learn in round 1 have moved"):
        worker.check(vector)


def test_few_values_and_adamw_are_not_judged(tiny: dict[str, BaseModel]) -> None:
    """The limits that the page names: nothing is seen there."""
    assert limits(128, steps=1, sigma=1.0, units=5.0).low == 0
    assert limits(129, steps=1, sigma=1.0, units=5.0).low > 0
    worker = Worker(recipe(tiny["esm"], training={"optimizer": "adamw"}), tiny["esm"])
    worker.check(np.zeros(worker.shape.schema.size, np.float32))


SCHEMA = AdapterSchema((TensorSpec("head.weight", (2, 500)),))


def _judged(vector: Any, steps: int) -> None:
    ones = SimpleNamespace(lora=1.0, head=1.0, covariates=1.0)
    training = SimpleNamespace(
        optimizer="sgd", proximal=0.0, lora_lr=0.0, lora_b_ratio=1.0, head_lr=1.0, covariate_lr=1.0,
        batch=1, steps_in=lambda _: steps, factor=lambda *_: 1.0,
    )  # fmt: skip
    document = SimpleNamespace(
        training=training, rounds=1, computation="finetune", federation=None,
        privacy=SimpleNamespace(record_clip=1.0, gradient_scale=ones),
    )  # fmt: skip
    shape = Shape(schema=SCHEMA, bound=1e9, norm=None, bits=32)
    check_noised(document, shape, TERMS, vector, site="alpha", round_=1, units=ROWS)


@pytest.mark.parametrize("steps", [1, 4])
def test_honest_steps_are_never_refused(steps: int) -> None:
    """Whatever the sum is: none, the most, against the noise of the step before, in one direction."""
    source, most = np.random.default_rng(0), most_units(RATE, ROWS)
    for number in range(2000):
        vector = np.zeros(1000)
        for _ in range(steps):
            towards = [np.zeros(1000), np.eye(1000)[3], source.standard_normal(1000), -vector][number % 4]
            length = np.linalg.norm(towards)
            units = min(source.binomial(ROWS, RATE), most)
            vector += SIGMA * source.standard_normal(1000) + (units / length * towards if length else 0)
        _judged(vector.astype(np.float32), steps)


def test_the_limits_are_eight_sigmas_wide_and_no_wider() -> None:
    source = np.random.default_rng(1)
    squares = np.square(source.standard_normal((4000, 1000))).sum(1)
    found = limits(1000, steps=1, sigma=SIGMA, units=0.0)
    sigmas = (squares - 1000) / math.sqrt(2000)
    assert np.abs(sigmas).max() < 6
    assert (found.low**2 - 1000) / math.sqrt(2000) == pytest.approx(-8, abs=0.1)
    assert 8 < (found.high**2 - 1000) / math.sqrt(2000) < 10
    with pytest.raises(ProtocolError):
        _judged((0.75 * SIGMA * source.standard_normal(1000)).astype(np.float32), 1)


def test_a_sample_is_never_larger_than_is_allowed_for() -> None:
    sizes = np.random.default_rng(2).binomial(500, 0.05, 200_000)
    assert sizes.max() < most_units(0.05, 500) < 2 * sizes.max()
    assert most_units(1.0, 40) == 40


def test_the_order_is_the_sampling_s(tiny: dict[str, BaseModel]) -> None:
    worker = Worker(recipe(tiny["esm"]), tiny["esm"])
    assert UnitSampling(**worker.sampling).noise_multiplier == TERMS.noise_multiplier
