"""Of rows that are equal, the first is kept.

Rules
-----
1. Rows are equal when the named columns are, or else all columns of the contract; compared as they are at
   this step, after those before it.
2. What is remembered is 16 bytes for each row kept: 160 MB for ten million rows.
3. **Where patients are protected, rows of one patient alone are compared.** Over all rows, an added patient's
   would take the place of others' equal ones, and those patients' gradients would change with his. A row
   without an identifier is a patient of its own. Where records are protected there is nothing to compare
   within one, and the view is refused.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from plasmid.core.errors import DataError
from plasmid.data.settings import Strict
from plasmid.data.transforms._columns import check_columns, persons
from plasmid.data.transforms._digests import DigestSet, row_digests
from plasmid.data.transforms.base import Place
from plasmid.recipes.columns import ColumnName


class Settings(Strict):
    """Settings of ``deduplicate``: the ``columns`` that must be equal; None is all of them."""

    columns: Annotated[list[ColumnName], Field(min_length=1, max_length=1000)] | None = None


class Step:
    """Drops repeated rows."""

    name = "deduplicate"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._columns: list[str] = []
        self._key = b""
        self._patient: str | None = None
        self._alone = 0
        self._seen = DigestSet()
        self._dropped = 0

    def describe(self) -> str:
        """Return what it does."""
        named = self._settings.columns
        where = f"equal in {', '.join(map(repr, named))}" if named else "equal in all columns"
        whose = "" if self._patient is None else "one patient's "
        return f"Of {whose}rows that are {where}, the first is kept."

    def stability(self, place: Place) -> int | None:
        """Return 1 where rows of one patient are compared; None where equal rows are different records."""
        return 1 if place.unit == "patient" else None

    def prepare(self, place: Place) -> None:
        """Check the columns. Raises DataError (``data.transform_column``)."""
        check_columns(self._settings.columns or (), place)
        self._columns = self._settings.columns or list(place.columns)
        self._key = place.key
        self._patient = place.patient if place.unit == "patient" else None

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows not seen before.

        Raises
        ------
        DataError
            ``data.transform_column``: a column that was named, or the patient's, is not among the rows'.
        """
        here = [name for name in self._columns if name in batch.schema.names]
        missing = [name for name in self._settings.columns or () if name not in here]
        if missing or not here:
            absent = ", ".join(map(repr, missing or self._columns))
            raise DataError(
                "data.transform_column",
                f"rows cannot be compared: they have no column {absent}.",
                "Map those columns in the view, or compare others.",
            )
        compared = [batch.column(name) for name in here]
        if self._patient is None:
            first = self._seen.add(row_digests(compared, self._key))
        else:
            whose = persons(batch, self._patient, "data.transform_column")
            known = np.asarray(whose.is_valid())
            first = ~known
            first[known] = self._seen.add(row_digests([whose, *compared], self._key)[known])
            self._alone += int((~known).sum())
        self._dropped += len(first) - int(first.sum())
        return batch.filter(pa.array(first))

    def counts(self) -> dict[str, int]:
        """Return how many rows were kept and dropped."""
        return {"rows kept": len(self._seen) + self._alone, "repeated rows left out": self._dropped}
