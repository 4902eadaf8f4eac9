"""People who said no are left out, whatever table their rows are in.

Rules
-----
1. The list is a file of the site, one identifier a line, UTF-8; with ``hashed``, the SHA-256 of the
   identifier's UTF-8 in hexadecimal. It is read anew at every opening of the view: an objection counts from
   the next one.
2. Identifiers are compared as the contract compares them: exactly, blanks around them left out.
3. Without a column that says whose a row is, the view is refused: an objection must not be passed over in
   silence.
4. A row without an identifier stays, and is counted: nobody can tell whose it is.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from plasmid.core.errors import DataError
from plasmid.data.settings import Strict
from plasmid.data.transforms._columns import person_column, persons
from plasmid.data.transforms._lists import read_list
from plasmid.data.transforms.base import Place
from plasmid.recipes.columns import ColumnName

_CODE = "data.opt_out_column"
_HEX = re.compile(r"[0-9a-fA-F]{64}")


class Settings(Strict):
    """Settings of ``opt_out``.

    Attributes
    ----------
    file
        The list, relative to the site's folder.
    column
        Whose a row is; None is the document's patient column.
    hashed
        The list holds SHA-256 digests in hexadecimal.
    """

    file: Annotated[str, Field(min_length=1, max_length=4096)]
    column: ColumnName | None = None
    hashed: bool = False


class Step:
    """Drops the rows of listed people."""

    name = "opt_out"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._column = ""
        self._listed = pa.array([], pa.string())
        self._met: set[str] = set()
        self._rows = self._unknown = 0

    def describe(self) -> str:
        """Return what it does."""
        whose = f"by {self._settings.column!r}" if self._settings.column else "by the patient column"
        return f"Rows of people on the site's opt-out list are left out, {whose}."

    def stability(self, place: Place) -> int | None:  # noqa: ARG002 - one signature
        """Return 1: whether a row stays follows from whose it is, and from the list."""
        return 1

    def prepare(self, place: Place) -> None:
        """Read the list.

        Raises
        ------
        DataError
            ``data.opt_out_column``; ``data.transform_file``; ``data.opt_out_list``: a line is no digest.
        """
        self._column = person_column(
            self._settings.column, place, _CODE, "the opt-out list would silently not apply"
        )
        listed: set[str] = set()
        wrong = []
        for number, line in read_list(place.folder, self._settings.file):
            if self._settings.hashed and not _HEX.fullmatch(line):
                wrong.append(number)
            listed.add(line.lower() if self._settings.hashed else line)
        if wrong:
            raise DataError(
                "data.opt_out_list",
                f"{self._settings.file} has {len(wrong)} lines that are no SHA-256 digest, "
                f"the first is line {wrong[0]}.",
                "Write 64 hexadecimal digits a line, or set hashed to false.",
            )
        self._listed = pa.array(sorted(listed), pa.string())

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of people who are not listed. Raises DataError (``data.opt_out_column``)."""
        whose = persons(batch, self._column, _CODE)
        self._unknown += whose.null_count
        if self._settings.hashed:
            whose = _digests(whose)
        out = pc.fill_null(pc.is_in(whose, value_set=self._listed, skip_nulls=True), False)
        self._rows += pc.sum(out).as_py() or 0
        self._met.update(pc.unique(whose.filter(out)).to_pylist())
        return batch.filter(pc.invert(out))

    def counts(self) -> dict[str, int]:
        """Return rows and people left out, entries that met nobody, and rows without an identifier."""
        return {
            "rows left out": self._rows,
            "people left out": len(self._met),
            "list entries that met nobody": len(self._listed) - len(self._met),
            "rows without an identifier": self._unknown,
        }


def _digests(whose: pa.StringArray) -> pa.StringArray:
    encoded = whose.dictionary_encode()
    digests = [hashlib.sha256(value.encode()).hexdigest() for value in encoded.dictionary.to_pylist()]
    return pa.array(digests, pa.string()).take(encoded.indices)
