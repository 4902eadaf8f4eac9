"""Noise that nobody can predict: Gaussian and Skellam, from ChaCha20 under a key of the operating system.

Rules
-----
1. Every generator has a fresh 256-bit key from ``os.urandom`` and 20 rounds (RFC 8439's cipher, with the
   original 64-bit counter). No seed exists, so a draw can be neither repeated nor resumed.
2. A Gaussian value is half the sum of four draws (Holohan and Braghin 2021, "Secure random sampling in
   differential privacy"): who sees one value would have to search for four to exploit the gaps between
   floating-point numbers. That makes the attack costly; it does not make the noise exact. Skellam noise is
   whole numbers and has no such gaps.
3. A Skellam value of variance V is the difference of two Poisson values of mean V / 2.
4. numpy draws Poisson values up to a mean of 4096, with probabilities right within a relative 1e-4. Its
   acceptance test loses 2**-53 times mean * log(mean), which is 4e-12 there and everything at 2**50 (a
   variance 9% too large; at 2**56 multiples of 8). Beyond 4096 the same rejection method is used here with
   a log-probability that does not cancel.
"""

from __future__ import annotations

import math
import os

import numpy as np
from numpy.typing import NDArray

MAX_VARIANCE = 2.0**52
"""Largest Skellam variance. A value's probability is right within a relative 2**-51 * sqrt(variance)."""

_NUMPY_MEAN = 4096.0
_BLOCK = 65_536


def generator() -> np.random.Generator:
    """Return a numpy generator over ChaCha20 with a fresh key of the operating system."""
    import randomgen

    return np.random.Generator(randomgen.ChaCha(key=int.from_bytes(os.urandom(32), "little"), rounds=20))


def gaussian(size: int, std: float) -> NDArray[np.float64]:
    """Return *size* independent values of mean 0 and standard deviation *std* (>= 0), float64 [size]."""
    if not 0 <= std < math.inf:
        raise ValueError(f"a standard deviation is finite and at least 0, not {std}")
    source = generator()
    total = source.standard_normal(size)
    for _ in range(3):
        total += source.standard_normal(size)
    total *= std / 2
    return total


def skellam(size: int, variance: float) -> NDArray[np.int64]:
    """Return *size* independent Skellam values of mean 0 and *variance* (0 to MAX_VARIANCE), int64 [size]."""
    if not 0 <= variance <= MAX_VARIANCE:
        raise ValueError(f"a Skellam variance lies within 0 and 2**52, not {variance}")
    source = generator()
    if variance / 2 <= _NUMPY_MEAN:
        values = source.poisson(variance / 2, size)
        values -= source.poisson(variance / 2, size)
        return values
    values = np.empty(size, np.int64)
    for start in range(0, size, _BLOCK):
        block = values[start : start + _BLOCK]
        _centred_poisson(source, variance / 2, block)
        other = np.empty_like(block)
        _centred_poisson(source, variance / 2, other)
        block -= other
    return values


def _centred_poisson(source: np.random.Generator, mean: float, out: NDArray[np.int64]) -> None:
    """Fill *out* with Poisson(*mean*) - floor(*mean*) by Hörmann's transformed rejection (PTRS, 1993).

    The quick tests of PTRS are left out: they save time only one value at a time.
    """
    missing = out.size
    while missing:
        uniform = source.random(missing) - 0.5
        found, log_accept = _proposal(uniform, mean)
        # log(1 - u) is finite for u in [0, 1); a comparison with NaN or -inf rejects
        kept = found[np.log1p(-source.random(missing)) <= log_accept]
        start = out.size - missing
        out[start : start + kept.size] = kept
        missing -= kept.size


def _proposal(uniform: NDArray[np.float64], mean: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the candidates k - floor(mean) for *uniform* in [-1/2, 1/2), and their log acceptance.

    Candidates further from the mean than a quarter of it are never accepted: together they have a
    probability below 1e-60.
    """
    whole = math.floor(mean)
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        room = 0.5 - np.abs(uniform)
        shifted = np.floor((2 * a / room + b) * uniform + (mean - whole) + 0.43)
        near = np.abs(shifted) < mean / 4
        offset = np.where(near, shifted, 0.0)
        log_accept = log_poisson(offset - (mean - whole), mean)
        log_accept += np.log(a / (room * room) + b) - math.log(inverse_alpha)
    log_accept[~near] = -np.inf
    return offset.astype(np.int64), log_accept


def log_poisson(distance: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """Return the log-probability of Poisson(*mean*) at ``mean + distance``, to about 13 digits.

    Loader's saddle-point form (2000, "Fast and accurate computation of binomial probabilities"), for a
    mean above 4096 and distances below a quarter of it, where its series reach double precision:
    with k = mean + distance and v = distance / (k + mean),
    log p = -(distance * v + 2k * sum of v**(2j+1)/(2j+1)) - 1/(12k) + 1/(360k**3) - log(2 pi k) / 2.
    """
    k = mean + distance
    v = distance / (k + mean)
    square = v * v
    series = np.full_like(v, 1 / 17)
    for odd in (15, 13, 11, 9, 7, 5, 3):
        series *= square
        series += 1 / odd
    deviance = distance * v + 2 * k * v * square * series
    result: NDArray[np.float64] = -deviance - 1 / (12 * k) + 1 / (360 * k**3) - 0.5 * np.log(2 * math.pi * k)
    return result
