"""Complementary suppression: which further cells of a table must stay away so that sums give none away.

A table that shows all cells but one, and its margins, shows that one too. Who asks for the table may ask for
its margins in a query of their own; so they count as known wherever the same rules would release them.

Rules
-----
1. The table is extended by its totals along every axis. All tables of totals are decided first, from the
   grand total down to the table itself, by the rule that holds for the table: a *primary* cell of totals is
   one of 1 to ``least`` - 1.
2. Along every line of the extended table the cells add up to the line's total. A change that keeps all these
   sums and every published number is one that an attacker cannot exclude.
3. **Certificate.** For every primary cell of every table, changes are exhibited that raise it to ``least``,
   and others that lower it to the smallest value that a suppressed cell may have (1 where zeros are shown,
   else 0): whoever solves for it with all published numbers can tell neither that it is small nor that it is
   not. A primary cell that is not small (one that a person dominates) is lowered by ``least`` at most. The
   changes are made of hypercubes (a cell and one opposite to it, differing along every axis; Repsilber 1994,
   Giessing 1999), one after the other.
4. The cells of those hypercubes that would be published are suppressed instead, those with the smallest
   counts first. Where no certificate is found, the whole table at hand is suppressed: it then tells nothing
   that its totals do not tell, and no later table may tell more.
5. Deterministic: the same table gives the same pattern.

Source: Hundepool et al., Statistical Disclosure Control (2012), chapter 4. The certificate is sufficient, not
necessary: an optimal pattern, by integer programming, may suppress less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]
Index = tuple[int, ...]

_CHANGES = 32
"""Most hypercubes in one certificate."""
_UNBOUNDED = np.iinfo(np.int64).max // 4


@dataclass(frozen=True)
class Extended:
    """A table with its totals as the last position of every axis.

    Attributes
    ----------
    values
        Counts.
    primary
        What must not be told.
    hidden
        What is not published, *primary* included.
    floor
        The smallest value that an attacker must reckon with in a hidden cell.
    """

    values: Counts
    primary: Mask
    hidden: Mask
    floor: Counts


def protect(counts: Counts, primary: Mask, *, least: int, zeros_shown: bool) -> Extended:
    """Return what may be published of *counts*, int64 [a], [a, b] or [a, b, c], each axis at least 2 long."""
    values = np.asarray(counts, np.int64)
    for axis in range(values.ndim):
        values = np.concatenate([values, values.sum(axis=axis, keepdims=True)], axis=axis)
    small = (values < least) & ((values > 0) | (not zeros_shown))
    small[tuple(slice(0, -1) for _ in counts.shape)] = primary
    table = Extended(values, small, np.ones(values.shape, bool), np.zeros(values.shape, np.int64))
    needs: dict[Index, tuple[int, int]] = {}
    for level in _levels(values.shape):
        table.hidden[level] = small[level]
        table.floor[level] = int(zeros_shown)
        mine = _needs(table, level, least)
        may_hide = level & ((values > 0) | (not zeros_shown))
        if all(_certify(table, may_hide, at, need) for at, need in (needs | mine).items()):
            needs |= mine
        else:
            table.hidden[level] = True
            table.floor[level] = 0
            needs |= {at: _most(table, at, need) for at, need in _needs(table, level, least).items()}
    return table


def _needs(table: Extended, level: Mask, least: int) -> dict[Index, tuple[int, int]]:
    """Return how far each primary cell of *level* must be raised and lowered, the smallest first."""
    targets = np.argwhere(table.primary & level)
    values, floors = table.values[tuple(targets.T)], table.floor[tuple(targets.T)]
    ups = np.maximum(least - values, 0)
    downs = np.minimum(values - floors, least)
    order = np.argsort(values, kind="stable")
    return {tuple(map(int, targets[i])): (int(ups[i]), int(downs[i])) for i in order}


def _levels(shape: Index) -> Iterator[Mask]:
    """Yield where every table of totals is, from the grand total to the table itself."""
    axes = range(len(shape))
    for size in range(len(shape) + 1):
        for kept in combinations(axes, size):
            level = np.zeros(shape, bool)
            level[tuple(slice(0, -1) if axis in kept else slice(-1, None) for axis in axes)] = True
            yield level


def _certify(table: Extended, may_hide: Mask, target: Index, need: tuple[int, int]) -> bool:
    """Hide what *target* needs to be uncertain; return False if that cannot be found."""
    if _most(table, target, need) == need:
        return True
    room = table.values - table.floor
    cubes = _Cubes(table, may_hide, target)
    raised, lowered = cubes.steps(room)
    both = cubes.cheapest((raised >= need[0]) & (lowered >= need[1]))
    if both is not None:
        cubes.hide(both)
        return True
    moved = (cubes.change(room.copy(), need[0], sign=1), cubes.change(room.copy(), need[1], sign=-1))
    return moved == need


def _most(table: Extended, target: Index, need: tuple[int, int]) -> tuple[int, int]:
    """Return how much of *need* there is with what is hidden anyway."""
    room = table.values - table.floor
    cubes = _Cubes(table, np.zeros(room.shape, bool), target)
    return cubes.change(room.copy(), need[0], sign=1), cubes.change(room.copy(), need[1], sign=-1)


class _Cubes:
    """All hypercubes with one corner at *target*, by the opposite corner, as arrays of the table's shape."""

    def __init__(self, table: Extended, may_hide: Mask, target: Index) -> None:
        self._table, self._may_hide, self._target = table, may_hide, target
        shape = table.values.shape
        self._flips = [flips for flips in product((False, True), repeat=len(shape)) if any(flips)]
        opposite = np.ones(shape, bool)
        signs: list[Counts] = []
        for axis, (length, at) in enumerate(zip(shape, target, strict=True)):
            sign = np.full(length, -1)  # a cell of a line moves against another one, and with the total
            sign[-1] = 1
            if at == length - 1:
                sign[:] = 1
            signs.append(sign.reshape([-1 if other == axis else 1 for other in range(len(shape))]))
            opposite[tuple(at if other == axis else slice(None) for other in range(len(shape)))] = False
        self._opposite = opposite
        self._signs = {
            flips: np.prod(
                np.broadcast_arrays(*(sign for sign, flip in zip(signs, flips, strict=True) if flip)), axis=0
            )
            for flips in self._flips
        }

    def _corner(self, array: NDArray[Any], flips: tuple[bool, ...]) -> NDArray[Any]:
        """Return *array* at one corner of every hypercube: of the opposite along the flipped axes."""
        at = zip(flips, self._target, strict=True)
        return array[tuple(slice(None) if flip else slice(here, here + 1) for flip, here in at)]

    def steps(self, room: Counts) -> tuple[Counts, Counts]:
        """Return how far each hypercube may raise and lower the target; 0 for one that may not be used."""
        usable = self._opposite.copy()
        allowed = self._table.hidden | self._may_hide
        raised = np.full(usable.shape, _UNBOUNDED)
        lowered = np.full(usable.shape, int(room[self._target]))
        for flips in self._flips:
            usable &= self._corner(allowed, flips)
            here, sign = self._corner(room, flips), self._signs[flips]
            np.minimum(raised, np.where(sign < 0, here, _UNBOUNDED), out=raised)
            np.minimum(lowered, np.where(sign > 0, here, _UNBOUNDED), out=lowered)
            usable &= here >= 0
        return np.where(usable, raised, 0), np.where(usable, lowered, 0)

    def cheapest(self, candidates: Mask) -> Index | None:
        """Return the opposite corner that hides the smallest counts among *candidates*, None without any."""
        if not candidates.any():
            return None
        cost = np.zeros(candidates.shape, np.int64)
        shown = np.where(self._table.hidden, 0, self._table.values + 1)
        for flips in self._flips:
            cost = cost + self._corner(shown, flips)
        return self._unravel(int(np.where(candidates, cost, _UNBOUNDED).argmin()))

    def change(self, room: Counts, need: int, *, sign: int) -> int:
        """Move the target up or down by at most *need*, hiding what that takes; return by how much."""
        moved = 0
        for _ in range(_CHANGES):
            step = self.steps(room)[0 if sign > 0 else 1]
            taken = min(need - moved, int(step.max()))
            if taken <= 0:
                break
            chosen = self.cheapest(step >= taken)
            assert chosen is not None, "the largest step is a candidate"
            self.hide(chosen)
            room[self._target] += sign * taken
            for flips in self._flips:
                signs = np.broadcast_to(self._signs[flips], self._opposite.shape)
                room[self._at(chosen, flips)] += sign * taken * int(signs[chosen])
            moved += taken
        return moved

    def hide(self, opposite: Index) -> None:
        """Suppress every corner."""
        for flips in self._flips:
            self._table.hidden[self._at(opposite, flips)] = True

    def _at(self, opposite: Index, flips: tuple[bool, ...]) -> Index:
        chosen = zip(flips, opposite, self._target, strict=True)
        return tuple(there if flip else here for flip, there, here in chosen)

    def _unravel(self, flat: int) -> Index:
        return tuple(map(int, np.unravel_index(flat, self._opposite.shape)))
