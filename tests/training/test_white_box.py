"""A white-box audit of one step: how far one unit moves what leaves, in standard deviations of the noise.

A canary with a gradient far beyond the clip is put into a table, or left out. Along its gradient (and along
the part of it in each tensor) the steps are normal with the means 0 and 1 and the standard deviation of the
noise multiplier, all in units of the clip. A lower confidence bound on (distance of the means) / (standard
deviation) is one on mu of Gaussian DP, and by Balle and Wang 2018 (https://arxiv.org/abs/1805.06530) one on
epsilon. It must not exceed what the accounting says; of every broken build it must.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.computations import finetune
from plasmid.core.errors import RunFailed
from plasmid.data.table import Table, concatenate
from plasmid.dp.accountant import check_plan
from plasmid.dp.accounting import dp_sgd_epsilon
from plasmid.recipes.schema import Recipe
from plasmid.worker import dp
from plasmid.worker import engine as engine_module
from plasmid.worker.dp import ClippedSum, UnitSampling
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe, tiny_table

CLIP, NOISE, DELTA = 0.05, 0.4, 1e-5
OTHERS, STEPS = 9, 300
FALSE_ALARM = 1e-8
"""Of each of the two confidence limits along each direction; there are 13."""

PROMISED = dp_sgd_epsilon(rate=1.0, noise_multiplier=NOISE, steps=1, delta=DELTA)
RECORD = UnitSampling(unit="record", clip=CLIP, rate=1.0, expected=8.0, noise_multiplier=NOISE)
PATIENT = replace(RECORD, unit="patient", max_records=4)
SCALED = replace(RECORD, scale={"lora": 4.0, "head": 0.25})
REDUCED = replace(RECORD, scale={"lora": 0.25, "head": 0.25, "covariates": 0.25})


class Recorder:
    """Stands in for the optimiser: keeps the gradient of every step and moves nothing."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self.param_groups: list[dict[str, float]] = []
        self.steps: list[NDArray[np.float32]] = []

    def step(self) -> None:
        grads = [parameter.grad for parameter in self._parameters]
        self.steps.append(torch.cat([grad.flatten() for grad in grads if grad is not None]).numpy())

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


