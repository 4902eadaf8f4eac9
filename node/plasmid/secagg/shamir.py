"""Shamir's secret sharing (1979) over GF(2^8), byte by byte, for all secrets of an epoch at once.

Rules
-----
1. The field is that of AES (x^8 + x^4 + x^3 + x + 1). Share i, counted from 1, is the polynomial at x = i;
   the secret is its value at 0; the other ``threshold - 1`` coefficients are fresh random bytes.
2. Fewer than ``threshold`` shares fit every secret equally well. A share carries no proof: what is put
   together is compared with a commitment by whoever asked.
3. Lagrange coefficients depend on the set of shares alone: once per set, for all bytes.
"""

from __future__ import annotations

import secrets as entropy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

MAX_SHARES = 255


def _tables() -> tuple[Bytes, NDArray[np.int64], Bytes]:
    """Return powers of the generator 3 (twice over), their logarithms, and the table of all products."""
    powers, logarithms = np.zeros(510, np.uint8), np.zeros(256, np.int64)
    value = 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logarithms[value] = exponent
        value ^= value << 1  # times 3 is times 2 plus itself
        if value & 0x100:
            value ^= 0x11B
    products = powers[logarithms[:, None] + logarithms[None, :]]
    products[0, :] = products[:, 0] = 0
    return powers, logarithms, products


_POWERS, _LOG, PRODUCTS = _tables()


def split(secrets: Bytes, *, threshold: int, shares: int) -> Bytes:
    """Return shares [shares, length] of *secrets* [length] with fresh coefficients from the OS.

    Raises
    ------
    ValueError
        Not 1 <= threshold <= shares <= 255.
    """
    random = np.frombuffer(entropy.token_bytes((threshold - 1) * secrets.size), np.uint8)
    return evaluate(np.vstack([secrets, random.reshape(threshold - 1, secrets.size)]), shares=shares)


def evaluate(coefficients: Bytes, *, shares: int) -> Bytes:
    """Return the values [shares, length] of polynomials *coefficients* [threshold, length] at 1, 2, ...

    Raises
    ------
    ValueError
        Not 1 <= threshold <= shares <= 255.
    """
    threshold, length = coefficients.shape
    if not 1 <= threshold <= shares <= MAX_SHARES:
        raise ValueError(f"{threshold} of {shares} shares are impossible: at most {MAX_SHARES} shares.")
    values = np.empty((shares, length), np.uint8)
    for x, value in enumerate(values, start=1):
        times_x = PRODUCTS[x]
        value[:] = coefficients[-1]
        for coefficient in coefficients[-2::-1]:  # Horner
            np.bitwise_xor(times_x[value], coefficient, out=value)
    return values


def lagrange(indices: Sequence[int]) -> Bytes:
    """Return the weight [k] of each share of *indices* (distinct, 1 to 255) in the value at 0.

    Raises
    ------
    ValueError
        An index twice, or outside 1 to 255.
    """
    x = np.asarray(indices, np.int64)
    if len(set(indices)) != x.size or x.min(initial=1) < 1 or x.max(initial=1) > MAX_SHARES:
        raise ValueError(f"{list(indices)} are not distinct shares.")
    differences = _LOG[x[:, None] ^ x[None, :]]  # log 0 is stored as 0: the diagonal adds nothing
    exponents = _LOG[x].sum() - _LOG[x] - differences.sum(axis=1)
    weights: Bytes = _POWERS[exponents % 255]
    return weights


def combine(weights: Bytes, shares: Bytes) -> Bytes:
    """Return the secrets [...] from *shares* [k, ...] and their :func:`lagrange` *weights* [k]."""
    column = weights.reshape(-1, *([1] * (shares.ndim - 1)))
    secrets: Bytes = np.bitwise_xor.reduce(PRODUCTS[column, shares], axis=0)
    return secrets
