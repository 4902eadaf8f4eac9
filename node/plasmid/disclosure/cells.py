"""Disclosure control for tables without differential privacy: what one site lets out of its own cells.

Applied by each gateway to its own numbers before they are encoded; a rule that is None is off.

Rules, in order
---------------
1. **Cohort.** A table of fewer than ``min_cohort`` people is suppressed as a whole: the few people that one
   knows to be in a small table are easily told apart.
2. **Numbers per person.** A table of more numbers than ``max_parameters_share`` of its people is suppressed
   as a whole. Nearly as many numbers as people are equations for their values (DataSHIELD's nfilter.glm).
3. **Smallest cell.** A cell of 1 to ``min_cell`` - 1 people is suppressed, and one of none if zeros are
   ``suppressed``: it tells of few people what their row and column don't (DataSHIELD's nfilter.tab). A zero
   that is shown says of everyone in a row that they are not in that column.
4. **Dominance** (n, k). A cell whose n largest contributors (at most two) have more than the share k of the
   sum of absolute values is suppressed: its sum would be about them.
5. **Complementary suppression**, against whoever subtracts cells from margins:
   :mod:`plasmid.disclosure.complementary`.
6. A suppressed cell contributes 0, and 1 to the flags, whose sum says at how many sites it was suppressed;
   the total is then a lower bound.
7. **Rounding** of what is left to a multiple of ``rounding``, half up, in units of one record's reach: a
   difference of two tables is off by up to that base. It is a function of the number, so that repeats are
   equal and don't average to the number itself (OpenSAFELY).

Against whom
------------
All rules are against the analyst, and whoever reads a result. The coordinator sees what the analyst does. A
fellow site can subtract its own cells from a total, and n - 1 sites together are left with the last one's
cells: suppressed and rounded there, since each site applies the rules to its own. So 1 to 7 hold against
fellow sites too, but for what they know of their own patients. What many tables tell together is bounded by
:mod:`plasmid.disclosure.overlap`, not here.

Sources: Hundepool et al., Statistical Disclosure Control (2012), chapters 4 and 6; DataSHIELD's disclosure
settings; OpenSAFELY's suppression of small numbers and rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plasmid.disclosure.complementary import protect

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CellRules:
    """The figures of the rules; None turns a rule off.

    Attributes
    ----------
    min_cohort, min_cell
        People.
    dominance
        (n, k): n is 1 or 2, k a share of 1.
    max_parameters_share
        Numbers per person.
    rounding
        The base, in records.
    zeros
        Whether cells of nobody are shown.
    """

    min_cohort: int | None = 11
    min_cell: int | None = 11
    dominance: tuple[int, float] | None = (2, 0.9)
    max_parameters_share: float | None = 0.33
    rounding: int | None = 5
    zeros: Literal["shown", "suppressed"] = "shown"


@dataclass(frozen=True)
class Cells:
    """One site's table; *shape* is its one to three axes.

    Attributes
    ----------
    cohort
        People in the whole table. A person with records in several cells counts once.
    people
        People in each cell, int64 [\\*shape].
    values
        Sums over records, float64 [numbers, \\*shape]. The first are counts of records where ``counted``.
    absolute
        Sums over people of the absolute values of their contributions, as *values*.
    largest
        The two largest of those contributions, descending, float64 [numbers, 2, \\*shape].
    counted
        Whether ``values[0]`` are counts, which add up along the axes; else people do that.
    """

    cohort: int
    people: NDArray[np.int64]
    values: Floats
    absolute: Floats
    largest: Floats
    counted: bool = True


@dataclass(frozen=True)
class Released:
    """What may leave.

    Attributes
    ----------
    values
        As in :class:`Cells`, suppressed and rounded.
    suppressed
        Bool [\\*shape].
    why
        How many cells each rule suppressed, for the site's own log: numbers, never which.
    """

    values: Floats
    suppressed: NDArray[np.bool_]
    why: Mapping[str, int]


def release(cells: Cells, rules: CellRules) -> Released:
    """Apply all *rules* to *cells*; pure and deterministic."""
    whole = whole_table_rule(cells.cohort, cells.values.size, rules)
    shape = cells.people.shape
    if whole is not None:
        everything = np.ones(shape, bool)
        return Released(np.zeros_like(cells.values), everything, {whole: everything.size})
    small = _small(cells.people, rules)
    dominated = _dominated(cells, rules) & ~small
    primary = small | dominated
    suppressed = _complemented(cells, primary, rules)
    why = {
        "min_cell": int(small.sum()),
        "dominance": int(dominated.sum()),
        "complementary": int((suppressed & ~primary).sum()),
    }
    return Released(
        rounded(np.where(suppressed, 0.0, cells.values), rules.rounding),
        suppressed,
        {rule: number for rule, number in why.items() if number},
    )


def whole_table_rule(cohort: int, numbers: int, rules: CellRules) -> str | None:
    """Return the rule that keeps back all *numbers* about *cohort* people, None if there is none."""
    if rules.min_cohort is not None and cohort < rules.min_cohort:
        return "min_cohort"
    if rules.max_parameters_share is not None and numbers > rules.max_parameters_share * cohort:
        return "max_parameters_share"
    return None


def rounded(values: Floats, base: int | None) -> Floats:
    """Return *values* as the nearest multiples of *base*, half up; unchanged without one."""
    return values if base is None else np.floor(values / base + 0.5) * base


def _small(people: NDArray[np.int64], rules: CellRules) -> NDArray[np.bool_]:
    few = people < (rules.min_cell or 0)
    return few if rules.zeros == "suppressed" else few & (people > 0)


def _dominated(cells: Cells, rules: CellRules) -> NDArray[np.bool_]:
    if rules.dominance is None:
        return np.zeros(cells.people.shape, bool)
    n, share = rules.dominance
    found: NDArray[np.bool_] = (cells.largest[:, :n].sum(axis=1) > share * cells.absolute).any(axis=0)
    return found


def _complemented(cells: Cells, primary: NDArray[np.bool_], rules: CellRules) -> NDArray[np.bool_]:
    """Return *primary* and what must go with it; axes of one cell have no margin of their own."""
    if not primary.any() or primary.size == 1:
        return primary
    counts = np.rint(cells.values[0]).astype(np.int64) if cells.counted else cells.people
    squeezed = protect(
        np.squeeze(counts),
        np.squeeze(primary),
        least=rules.min_cell or 2,
        zeros_shown=rules.zeros == "shown",
    )
    inner = squeezed.hidden[tuple(slice(0, -1) for _ in range(squeezed.hidden.ndim))]
    return inner.reshape(primary.shape)


def cells_of(
    where: NDArray[np.int64],
    who: NDArray[np.int64],
    contributions: Floats,
    amounts: Floats,
    shape: tuple[int, ...],
    *,
    counted: bool = True,
) -> Cells:
    """Return the cells of records: record i is person ``who[i]``'s, in cell ``where[i]`` of the flat table.

    Parameters
    ----------
    where, who
        Int64 [records]; persons are numbered in any way.
    contributions
        What is summed, float64 [numbers, records].
    amounts
        The same in a unit whose zero is the column's own, since dominance is about size.
    """
    size, numbers = int(np.prod(shape)), contributions.shape[0]
    order = np.lexsort((who, where))
    where, who, amounts, contributions = where[order], who[order], amounts[:, order], contributions[:, order]
    first = np.ones(where.size, bool)
    first[1:] = (where[1:] != where[:-1]) | (who[1:] != who[:-1])
    starts = np.flatnonzero(first)
    cell = where[starts]  # of each person in each cell, ascending
    people = np.bincount(cell, minlength=size)
    rank = np.arange(cell.size) - (np.cumsum(people) - people)[cell]
    values, absolute, largest = (
        np.zeros((numbers, size)),
        np.zeros((numbers, size)),
        np.zeros((numbers, 2, size)),
    )
    for number in range(numbers):
        own = np.abs(np.add.reduceat(amounts[number], starts)) if starts.size else np.zeros(0)
        values[number] = np.bincount(where, weights=contributions[number], minlength=size)
        absolute[number] = np.bincount(cell, weights=own, minlength=size)
        ranked = own[np.lexsort((-own, cell))]
        for place in (0, 1):
            largest[number, place, cell[rank == place]] = ranked[rank == place]
    return Cells(
        cohort=int(np.unique(who).size),
        people=people.reshape(shape),
        values=values.reshape(numbers, *shape),
        absolute=absolute.reshape(numbers, *shape),
        largest=largest.reshape(numbers, 2, *shape),
        counted=counted,
    )
