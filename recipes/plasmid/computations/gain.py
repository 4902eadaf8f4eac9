"""Whether an adapter is worth it to each site: how many sites gain by how much, on a public grid.

A site trains an adapter on its own rows alone, with as many steps, and judges both on its own rows that
nobody trained on. Its gain is the difference of the task's metric, positive where the adapter is better. What
it sends is a 1 in one cell: that of its gain, or the last one, where it cannot say (too few rows held out, a
metric that has no value on them, no adapter of its own of the run that is asked about). The sum is a
histogram of sites; how many gain and between which edges the median lies follow from it, and nothing else of
a site does.

The vector is finished: one record can move a site from any cell to any other. Under a privacy unit it is
noised for its whole bound. :attr:`Shape.most_noise` says how much noise leaves an answer; more is refused by
the plan.

The public state is the adapter, as given, and behind it the histogram.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.adapters.adapter import AdapterSchema, TensorSpec, adapter_schema
from plasmid.computations.api import Shape, SiteHalf, State
from plasmid.computations.evaluate import adapter_of, advance, begins, first, nearest_counts

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.gain import GainDocument

__all__ = ["adapter_of", "advance", "begins", "first"]

SITE_HALF: SiteHalf = "vector"
WORDS = "an adapter and one trained here alone are compared on rows held out; sites are counted"
JUDGED = True
"""The node trains and judges (:mod:`plasmid.worker.gain`), and gives :func:`vector` what it found."""

MOST_NOISE = 0.25
"""Largest standard deviation of the number of sites that gain, as a part of the sites."""


def shape(document: GainDocument, base: BaseModel | None) -> Shape:
    """Return the histogram's cells; one site is in one of them. Public is the adapter besides."""
    assert base is not None, "an adapter has a base model"
    adapter = adapter_schema(base, document.adapter.lora, document.head())
    cells = TensorSpec("sites", (len(document.grid) + 2,))
    gaining = len(document.grid) - document.grid.index(0.0)
    return Shape(
        schema=AdapterSchema((cells,)),
        bound=1.0,
        norm=1.0,
        bits=64,
        public=AdapterSchema((*adapter.tensors, cells)),
        most_noise=MOST_NOISE / math.sqrt(gaining),
    )


def vector(document: GainDocument, gain: float | None) -> State:
    """Return a 1 in the cell of *gain*, None for a site that cannot say; float64 [cells].

    Cell i holds gains above edge i - 1, up to and including edge i.
    """
    found = np.zeros(len(document.grid) + 2)
    found[-1 if gain is None else bisect_left(document.grid, gain)] = 1.0
    return found


def result(document: GainDocument, state: State, sites: int) -> dict[str, Any]:
    """Return what the histogram says, as JSON values.

    ``answered``, ``gaining`` (sites), ``cannot_say``, ``median`` (the edges between which it lies, None for
    an open end; None where no site answered), ``grid`` and ``counts``. Under a unit all numbers are noised,
    and set to whole sites.
    """
    numbers = np.asarray(state[state.size - len(document.grid) - 2 :], np.float64)
    counts = np.rint(nearest_counts(numbers)).astype(int).tolist()
    cells = counts[:-1]
    return {
        "measure": "gain",
        "metric": document.task.metric,
        "rows": "holdout",
        "given": document.given,
        "personal": document.run,
        "sites": sites,
        "answered": sum(cells),
        "gaining": sum(cells[document.grid.index(0.0) + 1 :]),
        "cannot_say": counts[-1],
        "median": _median(document.grid, cells),
        "grid": list(document.grid),
        "counts": cells,
    }


def _median(grid: tuple[float, ...], cells: list[int]) -> list[float | None] | None:
    """Return the edges between which the median lies: of an even number, the two in the middle."""
    total = sum(cells)
    if not total:
        return None
    reached = np.cumsum(cells)
    low, high = (int(np.argmax(reached > place)) for place in ((total - 1) // 2, total // 2))
    return [None if low == 0 else grid[low - 1], None if high == len(grid) else grid[high]]
