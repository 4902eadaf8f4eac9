"""Mean, variance and count of one numeric column over all sites.

A record x within the contract's bounds [lo, hi] becomes z = (2x - lo - hi) / (hi - lo) in [-1, 1] and
contributes (z, z^2, 1): every record has the same, public reach, and the ring's step does not depend on
the unit of the column. A missing cell contributes nothing. Without a privacy unit all is one cell for the
rules against disclosure, and a fourth number counts the sites that suppressed it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.computations.api import Layout, Shape, SiteHalf, State, Sum

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.query import QueryDocument

SITE_HALF: SiteHalf = "per_record"
WORDS = "the count, mean and variance of one column, over all sites"


def shape(document: QueryDocument, base: BaseModel | None) -> Shape:  # noqa: ARG001
    """Return three sums, each bounded by the public number of rows that a site may hold, and the flag."""
    flag = (TensorSpec(name="suppressed", shape=(1,)),) if document.privacy.unit == "none" else ()
    schema = AdapterSchema(tensors=(TensorSpec(name="moments", shape=(3,)), *flag))
    return Shape(schema=schema, bound=float(document.max_rows), norm=None, bits=64)


def initial(document: QueryDocument, shape: Shape) -> State:  # noqa: ARG001
    """Return zeros, float64 [3], or [4] without a unit."""
    return np.zeros(shape.schema.size, dtype=np.float64)


def table(document: QueryDocument) -> Layout:  # noqa: ARG001
    """Return the layout of the one cell."""
    return Layout((1,), 3, counted=False)


def cell(document: QueryDocument, row: Mapping[str, Any]) -> int | None:
    """Return 0, or None where the value is missing."""
    return None if row[document.column] is None else 0


def amounts(document: QueryDocument, row: Mapping[str, Any]) -> tuple[float, ...]:
    """Return (x, x^2, 1)."""
    value = float(row[document.column])
    return value, value * value, 1.0


def per_record(document: QueryDocument, state: State, row: Mapping[str, Any]) -> State | None:
    """Return (z, z^2, 1) within [-1, 1], and a flag of 0; None where the cell is missing."""
    value = row[document.column]
    if value is None:
        return None
    low, high = document.bounds
    z = min(1.0, max(-1.0, (2.0 * value - low - high) / (high - low)))
    return np.array([z, z * z, 1.0, 0.0][: state.size])


def advance(document: QueryDocument, shape: Shape, state: State, summed: Sum) -> State:  # noqa: ARG001
    """Return the sums themselves."""
    return np.asarray(summed.values, dtype=np.float64)


def result(document: QueryDocument, state: State, sites: int) -> dict[str, float | int | None]:
    """Return ``{"mean", "variance" (population), "count", "sites"}``; None where count is not above 0.

    Without a unit ``suppressed_at`` says at how many sites the rules against disclosure suppressed all three;
    those sites' rows are not in them.

    Under a unit all three are noised, so a small count may even come out negative.
    """
    count = round(float(state[2]))
    flags = {"suppressed_at": round(float(state[3]))} if document.privacy.unit == "none" else {}
    if count <= 0:
        return {"mean": None, "variance": None, "count": count, "sites": sites, **flags}
    low, high = document.bounds
    half = (high - low) / 2.0
    z, square = float(state[0]) / count, float(state[1]) / count
    return {
        "mean": low + half * (1.0 + z),
        "variance": max(0.0, math.fsum((square, -z * z))) * half * half,
        "count": count,
        "sites": sites,
        **flags,
    }
