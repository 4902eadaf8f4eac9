"""Randomness that nobody can predict: coins, orders and noise, from ChaCha20 under keys of the system.

Rules
-----
1. Every source has a fresh 256-bit key from ``os.urandom``: the keystream of RFC 8439's cipher. No seed
   exists, so a draw can be neither repeated nor resumed; tests hand in a source of their own.
2. Nothing is computed in floating point. Coins and orders are exact; noise is whole numbers by the tables of
   :mod:`plasmid.dp.lattice`, whose distance from Skellam and rounded Gaussian values the accounting
   charges to delta (:func:`plasmid.dp.accounting.noised`).
3. A rounded Gaussian added to whole numbers is their Gaussian mechanism, rounded: what is accounted for the
   one holds for the other, and there are no gaps between floating-point numbers to look through.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from plasmid.dp import lattice

MAX_VARIANCE = 2.0**52
"""Largest Skellam variance."""

_NONCE = bytes(16)


class Source:
    """A stream of uniform 64-bit words.

    Parameters
    ----------
    key
        32 bytes; None takes them from the operating system, which is what everything but a test does.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._stream = Cipher(ChaCha20(key or os.urandom(32), _NONCE), mode=None).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the next *count* words, uint64 [count]."""
        return np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        """Return *count* coins, each True with probability *rate* in [0, 1] exactly, bool [count]."""
        if not 0 <= rate <= 1:
            raise ValueError(f"a probability lies within 0 and 1, not {rate}")
        words, share = self.words(count), Fraction(rate)
        if share == 1:
            return np.ones(count, np.bool_)
        share *= 2**64
        whole = math.floor(share)
        heads = words < np.uint64(whole)
        if share > whole:
            for place in np.flatnonzero(words == np.uint64(whole)):
                heads[place] = bool(self.coins(1, float(share - whole))[0])
        return heads

    def order(self, count: int) -> NDArray[np.int64]:
        """Return the numbers below *count* in an order of which each is equally likely, int64 [count]."""
        while True:
            words = self.words(count)
            order = np.argsort(words, kind="stable")
            if not (np.diff(words[order]) == 0).any():  # equal words have no order of their own
                return order.astype(np.int64)


def gaussian(size: int, deviation: float) -> NDArray[np.int64]:
    """Return *size* independent Gaussian values rounded to whole numbers, int64 [size].

    Parameters
    ----------
    deviation
        Standard deviation before rounding: 0, or 8 to :data:`plasmid.dp.lattice.MAX_DEVIATION`.
    """
    if not 0 <= deviation < math.inf:
        raise ValueError(f"a standard deviation is finite and at least 0, not {deviation}")
    if not deviation:
        return np.zeros(size, np.int64)
    return lattice.draw(lattice.gaussian_tables(deviation), Source(), size)


def skellam(size: int, variance: float) -> NDArray[np.int64]:
    """Return *size* independent Skellam values of mean 0 and *variance* (0 to MAX_VARIANCE), int64 [size]."""
    if not 0 <= variance <= MAX_VARIANCE:
        raise ValueError(f"a Skellam variance lies within 0 and 2**52, not {variance}")
    if not variance:
        return np.zeros(size, np.int64)
    return lattice.draw(lattice.skellam_tables(variance), Source(), size)
