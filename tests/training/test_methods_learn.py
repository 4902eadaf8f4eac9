"""What learns in a call and what does not; cores in frames; FedProx; health when halves take turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.bases.store import BaseModel
from plasmid.computations import _factors, api, fedsb, rolora
from plasmid.core.errors import RunFailed
from plasmid.recipes.schema import Recipe
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe, tiny_table

ROWS = 24
EVERYONE = UnitSampling("record", clip=1e6, rate=1.0, expected=float(ROWS), noise_multiplier=0.0)
HEAD = api.HEAD


def recipe(base: BaseModel, method: str = "finetune", **training: Any) -> Recipe:
    values = tiny_recipe(base, optimizer="sgd", batch=64, **training).model_dump(mode="json")
    return Recipe.model_validate(values | {"computation": method})


def engine(document: Recipe, base: BaseModel, **given: Any) -> Engine:
    return Engine(document, base, tiny_table(ROWS), device="cpu", **given)


def started(found: Engine) -> Vector:
    """Return a state in which neither B nor the head is zero."""
    state = initial_state(found.schema, 0)
    return state + 0.05 * np.random.default_rng(0).standard_normal(state.size).astype(np.float32)


def moved(found: Engine, before: Vector, after: Vector) -> set[str]:
    """Return of which kind the tensors are that are not what they were."""
    was, now = (_factors.parts(found.schema, state) for state in (before, after))
    kinds = {_factors.DOWN: "A", _factors.UP: "B"}
    return {kinds.get(name[-14:], name) for name in was if not np.array_equal(was[name], now[name])}


NOISY = UnitSampling("record", clip=1.0, rate=1.0, expected=float(ROWS), noise_multiplier=5.0)
OF_HEAD = {"head.weight", "head.bias", "head.covariates"}


@pytest.mark.parametrize("sampling", [None, NOISY], ids=["plain", "dp-sgd"])
def test_what_does_not_learn_stays_to_the_last_bit(
    sampling: UnitSampling | None, tiny: dict[str, BaseModel]
) -> None:
    found = engine(recipe(tiny["bert"]), tiny["bert"])
    state = started(found)
    for learn, kinds in ((HEAD | {"A"}, {"A"}), (HEAD | {"B"}, {"B"}), (HEAD | {"A", "B"}, {"A", "B"})):
        after = found.train(state, steps=2, seed=1, sampling=sampling, learn=learn)
        assert moved(found, state, after) == kinds | OF_HEAD


def test_a_clip_is_over_what_learns(tiny: dict[str, BaseModel]) -> None:
    """The frozen half takes nothing of the clip: each unit's gradient keeps the whole length."""
    found = engine(recipe(tiny["bert"]), tiny["bert"])
    state = started(found)
    tight = UnitSampling("record", clip=1e-4, rate=1.0, expected=float(ROWS), noise_multiplier=0.0)
    half, both = (
        found.gradient_sum(state, sampling=tight, learn=learn) for learn in (HEAD | {"B"}, HEAD | {"A", "B"})
    )
    loose = found.gradient_sum(state, sampling=EVERYONE, learn=HEAD | {"B"})
    heads = [_factors.parts(found.schema, total)["head.weight"] for total in (half, both)]
    assert np.linalg.norm(heads[0]) > 1.0001 * np.linalg.norm(heads[1])
    assert moved(found, np.zeros_like(loose), loose) == {"B"} | OF_HEAD


# -- rates -----------------------------------------------------------------------------------------


def test_b_s_rate_is_a_multiple_of_a_s_and_a_step_s_factor_is_one_of_all(tiny: dict[str, BaseModel]) -> None:
    """One step of SGD is the rate times the gradient, so that steps compare as rates do."""
    base = tiny["bert"]
    plain = engine(recipe(base), base)
    state = started(plain)
    once = plain.train(state, steps=1, seed=0) - state
    wide = engine(recipe(base, lora_b_ratio=8.0), base).train(state, steps=1, seed=0) - state
    slow = plain.train(state, steps=1, seed=0, pace=[0.25]) - state
    for name, value in _factors.parts(plain.schema, once).items():
        ratio = 8.0 if name.endswith(_factors.UP) else 1.0
        found = _factors.parts(plain.schema, wide)[name]
        np.testing.assert_allclose(found, ratio * value, atol=2e-6 * ratio, rtol=1e-4)
        np.testing.assert_allclose(_factors.parts(plain.schema, slow)[name], value / 4, atol=1e-6, rtol=1e-3)
    assert np.array_equal(plain.train(state, steps=3, seed=0, pace=[1.0, 0.0, 0.0]) - state, once)


def test_adamw_keeps_its_ratio_too(tiny: dict[str, BaseModel]) -> None:
    """Its first step is the rate, whatever the gradient."""
    base = tiny["bert"]
    values = recipe(base, lora_b_ratio=4.0).model_dump(mode="json")
    values["training"]["optimizer"] = "adamw"
    found = engine(Recipe.model_validate(values), base)
    state = started(found)
    step = _factors.parts(found.schema, np.abs(found.train(state, steps=1, seed=0) - state))
    rate = values["training"]["lora_lr"]
    for name, value in step.items():
        if name.endswith((_factors.UP, _factors.DOWN)):
            assert np.median(value) == pytest.approx(
                rate * (4 if name.endswith(_factors.UP) else 1), rel=1e-2
            )


