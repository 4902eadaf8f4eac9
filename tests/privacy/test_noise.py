"""Noise: keyed by the operating system, and of the distribution that the accounting assumes.

Each statistical bound fails by chance with a probability below 1e-9.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from plasmid.privacy import noise

SIGMAS = 7.0
"""P(|normal| > 7) is 2.6e-12."""


def test_the_stream_is_chacha20_under_a_key_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(range(32))
    monkeypatch.setattr(os, "urandom", lambda size: key[:size])
    words = noise.generator().bit_generator.random_raw(64)  # type: ignore[attr-defined]
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(512))
    assert words.tobytes() == stream


def test_every_call_draws_under_a_fresh_key() -> None:
    assert not np.array_equal(noise.gaussian(8, 1.0), noise.gaussian(8, 1.0))
    assert not np.array_equal(noise.skellam(8, 1e6), noise.skellam(8, 1e6))
    assert noise.generator().integers(2**62) != noise.generator().integers(2**62)


def test_numpys_seed_has_no_say() -> None:
    draws = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002 - the point
        draws.append(noise.gaussian(4, 1.0).tolist())
    assert draws[0] != draws[1]


def test_randomgen_is_not_imported_before_noise_is_drawn() -> None:
    code = "import sys, plasmid.privacy.noise; sys.exit('randomgen' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("std", [0.5, 3.0])
def test_gaussian_moments(std: float) -> None:
    size = 400_000
    z = noise.gaussian(size, std) / std
    assert z.dtype == np.float64
    assert abs(z.mean()) < SIGMAS / math.sqrt(size)
    assert abs((z**2).mean() - 1) < SIGMAS * math.sqrt(2 / size)
    assert abs((z**4).mean() - 3) < SIGMAS * math.sqrt(96 / size)
    # four of them are worth one: a mistake of a factor of 2 would be a tenth of this far off
    assert abs(np.abs(z).max() - math.sqrt(2 * math.log(size))) < 2.5


@pytest.mark.parametrize("variance", [0.5, 9_000.0, 3e6, 2.0**40, 2.0**52])
def test_skellam_moments(variance: float) -> None:
    size = 200_000
    values = noise.skellam(size, variance)
    assert values.dtype == np.int64
    z = values / math.sqrt(variance)
    fourth = 3 + 1 / variance
    assert abs(z.mean()) < SIGMAS / math.sqrt(size)
    assert abs((z**2).mean() - 1) < SIGMAS * math.sqrt((fourth - 1) / size)
    assert abs((z**4).mean() - fourth) < SIGMAS * math.sqrt((96 + 200 / variance + 200 / variance**3) / size)
    odd = np.count_nonzero(values % 2) / size
    even_odds = (1 - math.exp(-2 * variance)) / 2  # the Skellam's generating function at -1
    assert abs(odd - even_odds) < SIGMAS * 0.5 / math.sqrt(size)


def test_numpys_own_poisson_would_fail_at_a_large_variance() -> None:
    """The positive control of the moments above, and why the sampler is our own."""
    source = noise.generator()
    z = (source.poisson(2.0**55, 50_000) - 2**55) / 2.0**27.5
    assert (z**2).mean() > 1 + SIGMAS * math.sqrt(2 / 50_000)


def skellam_pmf(variance: float, reach: int) -> np.ndarray:
    from scipy.special import ive

    return np.asarray(ive(np.abs(np.arange(-reach, reach + 1)), variance))


@pytest.mark.parametrize(("variance", "size"), [(0.3, 100_000), (4.0, 100_000), (12_000.0, 400_000)])
def test_skellam_values_follow_the_exact_probabilities(variance: float, size: int) -> None:
    from scipy.stats import chi2

    reach = math.ceil(10 * math.sqrt(variance)) + 10
    expected = skellam_pmf(variance, reach) * size
    assert abs(expected.sum() - size) < 1e-6 * size
    values = noise.skellam(size, variance)
    assert np.abs(values).max() <= reach
    seen = np.bincount(values + reach, minlength=2 * reach + 1)
    kept = expected >= 20  # the rest is one cell
    cells = np.append(expected[kept], expected[~kept].sum())
    counts = np.append(seen[kept], seen[~kept].sum())

    def statistic(cells: np.ndarray) -> float:
        used = cells > 1
        return float((np.square(counts - cells)[used] / cells[used]).sum())

    freedom = cells.size - 1
    assert statistic(cells) < chi2.isf(1e-10, freedom)
    # the positive control: a variance that is 10% off is seen
    other = skellam_pmf(variance * 1.1, reach) * size
    assert statistic(np.append(other[kept], other[~kept].sum())) > chi2.isf(1e-10, freedom)


@pytest.mark.parametrize("mean", [4097.3, 2.0**20, 2.0**37 + 0.5, 2.0**51])
def test_the_rejection_never_needs_an_acceptance_above_one(mean: float) -> None:
    # PTRS is right where its hat lies above the distribution: log acceptance <= 0 everywhere
    edge = 0.5 - np.geomspace(1e-12, 0.4999, 200_000)
    uniform = np.concatenate([-edge, np.linspace(-0.4, 0.4, 200_001), edge])
    found, log_accept = noise._proposal(uniform, mean)
    assert log_accept.max() <= 1e-9
    assert np.exp(log_accept[edge.size : -edge.size]).mean() > 0.8  # and not a useless one
    assert np.abs(found).max() < mean / 4


@pytest.mark.parametrize("mean", [4096.5, 2.0**21, 2.0**40 + 0.25])
def test_the_log_probability_agrees_with_multiple_precision(mean: float) -> None:
    import mpmath

    with mpmath.workdps(60):
        for spread in (-6.0, -1.0, 0.0, 0.5, 6.0, 12.0):
            k = round(mean + spread * math.sqrt(mean))
            exact = k * mpmath.log(mean) - mpmath.mpf(mean) - mpmath.loggamma(k + 1)
            found = noise.log_poisson(np.array([k - mean]), mean)[0]
            assert found == pytest.approx(float(exact), rel=1e-13)
    k = round(1.24 * mean)
    with mpmath.workdps(60):
        exact = k * mpmath.log(mean) - mpmath.mpf(mean) - mpmath.loggamma(k + 1)
    assert noise.log_poisson(np.array([k - mean]), mean)[0] == pytest.approx(float(exact), rel=1e-12)


def test_no_noise_is_nothing() -> None:
    assert noise.gaussian(3, 0.0).tolist() == [0.0] * 3
    assert noise.skellam(3, 0.0).tolist() == [0] * 3
    assert noise.skellam(0, 1e9).size == 0


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_a_scale_that_is_no_number_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="standard deviation"):
        noise.gaussian(1, wrong)
    with pytest.raises(ValueError, match="variance"):
        noise.skellam(1, wrong)


def test_a_variance_beyond_the_samplers_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2\*\*52"):
        noise.skellam(1, 2.0**53)
