"""Whoever solves for suppressed cells: all published cells and totals, by linear programming."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

Index = tuple[int, ...]


def intervals(
    values: np.ndarray, hidden: np.ndarray, floor: np.ndarray, cells: Iterable[Index]
) -> list[tuple[float, float]]:
    """Return the smallest and the largest value that each of *cells* may have.

    Parameters
    ----------
    values
        A table extended by its totals, the last position of every axis.
    hidden
        What the attacker was not told.
    floor
        The smallest value of a hidden cell that he reckons with.
    """
    unknown = {tuple(map(int, at)): number for number, at in enumerate(np.argwhere(hidden))}
    entries: list[tuple[int, int, float]] = []
    right: list[float] = []
    for axis, length in enumerate(values.shape):
        others = [range(size) for number, size in enumerate(values.shape) if number != axis]
        for rest in itertools.product(*others):
            known, line = 0.0, len(right)
            for place in range(length):
                at, sign = (*rest[:axis], place, *rest[axis:]), -1.0 if place == length - 1 else 1.0
                if at in unknown:
                    entries.append((line, unknown[at], sign))
                else:
                    known += sign * float(values[at])
            right.append(-known)
    found: list[tuple[float, float]] = []
    if not entries:
        return found
    rows, columns, signs = zip(*entries, strict=True)
    matrix = csr_array((signs, (rows, columns)), shape=(len(right), len(unknown)))
    for cell in cells:
        cost = np.zeros(len(unknown))
        cost[unknown[cell]] = 1.0
        ends = []
        for sign in (1.0, -1.0):
            solved = linprog(
                sign * cost, A_eq=matrix, b_eq=right, bounds=[(low, None) for low in floor[hidden]]
            )
            assert solved.status in (0, 3), solved.message  # 3: unbounded
            ends.append(sign * solved.fun if solved.status == 0 else np.inf)
        found.append((ends[0], ends[1]))
    return found
