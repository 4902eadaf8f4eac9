"""Columns of a database driver's rows as Arrow arrays of fixed types.

Rules
-----
1. A column has one type for all batches, known before its first row.
2. Whole numbers are int64. Every other number is the float64 nearest to its decimal text; a decimal of 2^53
   or more is refused, because it may be an identifier, and two of those may round to one float64.
3. What is neither number, truth value, date nor text is refused: bytes, arrays, documents that a driver
   takes apart. What a driver has a class of its own for (UUID, time of day) is text.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pyarrow as pa

Kind = Literal["int", "float", "decimal", "bool", "date", "time", "zoned", "text", "bytes"]
"""What a column holds. ``decimal`` is a number that the database keeps in decimal digits, ``time`` a date
with time of day, ``zoned`` one in UTC."""

TYPES: dict[Kind, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "decimal": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "time": pa.timestamp("us"),
    "zoned": pa.timestamp("us", tz="UTC"),
    "text": pa.string(),
}

_REFUSED = (
    pa.ArrowInvalid,
    pa.ArrowTypeError,
    pa.ArrowNotImplementedError,
    ValueError,
    OverflowError,
    TypeError,
)


class Unfit(Exception):
    """The value at ``index`` is none of its column's kind."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def array(values: Sequence[Any], kind: Kind) -> pa.Array:
    """Return *values*, where None is null, as an array of the type of *kind*.

    Raises
    ------
    Unfit
        At the first value that cannot be one.
    """
    found = _array(values, kind)
    if kind == "decimal":
        large = np.flatnonzero(np.abs(found.to_numpy(zero_copy_only=False)) >= 2.0**53)
        if large.size:
            raise Unfit(int(large[0]))
    return found


def _array(values: Sequence[Any], kind: Kind) -> pa.Array:
    try:
        # Asked for text, pyarrow would take bytes, too.
        found = pa.array(values, None if kind == "text" else TYPES[kind])
        if kind != "text" or found.type == pa.string():
            return found
    except _REFUSED:
        pass  # Decimal for a number, UUID for text, or what does not fit
    convert = _CONVERT[kind]
    try:
        return pa.array([None if value is None else convert(value) for value in values], TYPES[kind])
    except _REFUSED:
        pass  # not raised from here: what pyarrow says quotes the value
    raise Unfit(next(index for index, value in enumerate(values) if not _fits(value, kind)))


def _fits(value: Any, kind: Kind) -> bool:
    try:
        pa.scalar(None if value is None else _CONVERT[kind](value), TYPES[kind])
    except _REFUSED:
        return False
    return True


def _int(value: Any) -> int:
    number = int(value) if isinstance(value, int | float | Decimal) else None
    if number is None or number != value:
        raise ValueError
    return number


def _float(value: Any) -> float:
    if not isinstance(value, int | float | Decimal):
        raise TypeError
    return float(value)  # of a Decimal: by its text, so correctly rounded


def _bool(value: Any) -> bool:
    if not isinstance(value, int | float | Decimal) or value not in (0, 1):
        raise ValueError
    return bool(value)


def _date(value: Any) -> dt.date:
    if isinstance(value, dt.datetime):
        if value.time() != dt.time():
            raise ValueError
        return value.date()
    if not isinstance(value, dt.date):
        raise TypeError
    return value


def _time(value: Any) -> dt.datetime:
    if isinstance(value, dt.datetime):
        return value
    if not isinstance(value, dt.date):
        raise TypeError
    return dt.datetime.combine(value, dt.time())


def _text(value: Any) -> str:
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if not isinstance(value, str | int | float | Decimal | uuid.UUID | dt.timedelta):
        raise TypeError
    return str(value)


_CONVERT: dict[Kind, Callable[[Any], Any]] = {
    "int": _int,
    "float": _float,
    "decimal": _float,
    "bool": _bool,
    "date": _date,
    "time": _time,
    "zoned": _time,
    "text": _text,
}
