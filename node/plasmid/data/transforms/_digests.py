"""Digests of rows, and a set of them that takes 16 bytes a row.

Rules
-----
1. A row's digest is 128 bits of BLAKE2b, keyed: equal rows of equal types have equal digests, other rows
   don't (among 10**9 rows with probability 10**-21).
2. Cells are joined with their lengths in bytes, so that no two rows are written alike; a missing cell is
   written as no value can be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Digests = npt.NDArray[np.uint64]
"""Shape (rows, 2)."""


def row_digests(columns: Sequence[pa.Array], key: bytes) -> Digests:
    """Return the digests of the rows that *columns*, one at least and of equal length, make.

    Parameters
    ----------
    key
        At most 64 bytes.
    """
    written = []
    for column in columns:
        cells = column.cast(pa.string()).cast(pa.binary())
        lengths = pc.binary_length(cells).cast(pa.string()).cast(pa.binary())
        cell = pc.binary_join_element_wise(lengths, cells, b":")
        written.append(pc.fill_null(cell, b"-"))
    rows = pc.binary_join_element_wise(*written, b",").to_pylist()
    digest = hashlib.blake2b
    joined = b"".join([digest(row, digest_size=16, key=key).digest() for row in rows])
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)


class DigestSet:
    """A set of digests: sorted runs, merged as they grow, so that a look-up is a few binary searches."""

    def __init__(self) -> None:
        self._runs: list[Digests] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Add *digests* and return, for each, whether it is the first of its kind."""
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        ordered = digests[order]
        # lexsort is stable: the first of equal digests is the first in the batch.
        fresh = np.ones(len(ordered), bool)
        fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        for run in self._runs:
            fresh[fresh] = ~_contains(run, ordered[fresh])
        self._insert(ordered[fresh])
        first = np.zeros(len(digests), bool)
        first[order] = fresh
        return first

    def _insert(self, run: Digests) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            both = np.concatenate([self._runs.pop(), run])
            run = both[np.lexsort((both[:, 1], both[:, 0]))]
        if len(run):
            self._runs.append(run)


def _contains(run: Digests, wanted: Digests) -> npt.NDArray[np.bool_]:
    at = np.searchsorted(run[:, 0], wanted[:, 0])
    found = np.zeros(len(wanted), bool)
    left = np.flatnonzero(at < len(run))
    while left.size:  # more than once only where two digests agree in 64 bits
        here = run[at[left]]
        same = here[:, 0] == wanted[left, 0]
        equal = same & (here[:, 1] == wanted[left, 1])
        found[left[equal]] = True
        left = left[same & ~equal]
        at[left] += 1
        left = left[at[left] < len(run)]
    return found
