r"""Codes and names are written one way, by named operations.

Rules
-----
1. The operations are a closed list, done in the order given; a view's file holds no pattern of its own. Each
   is one vectorised pass whose time is linear in the text (Arrow's kernels; its patterns are RE2's).
2. Only text is changed. A column of another type is refused: a code that was read as a number has already
   lost its zeros.

============== ================================ ===========================
operation      does                             example
============== ================================ ===========================
nfc            Unicode NFC                      one form of each accent
trim           no blanks at the ends
collapse       one blank for many
upper, lower   case
no_dots        dots left out                    ``E11.9`` -> ``E119``
no_zeros       no zeros in front                ``007`` -> ``7``, ``0`` stays
icd_dot        the dot of ICD-10                ``E119`` -> ``E11.9``
no_allele      a gene without its allele        ``TRBV5-1*01`` -> ``TRBV5-1``
============== ================================ ===========================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from plasmid.data.settings import Strict
from plasmid.data.transforms._columns import check_columns, replace_column, text_column
from plasmid.data.transforms.base import Place
from plasmid.recipes.columns import ColumnName

Operation = Literal[
    "nfc", "trim", "collapse", "upper", "lower", "no_dots", "no_zeros", "icd_dot", "no_allele"
]


def _pattern(pattern: str, replacement: str) -> Callable[[pa.Array], pa.Array]:
    return lambda text: pc.replace_substring_regex(text, pattern=pattern, replacement=replacement)


_OPERATIONS: dict[Operation, Callable[[pa.Array], pa.Array]] = {
    "nfc": lambda text: pc.utf8_normalize(text, form="NFC"),
    "trim": pc.utf8_trim_whitespace,
    "collapse": _pattern(r"[\s\p{Zs}]+", " "),
    "upper": pc.utf8_upper,
    "lower": pc.utf8_lower,
    "no_dots": _pattern(r"\.", ""),
    "no_zeros": _pattern(r"^0+(.)", r"\1"),
    "icd_dot": _pattern(r"^([A-Za-z][0-9][0-9A-Za-z])([0-9A-Za-z]{1,4})$", r"\1.\2"),
    "no_allele": _pattern(r"\*[0-9][0-9A-Za-z:]*$", ""),
}


class Settings(Strict):
    """Settings of ``normalise``: column -> operations, in order."""

    columns: Annotated[
        dict[ColumnName, Annotated[list[Operation], Field(min_length=1, max_length=20)]],
        Field(min_length=1, max_length=1000),
    ]


class Step:
    """Rewrites text."""

    name = "normalise"

    def __init__(self, settings: Settings) -> None:
        self._columns = settings.columns
        self._changed = dict.fromkeys(settings.columns, 0)

    def describe(self) -> str:
        """Return what it does."""
        each = (f"{name!r} ({', '.join(operations)})" for name, operations in self._columns.items())
        return f"Text is written one way in {', '.join(each)}."

    def stability(self, place: Place) -> int | None:  # noqa: ARG002 - one signature
        """Return 1: what a cell becomes follows from it alone."""
        return 1

    def prepare(self, place: Place) -> None:
        """Check the columns. Raises DataError (``data.transform_column``)."""
        check_columns(self._columns, place)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return *batch* with its text rewritten. Raises DataError (``data.transform_type``)."""
        for name, operations in self._columns.items():
            if name not in batch.schema.names:
                continue
            before = text_column(name, batch.column(name), "normalise")
            after = before
            for operation in operations:
                after = _OPERATIONS[operation](after)
            self._changed[name] += pc.sum(pc.not_equal(before, after)).as_py() or 0
            batch = replace_column(batch, name, after)
        return batch

    def counts(self) -> dict[str, int]:
        """Return how many values of each column were changed."""
        return {f"values changed in {name}": count for name, count in self._changed.items()}