class Bench:
    """The same model over a table without and with the canary."""

    def __init__(self, base: BaseModel) -> None:
        document = tiny_recipe(base).model_dump(mode="json")
        document["data"] |= {"patient": "person"}
        document["data"]["columns"]["person"] = {"type": "identifier"}
        recipe = Recipe.model_validate(document)
        others, canary = _people(tiny_table(OTHERS), range(OTHERS)), _people(_canary(), [99] * 4)
        self.without = Engine(recipe, base, others, device="cpu")
        # as one record it is one row, as a patient four
        self.record = Engine(recipe, base, concatenate([others, canary.subset([0])]), device="cpu")
        self.patient = Engine(recipe, base, concatenate([others, canary]), device="cpu")
        size = self.without.schema.size
        noise = np.random.default_rng(0).normal(0.0, 0.3, size).astype(np.float32)
        self.state = initial_state(self.without.schema, 0) + noise  # no factor is zero: all have gradients
        self._gradient = self._of_the_canary()

    def _of_the_canary(self) -> NDArray[np.float64]:
        model = self.record._model
        model.set_state(self.state)
        loss = finetune.losses(model, self.record._rows.batch([OTHERS])).sum()
        parts = torch.autograd.grad(loss, list(model.trained().values()))  # no hook of ours is involved
        return np.concatenate([part.double().numpy().ravel() for part in parts])

    def _scale(self, sampling: UnitSampling) -> NDArray[np.float64]:
        """Return the scale of every coordinate."""
        groups = self.record._model.groups().items()
        by_tensor = {tensor: sampling.scale.get(name, 1.0) for name, group in groups for tensor in group}
        trained = self.record._model.trained().values()
        return np.concatenate([np.full(tensor.numel(), by_tensor[tensor]) for tensor in trained])

    def _directions(self, sampling: UnitSampling) -> NDArray[np.float64]:
        """Return unit vectors: the canary's scaled gradient, then each tensor's part of it."""
        whole = self._gradient * self._scale(sampling)
        assert np.linalg.norm(whole) > 5 * CLIP, "the clip binds"
        found, start = [whole], 0
        for tensor in self.record.schema.tensors:
            found.append(np.zeros_like(whole))
            found[-1][start : start + tensor.size] = whole[start : start + tensor.size]
            start += tensor.size
        return np.array([vector / np.linalg.norm(vector) for vector in found])

    def _steps(self, engine: Engine, sampling: UnitSampling, steps: int) -> NDArray[np.float64]:
        """Return noisy sums along each direction in units of the clip, [steps, directions]."""
        recorder = Recorder(list(engine._model.trained().values()))
        gather, known = engine._gather, dict[bytes, Any]()  # nothing moves: a row's gradient stays the same

        def gather_once(rows: Any, chosen: Any) -> Any:
            if chosen.tobytes() not in known:
                known[chosen.tobytes()] = gather(rows, chosen)
            return known[chosen.tobytes()]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "_optimizer", lambda: recorder)
            patch.setattr(engine, "_gather", gather_once)
            engine.train(self.state, steps=steps, seed=0, sampling=sampling)
        sums = np.array(recorder.steps, np.float64) * self._scale(sampling) * sampling.expected
        return sums @ self._directions(sampling).T / sampling.clip

    def mu(self, sampling: UnitSampling, steps: int = STEPS) -> float:
        """Return a lower bound on mu of one step, along the direction that shows most."""
        engine = self.record if sampling.unit == "record" else self.patient
        without, with_it = (self._steps(each, sampling, steps) for each in (self.without, engine))
        free = 2 * (steps - 1)
        pooled = np.sqrt((without.var(0, ddof=1) + with_it.var(0, ddof=1)) / 2)
        most = pooled * math.sqrt(free / chi2.ppf(FALSE_ALARM, free))
        distance = np.abs(with_it.mean(0) - without.mean(0))
        least = distance - most * norm.isf(FALSE_ALARM) * math.sqrt(2 / steps)
        with np.errstate(divide="ignore"):
            return float(np.where(least > 0, least / most, 0.0).max())

    @cached_property
    def sound(self) -> float:
        """The same of the build as it is, from more steps."""
        return self.mu(RECORD, 2 * STEPS)


def _canary() -> Table:
    """Return four equal rows: one letter and a wrong label, which the others do not resemble."""
    return Table({"sequence": ["W" * 20] * 4, "gene": ["b"] * 4, "label": ["no"] * 4}, 4)


def _people(table: Table, numbers: Any) -> Table:
    return Table({**table.columns, "person": [f"p{number}" for number in numbers]}, table.rows)


def epsilon(mu: float, delta: float = DELTA) -> float:
    """Return the epsilon of mu-Gaussian DP at *delta*."""
    if mu > 1e3:
        return math.inf
    if mu == 0:
        return 0.0
    low, high = 0.0, mu * mu + 20 * mu + 1
    for _ in range(60):
        middle = (low + high) / 2
        spent = norm.cdf(mu / 2 - middle / mu) - math.exp(middle + norm.logcdf(-mu / 2 - middle / mu))
        low, high = (middle, high) if spent > delta else (low, middle)
    return low


@pytest.fixture(scope="module")
def bench(tiny: dict[str, BaseModel]) -> Bench:
    return Bench(tiny["bert"])


def test_the_build_spends_what_it_says(bench: Bench) -> None:
    assert epsilon(1 / NOISE) == pytest.approx(PROMISED, rel=1e-3), "the two ways to epsilon agree"
    for mu in (bench.sound, bench.mu(PATIENT), bench.mu(SCALED)):
        assert mu <= 1 / NOISE
        assert epsilon(mu) <= PROMISED
        assert mu > 0.4 / NOISE, "and the audit sees a good part of it"


