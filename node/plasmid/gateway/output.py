"""The output contract: what a computation may hand to the gateway, and the clip."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.privacy.ring import blocks


def clip(vector: NDArray[Any], shape: api.Shape, computation: str) -> tuple[NDArray[Any], float]:
    """Return *vector* within its bound, and its L2 norm before, in float64.

    A trained update is scaled down to the L2 norm ``shape.bound``; every other vector is clamped to it
    per coordinate.

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
    if not (np.isfinite(vector.min()) and np.isfinite(vector.max())):
        raise ProtocolError("protocol.vector", "the computation returned NaN or infinity.")
    with np.errstate(over="ignore"):  # only a float64 vector can: its norm is then the largest float
        squares = sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks(vector))
    norm = min(math.sqrt(squares), sys.float_info.max)
    if api.load(computation).SITE_HALF == "loss":
        if norm <= shape.bound:
            return vector, norm
        vector = vector * (shape.bound / norm)
    limit = vector.dtype.type(shape.bound)
    if float(limit) > shape.bound:  # the bound is not a float32, and the nearest one lies outside
        limit = np.nextafter(limit, limit.dtype.type(0))
    return np.clip(vector, -limit, limit), norm
