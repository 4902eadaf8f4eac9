"""What is wrong with a table, counted: by column and kind, with where the first one stands.

Rules
-----
1. Problems are told together; the error's code is that of the first one listed. No problem, notice or cause
   ever holds a cell.
2. **Under a privacy unit no row refuses a table**: an error would tell everybody who asks that the row is
   there, and no epsilon covers that. Rows with a problem are left out, and told to the owner alone.
3. A local name is repeated only where it is nearly the name of a column of the contract: a file without a
   header line must not have its first row shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from plasmid.core.errors import DataError
from plasmid.data.parsing import Finding, Mask
from plasmid.data.source import Trouble
from plasmid.recipes.columns import AnyColumn

HINTS = {
    "data.column_missing": "Rename the columns to the contract's names, or map them in the view.",
    "data.column_repeated": "Keep one column of each name.",
    "data.ragged_row": "Give every row as many cells as the header, and quote cells that hold commas.",
    "data.missing_value": "Fill the cells in or leave those rows out.",
    "data.residue_invalid": "Use the 20 one-letter codes; leave out rows with X, *, gaps or other letters.",
    "data.nucleotide_invalid": "Use A, C, G, T (or U) and N; leave out rows with other letters.",
    "data.molecule_characters": "Give SMILES without blanks, extensions and reactions.",
    "data.too_long": "Shorten or leave out those rows, or raise the limit in the recipe.",
    "data.label_unknown": "A label must equal one of the task's labels exactly: '1.0' is not '1'.",
    "data.residue_label_unknown": "Use the letters of the recipe's task.labels, and its sign for none.",
    "data.residue_labels_length": "Give as many letters as the sequence has residues, one for each.",
    "data.not_a_number": "Write decimal numbers, with a point and without units.",
    "data.number_out_of_bounds": "Correct those cells, or the bounds in the recipe.",
    "data.code_unmapped": "List those local values under 'codes' in the view's mapping, or say 'other'.",
    "data.date_unreadable": "Correct those dates, or say their date_format in the view's mapping.",
    "data.date_future": "Correct those dates; a row that is not there yet cannot be trained on.",
    "data.unit_unmapped": "Name the local unit under 'units' of the table in the view, with its UCUM code.",
    "data.unit_unconvertible": "Correct the UCUM codes under 'units', or give a factor for the column value.",
    "data.person_twice": "Map a table or database view that has one row for each person.",
    "data.hierarchy_missing": "Map the table ancestor, or ask for a recipe that lists the codes.",
}

WHAT = {
    "data.date_future": "dated in the future",
    "data.date_unreadable": "with a date that cannot be read",
    "data.unit_unmapped": "in a unit that the view's mapping does not name",
    "data.code_unmapped": "with a value that the view's mapping does not list",
    "data.unit_unconvertible": "in a unit that does not convert to the contract's",
    "data.not_a_number": "with a value that is no number",
    "data.hierarchy_missing": "in a code system whose descendants no mapped table tells",
    "data.person_twice": "of a person who is there already",
}
"""What each count of a cohort's checks is of."""

Locate = Callable[[int], str]