def no_clip(patch: pytest.MonkeyPatch) -> None:
    original = ClippedSum.__init__

    def unclipped(self: ClippedSum, parameters: Any, clip: float, **options: Any) -> None:
        original(self, parameters, math.inf, **options)

    patch.setattr(ClippedSum, "__init__", unclipped)


def half_the_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dp, "gaussian", lambda size, std, draw=dp.gaussian: draw(size, std / 2))


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dp, "gaussian", lambda size, std: np.zeros(size))


def the_same_noise_every_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dp, "gaussian", lambda size, std: np.random.default_rng(1).normal(0, std, size))


def no_noise_on_the_head(patch: pytest.MonkeyPatch) -> None:
    def partial(size: int, std: float, draw: Any = dp.gaussian) -> NDArray[np.float64]:
        noise: NDArray[np.float64] = draw(size, std)
        noise[-2:] = 0.0  # head.bias
        return noise

    patch.setattr(dp, "gaussian", partial)


def a_share_of_the_noise_in_each_micro_batch(patch: pytest.MonkeyPatch) -> None:
    """Shares of 1/k of the standard deviation, of which k do not add up to it but to 1/sqrt(k) of it."""
    patch.setattr(engine_module, "MICRO_ROWS", 2)
    add, gaussian = ClippedSum._clip_and_add, dp.gaussian
    shares = math.ceil((OTHERS + 1) / 2)

    def noisy(self: ClippedSum, gathered: Any, units: int) -> None:
        add(self, gathered, units)
        step = dp.grid_step(CLIP, len(self.total))
        self.total += step * torch.from_numpy(gaussian(len(self.total), NOISE * CLIP / shares / step))

    patch.setattr(ClippedSum, "_clip_and_add", noisy)
    patch.setattr(dp, "gaussian", lambda size, std: np.zeros(size))


def clipped_tensor_by_tensor(patch: pytest.MonkeyPatch) -> None:
    original = ClippedSum._clip_and_add

    def by_tensor(self: ClippedSum, gathered: Any, units: int) -> None:
        for parameter, blocks in gathered.items():
            original(self, {parameter: blocks}, units)

    patch.setattr(ClippedSum, "_clip_and_add", by_tensor)


def records_clipped_one_by_one(patch: pytest.MonkeyPatch) -> None:
    def single(units: Any, *rest: Any, draw: Any = engine_module.draw) -> Any:
        return [row[None] for unit in draw(units, *rest) for row in unit]

    patch.setattr(engine_module, "draw", single)


def clipped_before_the_scale(patch: pytest.MonkeyPatch) -> None:
    original = ClippedSum._clip_and_add

    def early(self: ClippedSum, gathered: Any, units: int) -> None:
        scales, before = self._scales, [view.clone() for view in self.values()]
        self._scales = dict.fromkeys(scales, 1.0)
        original(self, gathered, units)
        self._scales = scales
        for view, old, scale in zip(self.values(), before, scales.values(), strict=True):
            view.sub_(old).mul_(scale).add_(old)

    patch.setattr(ClippedSum, "_clip_and_add", early)


def noised_after_the_scale(patch: pytest.MonkeyPatch) -> None:
    original = ClippedSum.noised_mean

    def late(self: ClippedSum, sampling: UnitSampling) -> list[torch.Tensor]:
        step, std = 2.0**-40, sampling.noise_multiplier * sampling.clip / sampling.expected
        clean = original(self, replace(sampling, noise_multiplier=0.0))
        noise = [step * torch.from_numpy(dp.gaussian(part.numel(), std / step)).float() for part in clean]
        return [part + more.view(part.shape) for part, more in zip(clean, noise, strict=True)]

    patch.setattr(ClippedSum, "noised_mean", late)


