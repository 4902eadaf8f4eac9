"""A contingency table over all sites: counts, and a column's sum in each cell.

A record contributes 1 to its cell and, with ``sum_of``, z = (2x - low - high) / (high - low) in [-1, 1] to
the same cell of a second tensor: every record has the same, public reach. Without a privacy unit a third
tensor counts the sites that suppressed a cell (and contributed 0 to it); the node fills it, never a record.
Under a unit nothing is suppressed, since noise does that work, and there is no such tensor.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.computations.api import Layout, Shape, SiteHalf, State, Sum

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.counts import Axis, CountsDocument

SITE_HALF: SiteHalf = "per_record"
WORDS = "a table of counts over public cells, and sums of one column in them"


def tensors(document: CountsDocument) -> tuple[str, ...]:
    """Return the names of the tensors; each has the table's shape."""
    sums = ("sums",) if document.sum_of else ()
    return ("counts", *sums, *(("suppressed",) if document.privacy.unit == "none" else ()))


def shape(document: CountsDocument, base: BaseModel | None) -> Shape:  # noqa: ARG001
    """Return the tables, each cell bounded by the public number of rows that a site may hold."""
    schema = AdapterSchema(
        tensors=tuple(TensorSpec(name=name, shape=document.shape) for name in tensors(document))
    )
    return Shape(schema=schema, bound=float(document.max_rows), norm=None, bits=64)


def initial(document: CountsDocument, shape: Shape) -> State:  # noqa: ARG001
    """Return zeros, float64."""
    return np.zeros(shape.schema.size, dtype=np.float64)


def table(document: CountsDocument) -> Layout:
    """Return the layout: counts, sums if there are any, flags."""
    return Layout(document.shape, 2 if document.sum_of else 1, counted=True)


def amounts(document: CountsDocument, row: Mapping[str, Any]) -> tuple[float, ...]:
    """Return 1 and, with ``sum_of``, x."""
    return (1.0, float(row[document.sum_of.column])) if document.sum_of else (1.0,)


def cell(document: CountsDocument, row: Mapping[str, Any]) -> int | None:
    """Return the number of the record's cell in the flattened table, None for a record that is left out."""
    if document.sum_of and row[document.sum_of.column] is None:
        return None
    found = 0
    for axis, length in zip(document.axes, document.shape, strict=True):
        index = _index(axis, row[axis.column])
        if index is None and document.missing == "skip":
            return None
        found = found * length + (length - 1 if index is None else index)
    return found


def per_record(document: CountsDocument, state: State, row: Mapping[str, Any]) -> State | None:
    """Return 1 in the record's cell and z in the same cell of the sums, or None if it is left out."""
    index = cell(document, row)
    if index is None:
        return None
    vector = np.zeros(state.size)
    vector[index] = 1.0
    if document.sum_of:
        low, high = document.sum_of.bounds
        z = (2.0 * row[document.sum_of.column] - low - high) / (high - low)
        vector[index + int(np.prod(document.shape))] = min(1.0, max(-1.0, z))
    return vector


def advance(document: CountsDocument, shape: Shape, state: State, summed: Sum) -> State:  # noqa: ARG001
    """Return the sums themselves."""
    return np.asarray(summed.values, dtype=np.float64)


def result(document: CountsDocument, state: State, sites: int) -> dict[str, Any]:
    """Return the table with its margins, as JSON values.

    ``axes`` names columns and cells; ``counts``, ``sums`` (in the column's own unit, None without ``sum_of``)
    and ``suppressed_at`` (how many of the *sites* suppressed the cell; in a margin, the most for any of its
    cells; None under a unit) are nested lists. Where a site suppressed a cell, count and margins are lower
    bounds. ``margins`` has one entry for each proper subset of the columns, the empty one (the total)
    first. Under a unit all numbers are noised, so a small count may come out negative.
    """
    parts = dict(zip(tensors(document), state.reshape(-1, *document.shape), strict=True))
    if document.sum_of:
        low, high = document.sum_of.bounds
        parts["sums"] = parts["counts"] * low + (parts["counts"] + parts["sums"]) * ((high - low) / 2.0)
    every = range(len(document.axes))
    return {
        "axes": [{"column": axis.column, "cells": list(document.cells(axis))} for axis in document.axes],
        **_table(parts, ()),
        "margins": [
            {
                "columns": [document.axes[axis].column for axis in kept],
                **_table(parts, tuple(axis for axis in every if axis not in kept)),
            }
            for size in range(len(document.axes))
            for kept in combinations(every, size)
        ],
        "sites": sites,
    }


def _table(parts: Mapping[str, NDArray[np.float64]], summed: tuple[int, ...]) -> dict[str, Any]:
    """Return the tables over the axes that are not *summed*; a margin tells its most suppressed cell."""
    counts = np.rint(parts["counts"].sum(axis=summed)).astype(int)
    sums = parts["sums"].sum(axis=summed).tolist() if "sums" in parts else None
    flags = parts.get("suppressed")
    at = None if flags is None else np.rint(flags.max(axis=summed) if summed else flags).astype(int).tolist()
    return {"counts": counts.tolist(), "sums": sums, "suppressed_at": at}


def _index(axis: Axis, value: Any) -> int | None:
    if value is None:
        return None
    if edges := axis.edges_of_cells:
        return min(max(bisect.bisect_right(edges, value) - 1, 0), len(edges) - 2)
    return axis.positions.get(value, len(axis.cells) - 1)
