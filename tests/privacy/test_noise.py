"""Noise: keyed by the operating system, and of the distribution that the accounting assumes.

Each statistical bound fails by chance with a probability below 1e-9.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from plasmid.dp import noise

SIGMAS = 7.0
"""P(|normal| > 7) is 2.6e-12."""


class Given:
    """A source whose words a test has chosen."""

    def __init__(self, *words: int) -> None:
        self._words = list(words)

    def words(self, count: int) -> np.ndarray:
        taken, self._words = self._words[:count], self._words[count:]
        assert len(taken) == count, "more words than were foreseen"
        return np.array(taken, np.uint64)


class Chosen(noise.Source):
    """A noise source over words that a test has chosen."""

    words = Given.words  # type: ignore[assignment]

    def __init__(self, *words: int) -> None:
        self._words = list(words)


# The stream


def test_the_stream_is_chacha20_under_a_key_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(range(32))
    monkeypatch.setattr(os, "urandom", lambda size: key[:size])
    # RFC 8439 has a counter of 32 bits and a nonce of 96; all are zero, and the blocks are consecutive
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(512))
    source = noise.Source()
    assert source.words(24).tobytes() + source.words(40).tobytes() == stream
    zero = noise.Source(bytes(32)).words(1).tobytes()
    assert zero == bytes.fromhex("76b8e0ada0f13d90"), "RFC 8439, A.1, test vector 1"


def test_every_call_draws_under_a_fresh_key() -> None:
    assert not np.array_equal(noise.gaussian(8, 1e3), noise.gaussian(8, 1e3))
    assert not np.array_equal(noise.skellam(8, 1e6), noise.skellam(8, 1e6))
    assert noise.Source().words(1) != noise.Source().words(1)


def test_numpys_seed_has_no_say() -> None:
    draws = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002 - the point
        draws.append(noise.gaussian(4, 1e6).tolist())
    assert draws[0] != draws[1]


# Coins and orders


def test_coins_are_exact() -> None:
    rate = 0.1  # 0x1.999999999999ap-4: its share of 2**64 is a whole number
    edge = int(Fraction(rate) * 2**64)
    assert Chosen(edge - 1, edge).coins(2, rate).tolist() == [True, False]
    small = 2.0**-70 * 3  # the first word is below 1/2**64 only if it is 0; then the next one decides
    assert Chosen(1).coins(1, small).tolist() == [False]
    edge = 3 * 2**64 // 2**6
    assert [Chosen(0, word).coins(1, small).tolist() for word in (edge - 1, edge)] == [[True], [False]]
    assert noise.Source().coins(1000, 1.0).all()
    assert not noise.Source().coins(1000, 0.0).any()
    with pytest.raises(ValueError, match="probability"):
        noise.Source().coins(1, 1.5)


def test_an_order_is_one_of_all_alike_and_equal_words_are_drawn_anew() -> None:
    seen = Counter(tuple(noise.Source().order(4).tolist()) for _ in range(24_000))
    assert len(seen) == 24
    assert max(abs(count - 1000) for count in seen.values()) < SIGMAS * math.sqrt(1000)
    assert Chosen(5, 5, 9, 8).order(2).tolist() == [1, 0]


# Noise


@pytest.mark.parametrize("deviation", [8.0, 1e3, 3e5, 2.0**30, 2.0**47])
def test_gaussian_moments(deviation: float) -> None:
    size = 200_000
    values = noise.gaussian(size, deviation)
    assert values.dtype == np.int64
    z = values / math.sqrt(deviation**2 + 1 / 12)
    assert abs(z.mean()) < SIGMAS / math.sqrt(size)
    assert abs((z**2).mean() - 1) < SIGMAS * math.sqrt(2 / size)
    assert abs((z**4).mean() - 3) < SIGMAS * math.sqrt(96 / size)
    assert abs(np.count_nonzero(values % 2) / size - 0.5) < SIGMAS * 0.5 / math.sqrt(size)
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


def test_no_noise_is_nothing() -> None:
    assert noise.gaussian(3, 0.0).tolist() == [0] * 3
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


def test_a_deviation_that_rounding_would_distort_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 steps"):
        noise.gaussian(1, 7.9)
    with pytest.raises(ValueError, match=r"2\*\*96"):
        noise.gaussian(1, 2.0**49)