BROKEN: list[tuple[Callable[[pytest.MonkeyPatch], None], UnitSampling]] = [
    (no_clip, RECORD),
    (clipped_tensor_by_tensor, RECORD),
    (half_the_noise, RECORD),
    (no_noise, RECORD),
    (the_same_noise_every_step, RECORD),
    (no_noise_on_the_head, RECORD),
    (a_share_of_the_noise_in_each_micro_batch, RECORD),
    (records_clipped_one_by_one, PATIENT),
    (clipped_before_the_scale, SCALED),
    (noised_after_the_scale, REDUCED),
]


@pytest.mark.parametrize(("break_it", "sampling"), BROKEN, ids=[build.__name__ for build, _ in BROKEN])
def test_a_broken_build_is_caught(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    sampling: UnitSampling,
) -> None:
    break_it(monkeypatch)
    mu = bench.mu(sampling)
    assert epsilon(mu) > PROMISED


def every_unit_in_every_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine_module, "draw", lambda units, sampling, source: list(units))


def test_a_whole_run_is_accounted_for_at_once(bench: Bench) -> None:
    """Who keeps the steps of all rounds averages the noise away: mu grows with the root of their number."""
    rounds = 20
    whole = dp_sgd_epsilon(rate=1.0, noise_multiplier=NOISE, steps=rounds, delta=DELTA)
    shown = epsilon(math.sqrt(rounds) * bench.sound)
    assert PROMISED < shown <= whole, "an accountant that is reset each round would say the first figure"


def test_a_delta_of_one_over_the_batches_is_caught(bench: Bench) -> None:
    """The audit is at the delta that the number of units asks for; accounting refuses a larger one."""
    batches, units = 8, 64
    claimed = epsilon(1 / NOISE, 1 / batches)
    assert claimed < epsilon(bench.sound)
    assert any("delta" in problem for problem in check_plan(delta=1 / batches, size=units))
    assert check_plan(delta=DELTA, size=units) == []


def test_steps_that_are_no_poisson_samples_are_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, sampled = 20, replace(RECORD, rate=0.05)
    promised = dp_sgd_epsilon(rate=0.05, noise_multiplier=NOISE, steps=steps, delta=DELTA)
    assert epsilon(math.sqrt(steps) * bench.mu(sampled)) <= promised
    every_unit_in_every_step(monkeypatch)
    assert epsilon(math.sqrt(steps) * bench.mu(sampled)) > promised


DEAD = ["head.weight", "head.covariates", "value.lora_A.weight", "value.lora_B.weight"]


@pytest.mark.parametrize("end", DEAD)
def test_a_tensor_whose_hook_is_dead_ends_the_run(
    bench: Bench, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """It would get noise alone, and look as if it were trained. The second call tells."""
    engine = Engine(tiny_recipe(tiny["bert"]), tiny["bert"], tiny_table(OTHERS), device="cpu")
    samples, trained = engine._model.samples, engine._model.trained()
    name, dead = next(item for item in trained.items() if item[0].endswith(end))
    add = samples.add
    monkeypatch.setattr(samples, "add", lambda value, *rest: None if value is dead else add(value, *rest))
    moved = engine.train(bench.state, steps=2, seed=0, sampling=RECORD) - bench.state
    place = {part.name: part.shape for part in engine.schema.tensors}
    assert np.all(engine.schema.unflatten(moved)[name] != 0), f"noise moves all of {place[name]}"
    with pytest.raises(RunFailed) as caught:
        engine.train(bench.state, steps=2, seed=0, sampling=RECORD)
    assert caught.value.code == "run.dead_tensor"
    assert name.removeprefix("base_model.model.") in caught.value.message


def test_live_hooks_are_not_taken_for_dead(bench: Bench) -> None:
    for _ in range(4):
        bench.without.train(bench.state, steps=1, seed=0, sampling=RECORD)
