"""What numbers about a site's people may look like in a report.

Rules
-----
1. A count of rows that belong to fewer than 11 people is shown as ``"<11"``; none is 0. Any other is rounded
   to tens, from 10 000 on to three digits.
2. A quantile is the upper border of a bin that was fixed before the data were seen, never a value; it is
   shown only where at least 11 people are in the bin or below it, and 11 in it or above. Minimum and maximum
   are single people's and are never shown.
3. How many different values there are is shown as a class.

Ten is the largest cell that the cell-size policies of CMS and of many registries suppress. Rounding makes a
change of one row invisible but where it crosses a border; it is no differential privacy, and a report is the
owner's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FEWEST = 11
FEW = f"<{FEWEST}"
BEYOND = "beyond the bins"
Shown = int | str
People = npt.NDArray[np.uint64]


def rounded(count: int) -> int:
    """Return *count* rounded to tens, from 10 000 on to three digits, halves up."""
    unit = int(10 ** max(1, len(str(count)) - 3))
    return (count + unit // 2) // unit * unit


def shown(count: int, people: int) -> Shown:
    """Return how *count* rows of *people* people (what is above 10 is alike) are shown."""
    if count == 0:
        return 0
    return rounded(count) if people >= FEWEST else FEW


@dataclass
class Count:
    """Rows, and whether they are those of at least 11 people: no more than 11 of them are remembered."""

    rows: int = 0
    people: set[int] = field(default_factory=set)

    def add(self, people: People) -> None:
        """Count the rows whose people are *people*."""
        self.rows += len(people)
        if len(self.people) < FEWEST:
            self.people.update(np.unique(people)[: 2 * FEWEST].tolist())

    @property
    def shown(self) -> Shown:
        """The count as it may be seen."""
        return shown(self.rows, len(self.people))


class Distinct:
    """How many different values there are, exactly up to a thousand and as ``>1000`` beyond."""

    _CAP = 1000

    def __init__(self) -> None:
        self._seen: set[int] = set()

    @property
    def full(self) -> bool:
        """True when more values would change nothing."""
        return len(self._seen) > self._CAP

    def add(self, digests: npt.NDArray[np.uint64]) -> None:
        """Add the digests of values."""
        if not self.full:
            self._seen.update(np.unique(digests)[: self._CAP + 1].tolist())

    @property
    def shown(self) -> str:
        """The class of the count."""
        for high, name in ((0, "0"), (1, "1"), (2, "2"), (10, "3-10"), (100, "11-100"), (1000, "101-1000")):
            if len(self._seen) <= high:
                return name
        return ">1000"


class Bins:
    """A histogram of one number for each person, over borders that do not depend on the data.

    Parameters
    ----------
    borders
        Ascending; values above the last are in a bin of their own.
    """

    def __init__(self, borders: Sequence[float]) -> None:
        self._borders = np.asarray(borders, np.float64)
        self._counts = np.zeros(len(borders) + 1, np.int64)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Add one value for each of some people."""
        places = np.searchsorted(self._borders, values[np.isfinite(values)], side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))

    def quantiles(self) -> dict[str, float | str]:
        """Return share of people in percent -> border, or :data:`BEYOND`; only those that may be shown."""
        below = np.cumsum(self._counts)
        total = int(below[-1])
        found: dict[str, float | str] = {}
        for percent in (5, 25, 50, 75, 95):
            place = int(np.searchsorted(below, total * percent / 100, side="left"))
            above = total - (int(below[place - 1]) if place else 0)
            if min(int(below[place]), above) >= FEWEST:
                last = place == len(self._borders)
                found[str(percent)] = BEYOND if last else float(self._borders[place])
        return found


class Tally:
    """How often each of many keys was seen: 16 bytes a key, and a million new ones before they are merged."""

    _BUFFER = 1_000_000

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)
        self._new: list[npt.NDArray[np.uint64]] = []

    def add(self, keys: npt.NDArray[np.uint64]) -> None:
        """Count *keys*."""
        self._new.append(keys)
        if sum(map(len, self._new)) > self._BUFFER:
            self.counts()

    def counts(self) -> npt.NDArray[np.int64]:
        """Return how often each key was seen, in no order that means anything."""
        keys = np.concatenate([self._keys, *self._new])
        weights = np.concatenate([self._counts, np.ones(len(keys) - len(self._keys), np.int64)])
        self._keys, places = np.unique(keys, return_inverse=True)
        self._counts = np.bincount(places, weights, len(self._keys)).astype(np.int64)
        self._new = []
        return self._counts
