"""``training.lora_lr: 0``: factors stay, the encoder runs once a row, neither clip nor noise sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.bases.store import BaseModel
from plasmid.encoders.encoder import AdaptedModel
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe, tiny_table

EVERYONE = UnitSampling("record", clip=1.0, rate=1.0, expected=96.0, noise_multiplier=0.0)


def engine(base: BaseModel, lora_lr: float) -> Engine:
    recipe = tiny_recipe(base, optimizer="sgd", lora_lr=lora_lr, head_lr=0.5, covariate_lr=0.5)
    return Engine(recipe, base, tiny_table(), device="cpu")


def started(found: Engine, factor: float = 0.02) -> tuple[Vector, int]:
    """Return a state without zeros, and the number of its LoRA values."""
    state = initial_state(found.schema, 0)
    count = sum(tensor.size for tensor in found.schema.tensors if "lora" in tensor.name)
    drawn = np.random.default_rng(0).standard_normal(len(state)).astype(np.float32)
    state[:count] += factor * drawn[:count]
    state[count:] = drawn[count:]
    return state, count


@pytest.mark.parametrize("sampling", [None, EVERYONE])
def test_the_factors_stay_and_the_rest_learns_as_it_would(
    tiny: dict[str, BaseModel], sampling: UnitSampling | None
) -> None:
    frozen, learning = engine(tiny["bert"], 0.0), engine(tiny["bert"], 1e-30)
    state, count = started(frozen)
    if sampling is not None:
        sampling = UnitSampling("record", clip=1e6, rate=1.0, expected=96.0, noise_multiplier=0.0)
    found = frozen.train(state, steps=3, seed=1, sampling=sampling)
    expected = learning.train(state, steps=3, seed=1, sampling=sampling)
    np.testing.assert_array_equal(found[:count], state[:count])
    assert np.abs(found[count:] - state[count:]).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_noise_and_clip_leave_the_factors_out(tiny: dict[str, BaseModel]) -> None:
    frozen, learning = engine(tiny["bert"], 0.0), engine(tiny["bert"], 1e-3)
    state, count = started(frozen)
    noisy = UnitSampling("record", clip=1.0, rate=1.0, expected=96.0, noise_multiplier=50.0)
    found = frozen.train(state, steps=2, seed=1, sampling=noisy)
    np.testing.assert_array_equal(found[:count], state[:count])
    assert (found[count:] != state[count:]).all()
    # Every unit's gradient is clipped here: without the factors' part the rest keeps more of its length.
    tight = UnitSampling("record", clip=1e-3, rate=1.0, expected=96.0, noise_multiplier=0.0)
    alone, together = (one.gradient_sum(state, sampling=tight) for one in (frozen, learning))
    assert not alone[:count].any()
    assert np.linalg.norm(alone[count:]) > 1.001 * np.linalg.norm(together[count:])


def test_the_encoder_runs_once_a_row_and_again_for_other_factors(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    run = AdaptedModel._run

    def counted(self: AdaptedModel, batch: Any) -> Any:
        rows.append(len(batch.input_ids))
        return run(self, batch)

    monkeypatch.setattr(AdaptedModel, "_run", counted)
    frozen = engine(tiny["bert"], 0.0)
    state, count = started(frozen)
    first = frozen.train(state, steps=4, seed=1)
    frozen.train(first, steps=4, seed=2, sampling=EVERYONE)
    assert sum(rows) == 96
    other, _ = started(frozen, 0.5)
    found = frozen.train(other, steps=4, seed=1)
    assert sum(rows) == 2 * 96
    assert np.abs(found[count:] - first[count:]).max() > 1e-4
