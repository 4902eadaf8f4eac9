"""One declared table over a site's local one: text, numbers and days, in steps that each engine can take.

Rules
-----
1. Four steps: everything as text without blanks; values mapped, numbers read, dates that have their shape;
   the parts of dates; dates as ``<column>_day`` (days since 1970) and ``<column>_ymd`` (yyyymmdd).
2. No row is left out: what cannot be read is NULL beside its text (``_t``), and is counted there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from plasmid.data.cohort import days
from plasmid.data.cohort.concepts import mapped
from plasmid.data.cohort.dialects import (
    as_text,
    both,
    called,
    column,
    integer,
    is_null,
    is_there,
    number,
    query,
    table_as,
    text,
)
from plasmid.data.settings import ColumnMap, TableMap
from plasmid.recipes.cohort import SEXES
from plasmid.recipes.declared import TABLES

STEPS = ("_1", "_2", "_3")
"""How the names of steps end, those whose results are worth keeping."""
_DATES = ("birth_date", "death_date", "date")
_TEXTS = ("person", "code", "system", "unit", "sex")
_SEX = {sex: sex for sex in SEXES}


@dataclass(frozen=True)
class BaseTable:
    """A declared table and its mapping, which has all columns that it must have.

    ``end_date`` is asked for by nothing, and not read.
    """

    declared: str
    mapping: TableMap
    dialect: str

    @property
    def found(self) -> dict[str, ColumnMap]:
        """The columns that are mapped."""
        maps = {declared: self.mapping.column(declared) for declared in TABLES[self.declared]}
        return {declared: how for declared, how in maps.items() if how is not None}

    def _of(self, columns: tuple[str, ...]) -> list[str]:
        found = self.found
        return [declared for declared in columns if declared in found]

    def steps(self, prefix: str) -> Iterator[tuple[str, exp.Select]]:
        """Yield name and SELECT of each step, the last one called by the declared table's name."""
        local, names = self.mapping.table, [f"{prefix}{self.declared}{step}" for step in STEPS]
        yield names[0], query(list(self._first()), table_as(local, "b"))
        yield names[1], query(list(self._second()), table_as(names[0], "b"))
        yield names[2], query(list(self._third()), table_as(names[1], "b"))
        yield f"{prefix}{self.declared}", query(list(self._fourth()), table_as(names[2], "b"))

    def _first(self) -> Iterator[exp.Expression]:
        found = self.found
        for declared in self._of((*_TEXTS, "value", *_DATES)):
            as_read = as_text(column("b", found[declared].column), self.dialect)
            yield called(as_read, declared if declared in _TEXTS else f"{declared}_t")
        for declared in self._of(("value", "text")):
            yield called(column("b", found[declared].column), declared)

    def _second(self) -> Iterator[exp.Expression]:
        for declared in self._of(_TEXTS):
            yield self._mapped(declared)
        if "value" in self.found:
            value = number(column("b", "value"), column("b", "value_t"), self.dialect)
            yield from (column("b", "value_t"), called(value, "value"))
        if "text" in self.found:
            yield column("b", "text")
        for declared in self._of(_DATES):
            read, shape = column("b", f"{declared}_t"), self._shape(declared)
            yield from (read, called(days.fitting(read, shape, self.dialect), f"{declared}_f"))

    def _kept(self) -> list[exp.Expression]:
        plain = self._of((*_TEXTS, "value", "text"))
        texts = [f"{declared}_t" for declared in self._of(("value", *_DATES))]
        return [column("b", declared) for declared in (*plain, *texts)]

    def _third(self) -> Iterator[exp.Expression]:
        yield from self._kept()
        for declared in self._of(_DATES):
            parts = days.parts(column("b", f"{declared}_f"), self._shape(declared), self.dialect)
            for part, value in parts.items():
                yield called(value, f"{declared}_{part}")

    def _fourth(self) -> Iterator[exp.Expression]:
        yield from self._kept()
        for declared in self._of(_DATES):
            day, ymd = days.day_and_ymd("b", declared, self.dialect)
            yield from (called(day, f"{declared}_day"), called(ymd, f"{declared}_ymd"))

    def _shape(self, declared: str) -> days.DateShape:
        return days.shape_of(self.found[declared].date_format)

    def _codes(self, declared: str) -> dict[str, str] | None:
        codes = self.found[declared].codes
        return _SEX if declared == "sex" and codes is None else codes

    def _mapped(self, declared: str) -> exp.Expression:
        codes = self._codes(declared)
        if codes is None or declared in ("person", "unit"):
            return column("b", declared)
        return called(
            mapped(column("b", declared), codes, self.found[declared].other, self.dialect), declared
        )

    def checks(self, prefix: str, today: int) -> Iterator[tuple[str, str, str, exp.Expression]]:
        """Yield code, column, expression and condition of what is wrong; *today* is a day number."""
        base = f"{prefix}{self.declared}"
        for declared in self._of(_DATES):
            day = column("b", f"{declared}_day")
            unread = both(is_there(column("b", f"{declared}_t")), is_null(day))
            yield "data.date_unreadable", declared, base, unread
            yield "data.date_future", declared, base, exp.GT(this=day, expression=integer(today))
        for declared in self._of(("code", "system", "sex")):
            codes = self._codes(declared)
            if codes is None or self.found[declared].other is not None:
                continue
            read = column("b", declared)
            listed = [text(local.strip(), self.dialect) for local in codes]
            others = [exp.Not(this=exp.In(this=read, expressions=listed))] if listed else []
            yield "data.code_unmapped", declared, f"{base}_1", both(is_there(read), *others)