# -- cores -----------------------------------------------------------------------------------------


def test_a_core_s_gradient_is_that_of_b_between_the_frames(tiny: dict[str, BaseModel]) -> None:
    """Per row, so that it can be clipped: with every row in the sample, and no clip, sums must agree."""
    base = tiny["bert"]
    document = recipe(base, "fedsb")
    frames = fedsb.frames(document, base)
    core, plain = engine(document, base, frames=frames), engine(document, base)
    shape = fedsb.shape(document, base)
    public = 0.1 * np.random.default_rng(1).standard_normal(shape.state.size).astype(np.float32)
    state = fedsb.adapter(document, base, public)
    found, whole = (one.gradient_sum(state, sampling=EVERYONE) for one in (core, plain))
    zeros = np.zeros_like(whole)
    wanted = fedsb.sent(document, base, zeros, whole, 1)
    got = fedsb.sent(document, base, zeros, found, 1)
    assert np.abs(wanted[: 4 * 16]).max() > 1e-3
    np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max())
    # and the summed way, one step of SGD
    one_step = core.train(state, steps=1, seed=0, learn=HEAD | {"core"}) - state
    rates = np.full(shape.schema.size, document.training.lora_lr)
    rates[4 * 16 :] = fedsb.sent(document, base, zeros, one_step, 1)[4 * 16 :] / (-wanted[4 * 16 :] / ROWS)
    np.testing.assert_allclose(
        fedsb.sent(document, base, zeros, one_step, 1), -rates * wanted / ROWS, atol=1e-6
    )


def test_a_trained_core_is_an_adapter_that_lies_in_its_frame(tiny: dict[str, BaseModel]) -> None:
    base = tiny["esm"]
    document = recipe(base, "fedsb", lora_lr=0.5)
    found = engine(document, base, frames=fedsb.frames(document, base))
    shape = fedsb.shape(document, base)
    public = fedsb.initial(document, shape)
    for round_ in (1, 2):
        before = fedsb.adapter(document, base, public)
        after = found.train(before, steps=3, seed=round_, learn=fedsb.learns(document, round_))
        public = public + fedsb.sent(document, base, before, after, round_)
        assert np.abs(fedsb.adapter(document, base, public) - after).max() < 1e-6
    assert moved(found, before, after) == {"B"} | OF_HEAD


# -- FedProx ---------------------------------------------------------------------------------------


def test_the_proximal_term_pulls_to_where_the_round_began(tiny: dict[str, BaseModel]) -> None:
    """Two steps of SGD on the whole table: w2 = w1 - rate (gradient + mu (w1 - w0)), for what learns."""
    base, mu, rate = tiny["bert"], 0.5, 0.25
    rates = {"lora_lr": rate, "head_lr": rate, "covariate_lr": rate}
    plain, near = engine(recipe(base, **rates), base), engine(recipe(base, **rates, proximal=mu), base)
    first = started(plain)
    second = plain.train(first, steps=1, seed=0)
    np.testing.assert_array_equal(near.train(first, steps=1, seed=0), second)  # nothing pulls at the start
    third = plain.train(second, steps=1, seed=0)
    found = near.train(first, steps=2, seed=0)
    np.testing.assert_allclose(found, third - rate * mu * (second - first), atol=2e-6)
    assert np.abs(found - third).max() > 1e-3
    held = near.train(first, steps=2, seed=0, learn=HEAD | {"B"})
    assert moved(near, first, held) == {"B"} | OF_HEAD


# -- health ----------------------------------------------------------------------------------------


def test_a_half_that_rests_is_not_dead_and_one_without_gradient_is(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny["bert"]
    document = recipe(base, "rolora")
    found = engine(document, base)
    state = initial_state(found.schema, 0)
    for round_ in range(1, 5):
        state = found.train(state, steps=1, seed=round_, learn=rolora.learns(document, round_))
    # FFA-LoRA: A never learns, and no number of rounds makes that a defect
    found = engine(document, base)
    for round_ in range(1, 4):
        state = found.train(state, steps=1, seed=round_, learn=HEAD | {"B"})
    # the control: a layer that lost its hook. It is found in the second round that trains A.
    broken = engine(document, base)
    layers = list(broken._model._factors.values())
    state = started(broken)
    for layer in layers:
        layer.lora_down.register_hook(lambda gradient: gradient * 0.0)
    for round_ in (1, 2, 3):
        broken.train(state, steps=1, seed=round_, learn=rolora.learns(document, round_))
    with pytest.raises(RunFailed, match="no gradient reached 4 trainable tensors") as caught:
        broken.train(state, steps=1, seed=4, learn=rolora.learns(document, 4))
    assert caught.value.code == "run.dead_tensor"
