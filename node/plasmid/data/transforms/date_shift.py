"""All dates of a person are moved by the same number of days, a secret of the site.

Rules
-----
1. The number of days is uniform over ``-days .. days`` without 0: HMAC-SHA256 of the person under the site's
   key, so that it is the same in every table and at every reading. Without 0, because nobody's dates shall
   stay as they are; what that tells (a date shown is not the real one) everybody knows anyway.
2. Intervals between dates of one person are kept, and with them orders, ages at events and survival times.
   Those between people, seasons, weekdays and dates of an epidemic are not.
3. A cell is a date, a timestamp, or text that begins with an ISO 8601 date and goes on, if at all, with a
   time, which is kept. Other text is refused, not handed on: it may be a real date. Under a privacy unit its
   row is left out and counted instead. Empty cells and the contract's missing markers are left.
4. Rows without an identifier share one number.

Source: date shifting as of Hripcsak et al., "Preserving temporal relations in clinical data while maintaining
privacy", JAMIA 23(6), 2016 (Shift and Truncate), and i2b2's de-identification. What it does not do: somebody
who knows one real date of a person and finds it in the table knows all of them.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from plasmid.core.errors import DataError
from plasmid.data.settings import Strict
from plasmid.data.transforms._columns import check_columns, is_text, person_column, persons, replace_column
from plasmid.data.transforms.base import Place
from plasmid.recipes.columns import ColumnName

_CODE = "data.date_shift_column"
_LABEL = b"plasmid date shift\x00"
_ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.,+Z-]*)?$"


class Settings(Strict):
    """Settings of ``date_shift``.

    Attributes
    ----------
    columns
        The columns of dates.
    days
        The most days that a date is moved, either way.
    column
        Whose a row is; None is the document's patient column.
    """

    columns: Annotated[list[ColumnName], Field(min_length=1, max_length=100)]
    days: Annotated[int, Field(ge=1, le=3650)]
    column: ColumnName | None = None


def shift_days(person: str, days: int, key: bytes) -> int:
    """Return by how many days the dates of *person* are moved: -days to days, never 0."""
    digest = hmac.digest(key, _LABEL + person.encode(), hashlib.sha256)
    # 64 bits modulo at most 7300: the bias is below 2**-51.
    step = int.from_bytes(digest[:8], "big") % (2 * days)
    return step - days if step < days else step - days + 1


class Step:
    """Moves dates."""

    name = "date_shift"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._place: Place | None = None
        self._column = ""
        self._moved = dict.fromkeys(settings.columns, 0)
        self._left_out = 0

    def describe(self) -> str:
        """Return what it does."""
        columns = ", ".join(repr(name) for name in self._settings.columns)
        return (
            f"Dates in {columns} are moved by up to {self._settings.days} days, a secret number for each "
            "person; intervals within a person are kept."
        )

    def stability(self, place: Place) -> int | None:  # noqa: ARG002 - one signature
        """Return 1: by how much a row's dates move follows from whose it is, and from the key."""
        return 1

    def prepare(self, place: Place) -> None:
        """Check the columns. Raises DataError (``data.date_shift_column``, ``data.transform_column``)."""
        self._column = person_column(
            self._settings.column, place, _CODE, "dates cannot be moved person by person"
        )
        check_columns(self._settings.columns, place)
        self._place = place

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return *batch* with its dates moved.

        Raises
        ------
        DataError
            ``data.date_shift_column``: no column says whose a row is; ``data.date_shift_format``: a column
            holds something other than dates.
        """
        assert self._place is not None, "prepared first"
        days = self._days(persons(batch, self._column, _CODE), self._place.key)
        for name in self._settings.columns:
            if name in batch.schema.names and not pa.types.is_null(batch.schema.field(name).type):
                before = batch.column(name)
                moved, bad = _moved(name, before, days, self._place.columns[name].missing_markers)
                count = int(bad.sum())
                if count and self._place.unit == "none":
                    raise _not_dates(name, count, "values that are no ISO 8601 dates")
                self._moved[name] += _differing(before, moved)
                batch = replace_column(batch, name, moved)
                if count:
                    self._left_out += count
                    kept = pa.array(~bad)
                    batch, days = batch.filter(kept), days.filter(kept)
        return batch

    def counts(self) -> dict[str, int]:
        """Return how many dates of each column were moved, and what was left out for want of one."""
        moved = {f"dates moved in {name}": count for name, count in self._moved.items()}
        return moved | ({"rows left out, with no date": self._left_out} if self._left_out else {})

    def _days(self, whose: pa.StringArray, key: bytes) -> pa.Int32Array:
        encoded = pc.fill_null(whose, "").dictionary_encode()
        shifts = [shift_days(person, self._settings.days, key) for person in encoded.dictionary.to_pylist()]
        return pa.array(np.array(shifts, np.int32)).take(encoded.indices)


def _moved(
    name: str, dates: pa.Array, days: pa.Int32Array, markers: tuple[str, ...]
) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Return the moved *dates*, and which of them are none."""
    kind, none = dates.type, np.zeros(len(dates), bool)
    if pa.types.is_date(kind):
        numbers = pc.add(dates.cast(pa.date32()).cast(pa.int32()), days)
        return numbers.cast(pa.date32()).cast(kind), none
    if pa.types.is_timestamp(kind):
        seconds = pc.multiply(days.cast(pa.int64()), 86_400).cast(pa.duration("s"))
        return pc.add(dates, seconds.cast(pa.duration(kind.unit))), none
    if not is_text(kind):
        raise _not_dates(name, len(dates), f"values of type {kind}")
    text = pc.utf8_trim_whitespace(dates.cast(pa.string()))
    empty = pc.is_in(text, value_set=pa.array(["", *markers], pa.string()))
    iso = pc.match_substring_regex(text, _ISO)
    real = pc.if_else(iso, pc.utf8_slice_codeunits(text, 0, 10), pa.scalar(None, pa.string()))
    day = pc.strptime(real, format="%Y-%m-%d", unit="s", error_is_null=True).cast(pa.date32())
    # 2021-02-30 must not pass as the 2nd of March.
    sound = pc.fill_null(pc.equal(day.cast(pa.string()), real), False)
    bad = np.asarray(pc.and_(pc.is_valid(text), pc.invert(pc.or_(sound, empty))))
    there = pc.add(pc.if_else(sound, day, pa.scalar(None, pa.date32())).cast(pa.int32()), days).cast(
        pa.date32()
    )
    moved = pc.binary_join_element_wise(there.cast(pa.string()), pc.utf8_slice_codeunits(text, 10), "")
    return pc.if_else(sound, moved, text), bad


def _differing(before: pa.Array, after: pa.Array) -> int:
    return pc.sum(pc.not_equal(before, after)).as_py() or 0


def _not_dates(name: str, count: int, what: str) -> DataError:
    return DataError(
        "data.date_shift_format",
        f"column {name!r} has {count} {what} in one batch of rows; they might be real dates in another form.",
        "Give the column's date_format in the view's mapping, or list its missing markers in the contract.",
    )
