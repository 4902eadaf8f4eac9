"""Dates in SQL as plain integers: days since 1970-01-01, and yyyymmdd for ages.

Rules
-----
1. A date is read as text, by position: ISO 8601 (a time may follow and is left out), or a format whose parts
   have fixed widths. So each engine reads a date alike, none guesses, and what is no date is found.
2. Arithmetic is on integers and the same everywhere; no engine's own date functions are asked.
   Days are those of the proleptic Gregorian calendar, years 1 to 9999, as Python's ``date.toordinal``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort.dialects import blanked, both, case, column, either, integer, whole

_EPOCH = date(1970, 1, 1).toordinal()
# A year that begins in March ends with its leap day: the days before a month do not depend on the year.
_BEFORE = "".join(f"{(153 * ((month + 9) % 12) + 2) // 5:03}" for month in range(1, 13))
_LENGTHS = "312831303130313130313031"
_TO_MARCH = 306  # days from 1 March to the end of the year
_WIDTHS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}
_DIRECTIVE = re.compile(r"%(.)", re.DOTALL)


@dataclass(frozen=True)
class DateShape:
    """How a date is written: *pattern* with each digit as 0, and where year, month and day begin (from 1)."""

    pattern: str
    year: int
    month: int
    day: int
    time_follows: bool


ISO = DateShape("0000-00-00", 1, 6, 9, time_follows=True)


def shape_of(date_format: str | None) -> DateShape:
    """Return the shape of a ``strptime`` format; None is ISO 8601.

    Raises
    ------
    DataError
        ``data.date_format``: it has other directives than %Y %m %d %H %M %S, or lacks one of the first three.
    """
    if date_format is None:
        return ISO
    pattern, starts, at = "", {}, 0
    sound = True
    for found in _DIRECTIVE.finditer(date_format):
        pattern += date_format[at : found.start()]
        at = found.end()
        part = found[1]
        sound = sound and part in _WIDTHS and part not in starts
        starts[part] = len(pattern) + 1
        pattern += "0" * _WIDTHS.get(part, 0)
    pattern += date_format[at:]
    if not sound or not {"Y", "m", "d"} <= starts.keys() or len(pattern) > 100:
        raise DataError(
            "data.date_format",
            f"the date format {date_format!r} is not one that is read by position.",
            "Use %Y, %m and %d once each, and %H, %M, %S if times follow; every part has a fixed width.",
        )
    zeros = re.sub("[0-9]", "0", pattern)
    return DateShape(zeros, starts["Y"], starts["m"], starts["d"], time_follows=False)


def fitting(read: exp.Expression, shape: DateShape, dialect: str) -> exp.Expression:
    """Return the text *read* where it has the *shape*, with a year and a month that exist; else NULL."""
    length = len(shape.pattern)
    head = exp.Substring(this=blanked(read, dialect), start=integer(1), length=integer(length))
    ends: exp.Expression = exp.EQ(this=exp.Length(this=read), expression=integer(length))
    if shape.time_follows:
        after = exp.Substring(this=read, start=integer(length + 1), length=integer(1))
        ends = either(ends, exp.In(this=after, expressions=[_literal("T"), _literal(" ")]))
    fits = both(
        exp.EQ(this=head, expression=_literal(shape.pattern)),
        ends,
        exp.NEQ(this=_cut(read, shape.year, 4), expression=_literal("0000")),
        exp.In(
            this=_cut(read, shape.month, 2), expressions=[_literal(f"{month:02}") for month in range(1, 13)]
        ),
    )
    return case((fits, read))


def parts(read: exp.Expression, shape: DateShape, dialect: str) -> dict[str, exp.Expression]:
    """Return parts of the :func:`fitting` text *read*: ``y``, ``m``, ``d``; ``v`` is the year from March."""
    year, month, day = (
        whole(_cut(read, start, width), dialect)
        for start, width in ((shape.year, 4), (shape.month, 2), (shape.day, 2))
    )
    early = exp.LT(this=month, expression=integer(3))
    shifted = exp.Sub(this=year, expression=case((early, integer(1)), otherwise=integer(0)))
    return {"y": year, "m": month, "d": day, "v": shifted}


def day_and_ymd(table: str, prefix: str, dialect: str) -> tuple[exp.Expression, exp.Expression]:
    """Return day number and yyyymmdd of the parts ``<prefix>_y`` and so on; NULL if there is no such day."""
    year, month, day, shifted = (column(table, f"{prefix}_{part}") for part in "ymdv")
    leap = both(
        exp.EQ(this=_modulo(year, 4), expression=integer(0)),
        either(
            exp.NEQ(this=_modulo(year, 100), expression=integer(0)),
            exp.EQ(this=_modulo(year, 400), expression=integer(0)),
        ),
    )
    leap_day = both(
        exp.EQ(this=month, expression=integer(2)),
        exp.EQ(this=day, expression=integer(29)),
        leap,
    )
    length = whole(_entry(_LENGTHS, month, 2), dialect)
    valid = either(exp.Between(this=day, low=integer(1), high=length), leap_day)
    total: exp.Expression = exp.Mul(this=shifted, expression=integer(365))
    for by, kind in ((4, exp.Add), (100, exp.Sub), (400, exp.Add)):
        # the remainder is taken off first, so that any engine's division is exact
        even = exp.paren(exp.Sub(this=shifted, expression=_modulo(shifted, by)), copy=False)
        total = kind(this=total, expression=exp.paren(exp.Div(this=even, expression=integer(by)), copy=False))
    total = exp.Add(this=total, expression=whole(_entry(_BEFORE, month, 3), dialect))
    total = exp.Sub(this=exp.Add(this=total, expression=day), expression=integer(_EPOCH + _TO_MARCH))
    ymd = exp.Add(
        this=exp.Add(
            this=exp.Mul(this=year, expression=integer(10_000)),
            expression=exp.Mul(this=month, expression=integer(100)),
        ),
        expression=day,
    )
    return case((valid, whole(total, dialect))), case((valid, ymd))


def _literal(value: str) -> exp.Expression:
    return exp.Literal.string(value)


def _cut(read: exp.Expression, start: int, width: int) -> exp.Expression:
    return exp.Substring(this=read, start=integer(start), length=integer(width))


def _entry(entries: str, month: exp.Expression, width: int) -> exp.Expression:
    """Return what *entries* says of *month*, which is 1 to 12."""
    begins = exp.Sub(this=exp.Mul(this=month, expression=integer(width)), expression=integer(width - 1))
    return exp.Substring(this=_literal(entries), start=begins, length=integer(width))


def _modulo(value: exp.Expression, by: int) -> exp.Expression:
    return exp.Mod(this=value, expression=integer(by))


def day_number(iso: str) -> int:
    """Return days since 1970-01-01 of an ISO date."""
    return date.fromisoformat(iso).toordinal() - _EPOCH
