"""One cell under its column's contract: a value, or the code of what is wrong with it.

Pure: no file, no message, and no exception that could carry a cell.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum

from plasmid.models.specs import Cell
from plasmid.recipes.columns import (
    RESIDUES,
    AnyColumn,
    CategoryColumn,
    IdentifierColumn,
    LabelColumn,
    NumberColumn,
    ProteinColumn,
    TextColumn,
)

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Finding(StrEnum):
    """What is to be told about a cell; the first group are errors, the second notices."""

    missing_value = "data.missing_value"
    residue_invalid = "data.residue_invalid"
    too_long = "data.too_long"
    label_unknown = "data.label_unknown"
    not_a_number = "data.not_a_number"
    number_out_of_bounds = "data.number_out_of_bounds"

    cut = "notice.cut"
    unseen = "notice.unseen"

    @property
    def is_error(self) -> bool:
        """True when the table is refused for it."""
        return self.value.startswith("data.")


def read_cell(text: str, column: AnyColumn, labels: frozenset[str]) -> tuple[Cell, Finding | None]:
    """Return the value of a cell's *text* under *column*, and what is to be told about it.

    The value is None where the cell is missing, and meaningless beside an error.
    """
    text = text.strip()
    if not text or text in column.missing_markers:
        return None, None if column.missing == "allowed" else Finding.missing_value
    match column:
        case ProteinColumn():
            return _protein(text, column)
        case TextColumn():
            return _limited(" ".join(text.split()), column.max_characters, column.too_long)
        case LabelColumn():
            return text, None if text in labels else Finding.label_unknown
        case CategoryColumn():
            return text, None if text in column.vocabulary_set else Finding.unseen
        case NumberColumn():
            return _number(text, column)
        case IdentifierColumn():
            return _limited(text, column.max_characters, "refuse")


def _protein(text: str, column: ProteinColumn) -> tuple[Cell, Finding | None]:
    # isascii first: upper() turns some other letters into ASCII ones.
    if not text.isascii() or not RESIDUES.issuperset(text.upper()):
        return None, Finding.residue_invalid
    return _limited(text.upper(), column.max_length, column.too_long)


def _limited(text: str, limit: int, too_long: str) -> tuple[Cell, Finding | None]:
    if len(text) <= limit:
        return text, None
    return (text[:limit], Finding.cut) if too_long == "truncate" else (None, Finding.too_long)


def _number(text: str, column: NumberColumn) -> tuple[Cell, Finding | None]:
    value = float(text) if len(text) <= 400 and _NUMBER.fullmatch(text) else math.inf
    if not math.isfinite(value) or (column.integer and not value.is_integer()):
        return None, Finding.not_a_number
    low, high = column.bounds
    return (value, None) if low <= value <= high else (None, Finding.number_out_of_bounds)
