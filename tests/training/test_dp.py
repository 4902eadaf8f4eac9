"""Sampling, clipping and noise, each with a broken build that its check finds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plasmid.core.errors import RunFailed
from plasmid.dp.noise import Source, gaussian
from plasmid.lora.samples import Block
from plasmid.worker import dp
from plasmid.worker.dp import ClippedSum, Gathered, Health, Indices, UnitSampling, draw, packs

RECORD = UnitSampling("record", clip=2.0, rate=0.1, expected=16.0, noise_multiplier=1.5)


def _units(*sizes: int) -> list[Indices]:
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]


# Sampling


def _looks_poisson(sizes: list[int], units: int, rate: float) -> bool:
    """Mean and variance of the sample sizes within six standard errors of the binomial's."""
    mean, variance = units * rate, units * rate * (1 - rate)
    draws = len(sizes)
    near = abs(np.mean(sizes) - mean) < 6 * math.sqrt(variance / draws)
    return near and abs(np.var(sizes) / variance - 1) < 6 * math.sqrt(2 / draws)


def test_samples_are_poisson() -> None:
    units = _units(*[1] * 400)
    sizes = [len(draw(units, RECORD, Source())) for _ in range(2000)]
    assert _looks_poisson(sizes, 400, 0.1)
    assert not _looks_poisson([40] * 2000, 400, 0.1), "batches of a fixed size are found out"
    assert not _looks_poisson([round(1.1 * size) for size in sizes], 400, 0.1)


def test_every_unit_is_drawn_alike_and_never_twice() -> None:
    source = Source()
    counts = np.zeros(50)
    for _ in range(4000):
        drawn = np.concatenate([np.zeros(0, np.int64), *draw(_units(*[1] * 50), RECORD, source)])
        assert len(set(drawn)) == len(drawn)
        counts[drawn.astype(int)] += 1
    assert np.abs(counts - 400).max() < 6 * math.sqrt(4000 * 0.1 * 0.9)
    all_of_them = UnitSampling("record", clip=1.0, rate=1.0, expected=1.0, noise_multiplier=0.0)
    assert len(draw(_units(*[1] * 50), all_of_them, source)) == 50


def test_a_patient_counts_with_at_most_so_many_rows_chosen_anew() -> None:
    sampling = UnitSampling("patient", 1.0, 1.0, 2.0, 0.0, max_records=3)
    seen = set()
    for _ in range(200):
        few, many = draw(_units(2, 10), sampling, Source())
        assert few.tolist() == [0, 1]
        assert len(set(many)) == 3
        seen |= set(many.tolist())
    assert seen == set(range(2, 12))


def test_packs_keep_units_whole_and_lengths_together() -> None:
    lengths = np.array([9, 3, 8, 1, 2, 7, 5, 5, 5, 5, 5])
    units = [np.array([0]), np.array([1, 3]), np.array([2]), np.array([4, 5]), np.arange(6, 11)]
    found = [[unit.tolist() for unit in pack] for pack in packs(units, lengths, 4)]
    assert found == [[[1, 3]], [[6, 7, 8, 9, 10]], [[4, 5], [2], [0]]]
    assert list(packs([], lengths, 4)) == []


# Clipping