@dataclass
class Tally:
    """Problems and notices: sentences, and counts with the first row by (column, code).

    Attributes
    ----------
    leaves_out
        Rows with a problem are left out; False refuses all for one.
    """

    leaves_out: bool = False
    sentences: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    noted: list[str] = field(default_factory=list)

    @property
    def refuses(self) -> bool:
        """Whether anything found so far is an error."""
        return bool(self.sentences) or (
            not self.leaves_out and any(code.startswith("data.") for _, code in self.counts)
        )

    def problem(self, code: str, sentence: str) -> None:
        """Add a problem that is no row's."""
        self.sentences.append((code, sentence))

    def problem_of_rows(self, code: str, sentence: str) -> None:
        """Add what was counted of rows elsewhere, by the source or a query."""
        if self.leaves_out:
            self.noted.append(sentence)
        else:
            self.problem(code, sentence)

    def add(self, column: str, code: str, mask: Mask, rows: np.ndarray) -> None:
        """Add the rows of *mask* (bool [n]), whose numbers in the source are *rows* (int64 [n])."""
        count = int(np.count_nonzero(mask))
        if count:
            first = int(rows[int(np.argmax(mask))])
            self.counts.setdefault((column, code), [0, first])[0] += count

    def raise_if_errors(
        self, what: str, wanted: Mapping[str, AnyColumn], locate: Locate, troubles: list[Trouble]
    ) -> None:
        """Raise DataError with every problem; *troubles* are those that the source counted itself."""
        found = list(self.sentences)
        if not self.leaves_out:
            ordered = self._ordered(("data.",), wanted)
            found += [(code, self._told(name, code, wanted, locate)) for name, code in ordered]
            found += [(one.code, one.sentence) for one in troubles if one.code.startswith("data.")]
        if not found:
            return
        codes = list(dict.fromkeys(code for code, _ in found))
        hints = [HINTS.get(code, "") for code in codes] + [one.hint for one in troubles]
        raise DataError(
            codes[0],
            "\n  ".join(
                [
                    f"{what} does not meet the data contract ({counted(len(found), 'problem')}):",
                    *(text for _, text in found),
                ]
            ),
            " ".join(dict.fromkeys(hint for hint in hints if hint)),
        )

    def notices(self, wanted: Mapping[str, AnyColumn], locate: Locate) -> tuple[str, ...]:
        """Return what the owner should know, a sentence each."""
        ordered = self._ordered(("notice.", "data.") if self.leaves_out else ("notice.",), wanted)
        return (*self.noted, *(self._told(name, code, wanted, locate) for name, code in ordered))

    def _ordered(self, families: tuple[str, ...], wanted: Mapping[str, AnyColumn]) -> list[tuple[str, str]]:
        """Return the keys of *families* by the row of the first one, then in the contract's order."""
        places = {name: place for place, name in enumerate(wanted)}
        keys = [key for key in self.counts if key[1].startswith(families)]
        return sorted(keys, key=lambda key: (self.counts[key][1], places.get(key[0], 0)))

    def _told(self, name: str, code: str, wanted: Mapping[str, AnyColumn], locate: Locate) -> str:
        count, first = self.counts[name, code]
        return _sentence(name, code, count, locate(first), wanted.get(name))


def _sentence(name: str, code: str, count: int, where: str, column: AnyColumn | None) -> str:
    limit = getattr(column, "max_characters", None) or getattr(column, "max_length", 0)
    units = {"protein": "residues", "nucleotide": "nucleotides"}
    unit = units.get(getattr(column, "type", ""), "characters")
    bounds = getattr(column, "bounds", (0.0, 0.0))
    what = {
        Finding.missing_value.value: "missing",
        Finding.residue_invalid.value: "with a letter that is not one of the 20 amino acids",
        Finding.nucleotide_invalid.value: "with a letter that is not A, C, G, T, U or N",
        Finding.molecule_characters.value: "with a character that no SMILES has",
        Finding.too_long.value: f"longer than {limit} {unit}",
        Finding.label_unknown.value: "not one of the task's labels",
        Finding.residue_label_unknown.value: "with a letter that is not one of the task's labels",
        Finding.residue_labels_length.value: (
            f"not as long as the sequence in {getattr(column, 'of', '')!r}, one letter for each residue"
        ),
        Finding.not_a_number.value: (
            "not a whole number" if getattr(column, "integer", False) else "not a number"
        ),
        Finding.number_out_of_bounds.value: f"outside {bounds[0]:g} to {bounds[1]:g}",
        Finding.cut.value: f"cut to their first {limit} {unit}",
        Finding.unseen.value: "outside the vocabulary, so the model sees them as 'unseen'",
        "data.code_unmapped": "that the view's mapping does not list",
        "data.date_unreadable": "not a date in the mapping's format",
    }[code]
    return f"column {name!r}: {counted(count, 'value')} {what} (first at {where})"


def counted(count: int, noun: str) -> str:
    """Return *count* and *noun*, in the plural where it is not 1."""
    return f"{count} {noun}{'s' if count != 1 else ''}"
