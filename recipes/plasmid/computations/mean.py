"""Mean, variance and count of one numeric column over all sites.

A record x within the contract's bounds [lo, hi] becomes z = (2x - lo - hi) / (hi - lo) in [-1, 1] and
contributes (z, z^2, 1): every record has the same, public reach, and the ring's step does not depend on
the unit of the column. A missing cell contributes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.computations.api import Shape, SiteHalf, State
from plasmid.models.adapter import AdapterSchema, TensorSpec

if TYPE_CHECKING:
    from plasmid.models.store import BaseModel
    from plasmid.recipes.query import QueryDocument

SITE_HALF: SiteHalf = "per_record"


def shape(document: QueryDocument, base: BaseModel | None) -> Shape:  # noqa: ARG001
    """Return three sums, each bounded by the public number of rows that a site may hold."""
    schema = AdapterSchema(tensors=(TensorSpec(name="moments", shape=(3,)),))
    return Shape(schema=schema, bound=float(document.max_rows), norm=None, bits=64)


def initial(document: QueryDocument, shape: Shape) -> State:  # noqa: ARG001
    """Return zeros, float64 [3]."""
    return np.zeros(shape.schema.size, dtype=np.float64)


def per_record(document: QueryDocument, state: State, row: Mapping[str, Any]) -> State | None:  # noqa: ARG001
    """Return (z, z^2, 1) within [-1, 1], or None where the cell is missing."""
    value = row[document.column]
    if value is None:
        return None
    low, high = document.bounds
    z = min(1.0, max(-1.0, (2.0 * value - low - high) / (high - low)))
    return np.array([z, z * z, 1.0])


def advance(document: QueryDocument, shape: Shape, state: State, total: State, sites: int) -> State:  # noqa: ARG001
    """Return the sums themselves."""
    return np.asarray(total, dtype=np.float64)


def result(document: QueryDocument, state: State, sites: int) -> dict[str, float | int | None]:
    """Return ``{"mean", "variance" (population), "count", "sites"}``; None where count is not above 0.

    Under a unit all three are noised, so a small count may even come out negative.
    """
    count = round(float(state[2]))
    if count <= 0:
        return {"mean": None, "variance": None, "count": count, "sites": sites}
    low, high = document.bounds
    half = (high - low) / 2.0
    z, square = float(state[0]) / count, float(state[1]) / count
    return {
        "mean": low + half * (1.0 + z),
        "variance": max(0.0, math.fsum((square, -z * z))) * half * half,
        "count": count,
        "sites": sites,
    }
