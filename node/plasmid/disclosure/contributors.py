"""What the rules against disclosure need to know of one site's records beside their sum. It stays there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.disclosure.cells import Cells, Floats, cells_of


@dataclass(frozen=True)
class Evidence:
    """Where each record is, whose it is, and who is large in each cell.

    Attributes
    ----------
    where, keys
        Of each record: its cell in the flat table, int64, and the keyed hash of its person, uint64 [records].
    cohort, people, absolute, largest
        As in :class:`Cells`.
    """

    where: NDArray[np.int64]
    keys: NDArray[np.uint64]
    cohort: int
    people: NDArray[np.int64]
    absolute: Floats
    largest: Floats

    @classmethod
    def of(cls, where: NDArray[np.int64], keys: NDArray[np.uint64], amounts: Floats, cells: int) -> Evidence:
        """Return the evidence of records that contribute *amounts*, float64 [numbers, records]."""
        found = cells_of(where, keys.view(np.int64), amounts, amounts, (cells,))
        return cls(where, keys, found.cohort, found.people, found.absolute, found.largest)

    def to_bytes(self) -> bytes:
        """Return all arrays, one after the other."""
        parts = (self.where, self.keys, self.people, self.absolute, self.largest)
        return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray, *, records: int, cells: int, numbers: int) -> Evidence:
        """Return what :meth:`to_bytes` wrote. Raises ValueError if the sizes or the cells don't fit."""
        sizes = (records, records, cells, numbers * cells, 2 * numbers * cells)
        if records < 0 or len(data) != 8 * sum(sizes):
            raise ValueError("not the evidence of so many records")
        kinds = (np.int64, np.uint64, np.int64, np.float64, np.float64)
        parts: list[NDArray[Any]] = []
        at = 0
        for size, kind in zip(sizes, kinds, strict=True):
            parts.append(np.frombuffer(data, kind, size, at))
            at += 8 * size
        where, keys, people, absolute, largest = parts
        if records and not (int(where.min()) >= 0 and int(where.max()) < cells):
            raise ValueError("a record is in no cell")
        return cls(
            where=where,
            keys=keys,
            cohort=int(np.unique(keys).size),
            people=people,
            absolute=absolute.reshape(numbers, cells),
            largest=largest.reshape(numbers, 2, cells),
        )

    def cells(self, vector: Floats, shape: tuple[int, ...], *, counted: bool) -> Cells:
        """Return the cells whose sums are the first part of *vector*."""
        numbers = self.absolute.shape[0]
        return Cells(
            cohort=self.cohort,
            people=self.people.reshape(shape),
            values=vector[: numbers * self.people.size].reshape(numbers, *shape),
            absolute=self.absolute.reshape(numbers, *shape),
            largest=self.largest.reshape(numbers, 2, *shape),
            counted=counted,
        )
