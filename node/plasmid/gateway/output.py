"""The output contract: what a computation may hand to the gateway, its bounds, and the words it becomes."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.dp.noise import skellam
from plasmid.dp.rotation import rotate
from plasmid.secagg.ring import Encoding, Words, add_noise, blocks, encode

_LARGE = 2.0**480
"""The squares of 2**63 values up to this one add up to a float64."""


def bounded(vector: NDArray[Any], shape: api.Shape, *, noised: bool) -> tuple[NDArray[Any], float]:
    """Return *vector* within its bounds, and its L2 norm before, in float64.

    A vector is scaled down to the L2 norm ``shape.norm``, where there is one, unless it is *noised* already:
    that would undo a part of the noise. In any case each coordinate is clamped to ``shape.bound``, which
    lengthens no difference between two vectors. The last ``shape.beside`` coordinates have no part in the
    norm, and are clamped to [0, ``shape.bound``].

    Raises
    ------
    ProtocolError
        ``protocol.vector``: not a vector of the shape's size and dtype, or a value that is not finite.
    """
    if vector.shape != (shape.schema.size,) or vector.dtype != shape.dtype:
        raise ProtocolError(
            "protocol.vector",
            f"the computation returned {vector.dtype} {vector.shape}, "
            f"not {shape.dtype} ({shape.schema.size},).",
        )
    largest = max(-float(vector.min()), float(vector.max()))  # NaN if any value is
    if not math.isfinite(largest):
        raise ProtocolError("protocol.vector", "the computation returned NaN or infinity.")
    limit = vector.dtype.type(shape.bound)
    if float(limit) > shape.bound:  # the bound is not a float32, and the nearest one lies outside
        limit = np.nextafter(limit, limit.dtype.type(0))
    if not shape.beside:
        return _cut(vector, shape, limit, largest, noised=noised)
    own, norm = _cut(vector[: -shape.beside], shape, limit, largest, noised=noised)
    return np.concatenate([own, np.clip(vector[-shape.beside :], 0, limit)]), norm


def _cut(
    vector: NDArray[Any], shape: api.Shape, limit: Any, largest: float, *, noised: bool
) -> tuple[NDArray[Any], float]:
    # The squares of what is this large, which only float64 can be, could overflow: a power of two goes first.
    factor = 2.0 ** (math.frexp(largest)[1] - 1) if largest > _LARGE else 1.0
    scaled = vector / factor if factor > 1 else vector
    of_scaled = math.sqrt(sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks(scaled)))
    norm = min(of_scaled * factor, sys.float_info.max)
    if shape.norm is not None and not noised:
        if norm <= min(shape.norm, shape.bound):
            return vector, norm
        if norm > shape.norm:
            vector = scaled * (shape.norm / of_scaled)
    return np.clip(vector, -limit, limit), norm


def in_ring(vector: NDArray[Any], encoding: Encoding, *, turned_by: bytes | None) -> Words:
    """Return a bounded *vector* as words [encoding.length + TAIL], with this site's share of the noise.

    Parameters
    ----------
    turned_by
        Seed of the public rotation; None where the document has none.
    """
    if turned_by is not None:
        vector = np.clip(rotate(vector, seed=turned_by), -encoding.bound, encoding.bound)
    words = encode(vector, encoding)
    if encoding.noise_variance:  # fresh for every attempt: a draw never serves two manifests
        add_noise(words, skellam(encoding.length, encoding.noise_variance), encoding)
    return words
