"""What a readiness report keeps of one column, and says of it.

Rules
-----
1. Findings are counted by their codes; a code that this module has no words for is told as it is.
2. Bins are cut from the contract: numbers between their bounds, lengths up to twice their limit.
3. A unit is *doubtful* where at least half of a column's numbers are out of range, and nine tenths of those
   would be within if multiplied by one power of ten, the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from plasmid.data.parsing import to_numbers, to_text
from plasmid.data.readiness.small_counts import BEYOND, FEWEST, Bins, Count, Distinct, People, Shown
from plasmid.data.transforms._digests import row_digests
from plasmid.recipes.columns import AnyColumn, NumberColumn, ProteinColumn, TextColumn

Bools = npt.NDArray[np.bool_]

UNIT_DOUBTFUL = "notice.unit_doubtful"
MOSTLY_MISSING = "notice.mostly_missing"
TOO_LONG = "notice.longer_than_model"

_CHARACTERS_PER_TOKEN = 4
_FACTORS = np.array([1e-6, 1e-3, 1e-2, 0.1, 10.0, 1e2, 1e3, 1e6])
_WORDS = {
    "data.missing_value": "missing, which the contract refuses",
    "data.residue_invalid": "with a letter that is not one of the 20 amino acids",
    "data.too_long": "longer than the contract takes",
    "data.label_unknown": "not one of the task's labels",
    "data.residue_label_unknown": "with a letter that is not one of the task's labels",
    "data.residue_labels_length": "not as long as their sequence",
    "data.not_a_number": "not a number",
    "data.number_out_of_bounds": "out of range",
    "data.code_unmapped": "that the view's mapping does not list",
    "data.date_unreadable": "not a date in the mapping's format",
    "notice.cut": "cut to the contract's length",
    "notice.unseen": "outside the vocabulary",
    UNIT_DOUBTFUL: "out of range that one power of ten would bring within: is the unit right?",
    MOSTLY_MISSING: "missing, more than half of all",
    TOO_LONG: "longer than the model reads",
}


class ColumnReadiness:
    """What is kept of a column: counts, and a histogram of one value for each person."""

    def __init__(self, column: AnyColumn) -> None:
        self._column = column
        self._values, self._missing, self._long = Count(), Count(), Count()
        self._findings: dict[str, Count] = {}
        self._distinct = Distinct()
        self._numbers = 0
        self._outside = Count()
        self._fits = np.zeros(len(_FACTORS), np.int64)
        self._bins: Bins | None = None
        self._limit = 0
        match column:
            case NumberColumn():
                self._bins = Bins(np.linspace(*column.bounds, 51)[1:].tolist())
            case ProteinColumn():
                self._limit = column.max_length
            case TextColumn():
                self._limit = column.max_length * _CHARACTERS_PER_TOKEN
        if self._limit:
            self._bins = Bins([self._limit * step / 20 for step in range(1, 41)])

    def feed(self, raw: pa.Array, valid: pa.Array, refused: Bools, people: People, first: Bools) -> None:
        """Take cells before and after validation.

        Parameters
        ----------
        refused
            Cells that an error was found in.
        people, first
            The number of each row's person, and whether the row is the person's first.
        """
        self._values.add(people)
        missing = np.asarray(pc.is_null(valid)) & ~refused
        self._missing.add(people[missing])
        there = valid.drop_null()
        if len(there) and not self._distinct.full:
            self._distinct.add(row_digests([pc.unique(there)], b"")[:, 0])
        if isinstance(self._column, NumberColumn):
            self._feed_numbers(np.array(to_numbers(raw).fill_null(np.nan)), people, first)
        elif self._bins is not None:
            lengths = np.array(pc.utf8_length(to_text(raw)).cast(pa.float64()).fill_null(np.nan))
            lengths[missing] = np.nan
            self._bins.add(lengths[first])
            self._long.add(people[lengths > self._limit])

    def find(self, code: str, people: People) -> None:
        """Count a finding in the rows of *people*."""
        self._findings.setdefault(code, Count()).add(people)

    def problems(self) -> Iterator[tuple[str, Shown, str]]:
        """Yield ``(code, count, words)`` of what is to be told."""
        for code, count in self.findings():
            if count.rows:
                yield code, count.shown, _WORDS.get(code, f"with the finding {code}")

    def findings(self) -> list[tuple[str, Count]]:
        """Return what was found, by code: what validation found, and what this module did."""
        found = sorted(self._findings.items())
        if 2 * self._missing.rows > self._values.rows:
            found.append((MOSTLY_MISSING, self._missing))
        many = 2 * self._outside.rows >= self._numbers and len(self._outside.people) >= FEWEST
        if many and self._fits.max() >= 0.9 * self._outside.rows:
            found.append((UNIT_DOUBTFUL, self._outside))
        if self._long.rows and not isinstance(self._column, ProteinColumn):
            found.append((TOO_LONG, self._long))
        return found

    def as_json(self) -> dict[str, Any]:
        """Return what may be shown."""
        shown: dict[str, Any] = {
            "type": self._column.type,
            "missing": self._missing.shown,
            "findings": {code: count.shown for code, count in self.findings() if count.rows},
        }
        if self._column.type != "identifier":
            shown["distinct"] = self._distinct.shown
        if self._bins is not None:
            shown["quantiles" if not self._limit else "length_quantiles"] = self._bins.quantiles()
        return shown | ({"limit": self._limit} if self._limit else {})

    def length_sentence(self, name: str) -> str | None:
        """Return how long the inputs are beside what the model reads, or None where too few are known."""
        found = self._bins.quantiles() if self._bins is not None and self._limit else {}
        if "50" not in found or "95" not in found:
            return None
        half, most = (f"at most {found[p]:g}" if found[p] != BEYOND else BEYOND for p in ("50", "95"))
        unit = "residues" if isinstance(self._column, ProteinColumn) else "characters"
        reads = f"the model reads about {self._limit}"
        return f"column {name!r}: half are {half} {unit} long, 95 in 100 {most}; {reads}"

    def number_sentence(self, name: str) -> str | None:
        """Return which borders a quarter and three quarters are below; None where too few are known."""
        found = self._bins.quantiles() if isinstance(self._column, NumberColumn) and self._bins else {}
        if "25" not in found or "75" not in found:
            return None
        low, high = self._column.bounds  # type: ignore[union-attr]
        return (
            f"column {name!r}: a quarter are at most {found['25']:g}, three quarters at most {found['75']:g} "
            f"(in bins of {(high - low) / 50:g} from {low:g} to {high:g})"
        )

    def _feed_numbers(self, numbers: npt.NDArray[np.float64], people: People, first: Bools) -> None:
        assert isinstance(self._column, NumberColumn)
        assert self._bins is not None
        low, high = self._column.bounds
        known = np.isfinite(numbers)
        outside = known & ((numbers < low) | (numbers > high))
        self._numbers += int(known.sum())
        self._outside.add(people[outside])
        scaled = numbers[outside][:, None] * _FACTORS
        self._fits += ((scaled >= low) & (scaled <= high)).sum(axis=0)
        self._bins.add(numbers[first & known & ~outside])
