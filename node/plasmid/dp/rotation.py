"""A public random rotation: the randomised Hadamard transform, H D x / sqrt(n).

Rules
-----
1. D are random signs from a public seed (SHAKE-256), H the Walsh-Hadamard matrix, n the next power of two;
   the vector is padded with zeros. The rotation keeps the L2 norm, so clip and sensitivity stay the same.
2. It spreads a vector over its coordinates: one of L2 norm B has each coordinate within
   B sqrt(2 log(2n/p) / n) with probability 1 - p (Kairouz, Liu, Steinke 2021, "The distributed discrete
   Gaussian mechanism"), so a ring with a smaller bound holds it with a finer step.
3. The seed hides nothing. It is the same for all sites and both ends.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LABEL = b"plasmid rotation/1"


def padded_length(length: int) -> int:
    """Return the length of a rotated vector: the smallest power of two that is at least *length* (>= 1)."""
    if length < 1:
        raise ValueError(f"a vector has at least one value, not {length}")
    return int(1 << (length - 1).bit_length())


def rotate(values: NDArray[np.floating[Any]], *, seed: bytes) -> NDArray[np.float64]:
    """Return *values* [length] rotated, float64 [padded_length(length)]."""
    rotated = np.zeros(padded_length(values.size), np.float64)
    rotated[: values.size] = values
    rotated *= _signs(rotated.size, seed)
    _hadamard(rotated)
    return rotated


def unrotate(values: NDArray[np.floating[Any]], *, seed: bytes, length: int) -> NDArray[np.float64]:
    """Return the first *length* values of what :func:`rotate` turned into *values* [a power of two].

    The error of there and back is about 1e-16 of the norm for each of the log2(n) stages.
    """
    if padded_length(length) != values.size:
        raise ValueError(f"{values.size} values are not a rotation of {length}")
    back = np.array(values, dtype=np.float64)
    _hadamard(back)
    back *= _signs(back.size, seed)
    return back[:length]


def _signs(size: int, seed: bytes) -> NDArray[np.float64]:
    stream = np.frombuffer(hashlib.shake_256(_LABEL + seed).digest(-(-size // 8)), np.uint8)
    return np.asarray(1.0 - 2.0 * np.unpackbits(stream)[:size], np.float64)


def _hadamard(values: NDArray[np.float64]) -> None:
    """Apply H / sqrt(n), which is its own inverse, in place."""
    half = 1
    while half < values.size:
        pairs = values.reshape(-1, 2, half)
        difference = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = difference
        half *= 2
    values /= math.sqrt(values.size)