class _Rows:
    """Made-up row gradients of two tensors, given out in two blocks of mixed order."""

    def __init__(self, rows: int, scale: float = 1.0, scales: tuple[float, float] = (1.0, 1.0)) -> None:
        self.parameters = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(5))]
        torch.manual_seed(rows)
        self.grads = [scale * torch.randn(rows, *parameter.shape) for parameter in self.parameters]
        self.largest = 0
        self.scales = scales

    def gather(self, rows: Indices) -> Gathered:
        self.largest = max(self.largest, len(rows))
        order = torch.randperm(len(rows))
        parts = list(order.split(max(1, len(rows) // 2)))
        return {
            parameter: [Block(part, grads[torch.from_numpy(rows)[part]]) for part in parts]
            for parameter, grads in zip(self.parameters, self.grads, strict=True)
        }

    def sum(self, units: list[Indices], clip: float, micro_rows: int) -> Tensor:
        total = ClippedSum(
            self.parameters, clip, scales=self.scales, micro_rows=micro_rows, gather=self.gather
        )
        total.add(units, np.arange(len(self.grads[0])) % 7)
        return total.total

    def flat(self) -> Tensor:
        return torch.cat([grads.flatten(1) for grads in self.grads], 1).double()


@pytest.mark.parametrize("micro_rows", [1, 3, 7, 64])
def test_records_are_clipped_over_all_tensors_and_summed(micro_rows: int) -> None:
    made = _Rows(20)
    flat = made.flat()
    norms = flat.norm(dim=1)
    clip = float(norms.median())
    wanted = (flat * (clip / norms).clamp(max=1.0)[:, None]).sum(0)
    found = made.sum(_units(*[1] * 20), clip, micro_rows)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert made.largest == min(micro_rows, 20)
    assert not torch.allclose(flat.sum(0), wanted, atol=0.1), "the clip binds"


@pytest.mark.parametrize("micro_rows", [1, 3, 7, 64])
def test_rows_of_a_patient_are_summed_before_they_are_clipped(micro_rows: int) -> None:
    made = _Rows(20)
    units = _units(1, 9, 2, 2, 1, 5)
    sums = torch.stack([made.flat()[unit].sum(0) for unit in units])
    norms = sums.norm(dim=1)
    wanted = (sums * (4.0 / norms).clamp(max=1.0)[:, None]).sum(0)
    torch.testing.assert_close(made.sum(units, 4.0, micro_rows), wanted, rtol=1e-4, atol=1e-4)
    assert made.largest <= max(micro_rows, 1)
    by_row = made.sum(_units(*[1] * 20), 4.0, micro_rows)
    assert not torch.allclose(by_row, wanted, atol=0.1)


def _influences(scale: float, clip: float, scales: tuple[float, float] = (1.0, 1.0)) -> list[float]:
    """By how much each of 12 units changes the sum, in L2."""
    made = _Rows(12, scale, scales)
    units = _units(*[1] * 12)
    whole = made.sum(units, clip, 5)
    return [float((whole - made.sum(units[:left] + units[left + 1 :], clip, 5)).norm()) for left in range(12)]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_one_units_influence_is_at_most_the_clip(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = max(_influences(scale, 0.5))
    assert largest <= 0.5
    if scale == 1e-3:
        assert largest < 0.02, "short gradients stay as they are"
    else:
        assert largest > 0.4999
        monkeypatch.setattr(dp, "ROUNDING", -0.01)
        assert max(_influences(scale, 0.5)) > 0.5, "factors that are 1% too large are found out"


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e30])
def test_what_is_not_finite_counts_as_zero(poison: float) -> None:
    made = _Rows(6)
    without = made.sum(_units(*[1] * 6)[:5], 0.5, 6)
    made.grads[1][5, 2] = poison
    found = made.sum(_units(*[1] * 6), 0.5, 6)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, without)


def test_scaled_groups_share_the_clip_in_scaled_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = (0.05, 3.0)
    made = _Rows(12, scales=scales)
    factors = torch.cat([torch.full((12,), scales[0]), torch.full((5,), scales[1])]).double()
    flat = made.flat() * factors
    norms = flat.norm(dim=1)
    wanted = (flat * (0.5 / norms).clamp(max=1.0)[:, None]).sum(0)
    torch.testing.assert_close(made.sum(_units(*[1] * 12), 0.5, 5), wanted, rtol=1e-4, atol=1e-4)
    assert 0.4999 < max(_influences(1.0, 0.5, scales)) <= 0.5
    total = ClippedSum(made.parameters, 0.5, scales=scales, micro_rows=5, gather=made.gather)
    total.add(_units(*[1] * 12), np.ones(12, np.int64))
    mean = total.noised_mean(UnitSampling("record", 0.5, 1.0, 4.0, 0.0))
    found = torch.cat([part.flatten() for part in mean]).double()
    torch.testing.assert_close(found, wanted / factors / 4.0, rtol=1e-4, atol=1e-4)
    noise = _noised(UnitSampling("record", 2.0, 0.1, 16.0, noise_multiplier=1.5), scales=(1.0, 3.0))
    assert _std_is(noise[:60_000], 1.5 * 2.0 / 16.0)
    assert _std_is(noise[60_000:], 1.5 * 2.0 / 16.0 / 3.0)
    monkeypatch.setattr(dp, "ROUNDING", -0.01)
    assert max(_influences(1.0, 0.5, scales)) > 0.5


def test_zero_gradients_are_no_problem() -> None:
    made = _Rows(4, scale=0.0)
    assert not made.sum(_units(*[1] * 4), 1.0, 4).any()


# Noise


def _std_is(values: Tensor, std: float) -> bool:
    """Chi-square: the mean square within six standard errors of std**2, and the mean within six of 0."""
    count = values.numel()
    square = float(values.double().square().mean()) / std**2
    mean = float(values.double().mean()) / std
    return abs(square - 1) < 6 * math.sqrt(2 / count) and abs(mean) < 6 / math.sqrt(count)


def _noised(sampling: UnitSampling, scales: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    parameters = [nn.Parameter(torch.zeros(200, 300)), nn.Parameter(torch.zeros(5000))]
    total = ClippedSum(parameters, sampling.clip, scales=scales, micro_rows=1, gather=dict)
    parts = total.noised_mean(sampling)
    assert [(part.shape, part.dtype) for part in parts] == [
        (value.shape, torch.float32) for value in parameters
    ]
    assert not total.total.any(), "the sum itself stays without noise"
    return torch.cat([part.flatten() for part in parts])


def test_noise_is_sigma_times_clip_by_the_expected_size(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = 1.5 * 2.0 / 16.0
    first, second = _noised(RECORD), _noised(RECORD)
    assert _std_is(first, wanted)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 6 / math.sqrt(65_000)
    ends = torch.stack([first[:5000], first[-5000:]])
    assert abs(float(torch.corrcoef(ends)[0, 1])) < 6 / math.sqrt(5000)
    weak: Callable[[int, float], object] = lambda size, std: gaussian(size, 0.95 * std)  # noqa: E731
    monkeypatch.setattr(dp, "gaussian", weak)
    assert not _std_is(_noised(RECORD), wanted), "noise that is 5% too weak is found out"
    off = UnitSampling("record", 2.0, 0.1, 16.0, noise_multiplier=0.0)
    assert not _noised(off).any()


def test_the_divisor_is_the_expected_size_not_the_drawn_one() -> None:
    made = _Rows(4, scale=1e-3)
    total = ClippedSum(made.parameters, 1.0, scales=(1.0, 1.0), micro_rows=4, gather=made.gather)
    total.add(_units(1, 1, 1, 1), np.ones(4, np.int64))
    mean = total.noised_mean(UnitSampling("record", 1.0, 0.5, 16.0, 0.0))
    found = torch.cat([part.flatten() for part in mean]).double()
    torch.testing.assert_close(found, made.flat().sum(0) / 16.0, rtol=1e-5, atol=1e-9)


# Health


def _tensors() -> dict[str, nn.Parameter]:
    names = ["base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"]
    names += ["head.weight", "head.covariates", "head.bias"]
    return {name: nn.Parameter(torch.ones(2, 2)) for name in names}


ONES = torch.ones(3, 2)


def _note(health: Health, trained: dict[str, nn.Parameter], dead: set[str], slots: Tensor = ONES) -> None:
    grads = [torch.zeros(2, 2) if name in dead else torch.eye(2) for name in trained]
    health.note(trained, grads, slots, every=trained)


@pytest.mark.parametrize("dead", sorted(_tensors()))
def test_a_tensor_without_a_gradient_in_two_calls_ends_the_run(dead: str) -> None:
    trained = _tensors()
    health = Health(list(trained))
    _note(health, trained, {dead})
    _note(health, trained, {dead})
    health.end_call()
    _note(health, trained, {dead})
    with pytest.raises(RunFailed) as caught:
        health.end_call()
    assert caught.value.code == "run.dead_tensor"
    assert dead.removeprefix("base_model.model.") in caught.value.message


@pytest.mark.parametrize("dead", sorted(_tensors()))
def test_one_gradient_is_enough(dead: str) -> None:
    trained = _tensors()
    health = Health(list(trained))
    for moved in (False, True, False, False, False):
        _note(health, trained, set() if moved else {dead})
        health.end_call()


def test_what_must_be_zero_is_no_defect() -> None:
    trained = _tensors()
    down, up, head, covariates, _ = trained
    health = Health(list(trained))
    for zero, dead, slots in (
        (head, {down, up}, ONES),
        (up, {down}, ONES),
        (down, {up}, ONES),
        (None, {covariates}, torch.zeros(3, 2)),
    ):
        for _ in range(3):
            health = Health(list(trained))
            with torch.no_grad():
                for name, value in trained.items():
                    value.fill_(0.0 if name == zero else 1.0)
            for _ in range(3):
                _note(health, trained, dead, slots)
                health.end_call()
    for _ in range(3):
        health.end_call()  # calls whose batches were all empty
