"""Is a view fit for a document? Counts and sentences about its rows, without anything that identifies one.

Rules
-----
1. Numbers are shown as :mod:`plasmid.data.readiness.small_counts` allows: masked below 11 people, rounded, in
   bins and classes. No cell is in a report; what it names is the contract's (columns, labels) or fixed in the
   source.
2. Batches are read once. Of the first :data:`EXACT_ROWS` rows, 16 bytes are kept for each person, row, input,
   and pair of input and label; of a count, 11 people; of inputs, :data:`NEAR_ROWS` on each side of the split.
3. Quantiles are over people: of each, the first row.
4. A view is *not ready* where a computation would be refused or has nothing to work with; a *notice* is what
   its owner should know and may accept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from plasmid.data.readiness.column import ColumnReadiness
from plasmid.data.readiness.near_duplicates import near_pairs_across
from plasmid.data.readiness.small_counts import FEW, Count, People, Shown, Tally, shown
from plasmid.data.transforms._digests import DigestSet, row_digests
from plasmid.recipes.columns import Contract, NumberColumn, ProteinColumn, ResidueLabelsColumn

EXACT_ROWS = 5_000_000
NEAR_ROWS = 50_000
NEAR_THRESHOLD = 0.8

Verdict = Literal["ready", "ready with notices", "not ready"]
Findings = Mapping[str, Mapping[Any, npt.NDArray[np.bool_]]]
_ROWS_EACH = {"1": 1, "2": 2, "3-5": 5, "6-10": 10, "11-50": 50, "more": 2**62}


@dataclass(frozen=True)
class Report:
    """What may be shown: JSON values, and the same as sentences.

    Attributes
    ----------
    reasons
        Why a view is not ready, or what its notices are, the former first.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    sentences: tuple[str, ...]
    values: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        told = {"verdict": self.verdict, "reasons": list(self.reasons), "sentences": list(self.sentences)}
        return {**told, **self.values}


@dataclass(frozen=True)
class Roles:
    """Which column is what; None where there is none."""

    input: str | None = None
    label: str | None = None
    patient: str | None = None


class Readiness:
    """Takes batches, then reports.

    Parameters
    ----------
    contract
        The document's.
    key
        At most 64 bytes, for digests that stay in this object.
    leaves_out
        Rows with a problem, which the report counts like all others, are left out of runs: it is a notice.
    """

    def __init__(self, contract: Contract, roles: Roles, key: bytes, *, leaves_out: bool = False) -> None:
        self._leaves_out = leaves_out
        self._contract, self._roles, self._key = contract, roles, key
        self._columns = {name: ColumnReadiness(column) for name, column in contract.columns.items()}
        self._all = Count()
        self._persons, self._each = DigestSet(), Tally()
        self._seen, self._inputs, self._pairs = DigestSet(), DigestSet(), DigestSet()
        self._repeated, self._conflicting = Count(), Count()
        self._labels = {label: Count() for label in contract.labels if roles.label is not None}
        self._unlabelled = Count()
        self._sides: tuple[list[str], list[str]] = ([], [])
        self._held_out: list[int] = []

    def feed(
        self,
        raw: pa.RecordBatch,
        valid: pa.RecordBatch,
        findings: Findings,
        held_out: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Take the next rows.

        Parameters
        ----------
        raw, valid
            The same rows before and after validation, under the contract's column names. Columns that are not
            there are null.
        findings
            Column -> code -> bool [rows], where it was found. Codes begin with ``data.``, where the row is
            refused, or ``notice.``.
        held_out
            Which rows are never trained on; None where there is no split.
        """
        if not valid.num_rows:
            return
        here = [name for name in self._columns if name in valid.schema.names]
        people, first = self._people(valid)
        for name in here:
            refused = np.zeros(valid.num_rows, bool)
            for code, mask in findings.get(name, {}).items():
                self._columns[name].find(str(code), people[mask])
                refused |= mask & code.startswith("data.")
            cells = raw.column(name) if name in raw.schema.names else valid.column(name)
            self._columns[name].feed(cells, valid.column(name), refused, people, first)
        if self._all.rows <= EXACT_ROWS:
            self._repeats(valid, here, people)
        self._count_labels(valid, people)
        self._split(valid, held_out, people)
        self._all.add(people)

    def report(self) -> Report:
        """Return the report on the rows up to now."""
        near = self._near()
        values: dict[str, Any] = {
            "rows": self._all.shown,
            "columns": {name: column.as_json() for name, column in self._columns.items()},
            "labels": {label: count.shown for label, count in self._labels.items()},
            "repeated_rows": self._repeated.shown,
            "conflicting_rows": self._conflicting.shown,
        }
        if self._roles.patient is not None:
            values["people"] = shown(len(self._persons), len(self._persons))
            values["rows_per_person"] = self._rows_per_person()
        if near is not None:
            values["near_duplicates"] = {
                "held_out_rows": near[0].shown,
                "near": near[1].shown,
                "threshold": NEAR_THRESHOLD,
            }
        if self._all.rows > EXACT_ROWS:
            values["people_and_repeats_of_first_rows"] = EXACT_ROWS
        errors, notices = list(self._errors()), list(self._notices(near))
        verdict: Verdict = "not ready" if errors else "ready with notices" if notices else "ready"
        return Report(verdict, (*errors, *notices), tuple(self._sentences(values)), values)

    def _people(self, valid: pa.RecordBatch) -> tuple[People, npt.NDArray[np.bool_]]:
        """Return a number for the person of each row, and whether the row is the person's first."""
        rows = np.arange(self._all.rows, self._all.rows + valid.num_rows).astype(np.uint64)
        name = self._roles.patient
        if name is None or name not in valid.schema.names:
            return rows, np.ones(len(rows), bool)
        digests = row_digests([valid.column(name)], self._key).copy()
        unknown = np.asarray(pc.is_null(valid.column(name)))
        digests[unknown] = rows[unknown, None]
        if self._all.rows > EXACT_ROWS:
            return digests[:, 0], np.zeros(len(rows), bool)
        self._each.add(digests[:, 0])
        return digests[:, 0], self._persons.add(digests)

    def _repeats(self, valid: pa.RecordBatch, here: Sequence[str], people: People) -> None:
        fresh = self._seen.add(row_digests([valid.column(name) for name in here], self._key))
        self._repeated.add(people[~fresh])
        if self._roles.input in here and self._roles.label in here:
            pair = [valid.column(self._roles.input), valid.column(self._roles.label)]
            whole = pc.and_(pc.is_valid(pair[0]), pc.is_valid(pair[1]))
            pair = [column.filter(whole) for column in pair]
            new_input = self._inputs.add(row_digests(pair[:1], self._key))
            new_pair = self._pairs.add(row_digests(pair, self._key))
            self._conflicting.add(people[np.asarray(whole)][~new_input & new_pair])

    def _count_labels(self, valid: pa.RecordBatch, people: People) -> None:
        name = self._roles.label
        if name is not None and name in valid.schema.names:
            labels, any_label = valid.column(name), np.zeros(valid.num_rows, bool)
            by_residue = isinstance(self._contract.columns[name], ResidueLabelsColumn)
            for label, count in self._labels.items():
                there = pc.match_substring(labels, label) if by_residue else pc.equal(labels, label)
                mask = np.asarray(pc.fill_null(there, False))
                any_label |= mask
                count.add(people[mask])
            if by_residue:
                self._unlabelled.add(people[~any_label])

    def _split(self, valid: pa.RecordBatch, held_out: npt.NDArray[np.bool_] | None, people: People) -> None:
        if held_out is None or self._roles.input not in valid.schema.names:
            return
        there = np.asarray(pc.is_valid(valid.column(self._roles.input)))
        for side, mask in zip(self._sides, (there & ~held_out, there & held_out), strict=True):
            rows = np.flatnonzero(mask)[: NEAR_ROWS - len(side)]
            side.extend(valid.column(self._roles.input).take(pa.array(rows)).to_pylist())
            if side is self._sides[1]:
                self._held_out.extend(people[rows].tolist())

    def _near(self) -> tuple[Count, Count] | None:
        """Return the held-out rows that were looked at, and those of them that are near one trained on."""
        left, right = self._sides
        if not right or self._roles.input is None:
            return None
        looked_at, near = Count(), Count()
        people = np.array(self._held_out, np.uint64)
        looked_at.add(people)
        is_sequence = isinstance(self._contract.columns[self._roles.input], ProteinColumn)
        kind: Literal["sequence", "text"] = "sequence" if is_sequence else "text"
        found = near_pairs_across(left, right, kind=kind, threshold=NEAR_THRESHOLD)
        near.add(people[list(found.rows)])
        return looked_at, near

    def _rows_per_person(self) -> dict[str, Shown]:
        counts = self._each.counts()
        bins = np.searchsorted(list(_ROWS_EACH.values()), counts, side="left")
        people = np.bincount(bins, minlength=len(_ROWS_EACH)).tolist()
        return {name: shown(count, count) for name, count in zip(_ROWS_EACH, people, strict=True)}

    def _errors(self) -> Iterator[str]:
        if not self._all.rows:
            yield "there are no rows"
        elif self._all.shown == FEW:
            yield f"there are rows of {FEW} people"
        if self._all.rows > self._contract.max_rows and not self._leaves_out:
            yield f"there are more than the {self._contract.max_rows} rows that the contract takes"
        present = [label for label, count in self._labels.items() if count.rows]
        if len(self._labels) > 1 and self._all.rows and len(present) < 2:
            yield "rows of one label, or none, cannot be told apart"
        if not self._leaves_out:
            yield from self._found("data.")

    def _notices(self, near: tuple[Count, Count] | None) -> Iterator[str]:
        if self._leaves_out:
            yield from (f"{found}: those rows are left out" for found in self._found("data."))
        yield from self._found("notice.")
        for label, count in self._labels.items():
            if count.shown in (0, FEW):
                yield f"label {label!r} has {count.shown} rows or people"
        if self._unlabelled.rows:
            yield f"{self._unlabelled.shown} rows have no labelled residue, and teach nothing"
        if self._one_bin():
            yield f"column {self._roles.label!r}: nine in ten numbers are alike; is there something to learn?"
        if self._repeated.rows:
            yield f"{self._repeated.shown} rows repeat an earlier one"
        if self._conflicting.rows:
            yield f"{self._conflicting.shown} rows have the input of an earlier one and another label"
        if near is not None and near[1].rows:
            yield f"{near[1].shown} held-out rows have a near-duplicate among those trained on"

    def _one_bin(self) -> bool:
        """Return whether the label is a number of which the 5th and the 95th percentile share a bin."""
        label = self._roles.label
        if label is None or not isinstance(self._contract.columns.get(label), NumberColumn):
            return False
        found = self._columns[label].as_json()["quantiles"]
        return "5" in found and found["5"] == found.get("95")

    def _found(self, family: str) -> Iterator[str]:
        for name, column in self._columns.items():
            for code, count, words in column.problems():
                if code.startswith(family):
                    yield f"column {name!r}: {count} values {words}"

    def _sentences(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield f"{values['rows']} rows" + (f" of {values['people']} people" if "people" in values else "")
        for name, column in self._columns.items():
            if (missing := values["columns"][name]["missing"]) != 0:
                yield f"column {name!r}: {missing} values missing"
            if (length := column.length_sentence(name)) is not None:
                yield length
            if name == self._roles.label and (spread := column.number_sentence(name)) is not None:
                yield spread
        if self._labels:
            yield "rows by label: " + ", ".join(
                f"{label} {count}" for label, count in values["labels"].items()
            )
