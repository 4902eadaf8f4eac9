"""The declared tables of a query as common table expressions, and what is checked of them.

Rules
-----
1. A *base* is a declared table (:mod:`plasmid.data.cohort.base_table`); a *source* is what of it belongs to a
   concept set and has a date. Each is made when it is first asked for.
2. Names of expressions begin with a prefix that no local table has, so neither can hide the other.
3. A check counts rows and reads no value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort.base_table import STEPS, BaseTable
from plasmid.data.cohort.concepts import CodedTable, matches, unresolved
from plasmid.data.cohort.dialects import (
    as_text,
    called,
    check_table,
    column,
    integer,
    is_there,
    name,
    query,
    table_as,
    text,
)
from plasmid.data.settings import ColumnMap, TableMap
from plasmid.recipes.cohort import ConceptSet
from plasmid.recipes.declared import ANCESTORS, TABLES


@dataclass(frozen=True)
class Check:
    """One count that must be 0.

    Attributes
    ----------
    code, table, column
        The error that a larger count is, and the declared table and column that it is told of.
    query
        A SELECT of one row with one integer.
    """

    code: str
    table: str
    column: str
    query: exp.Select


class DeclaredTables:
    """The expressions that a query needs.

    Attributes
    ----------
    tables
        Declared table -> the site's.
    local_tables
        The local tables that are read.
    scaled
        Table whose values a factor of the mapping scales -> the source that they are of.
    """

    def __init__(
        self,
        tables: Mapping[str, TableMap],
        concepts: Mapping[str, ConceptSet],
        dialect: str,
        today: date,
        *,
        leaves_out: bool = False,
    ) -> None:
        self.tables, self.dialect = tables, dialect
        self.local_tables: set[str] = set()
        self._concepts, self._leaves_out = concepts, leaves_out
        self.scaled: dict[str, str] = {}
        self._today = today.toordinal() - date(1970, 1, 1).toordinal()
        self._prefix = "plasmid_"
        while any(table.table.lower().startswith(self._prefix) for table in tables.values()):
            self._prefix += "_"
        self._expressions: dict[str, exp.Select] = {}
        self._reads: dict[str, set[str]] = {}
        self._sources: dict[tuple[str, str | None], str] = {}
        self._checks: dict[tuple[str, str, str, str], exp.Select] = {}

    def add(self, suffix: str, select: exp.Select) -> str:
        """Keep *select* as an expression and return its name."""
        made = suffix if suffix.startswith(self._prefix) else f"{self._prefix}{suffix}"
        self._reads[made] = self._read_by(select)
        self._expressions[made] = select
        return made

    def new(self, letter: str, select: exp.Select) -> str:
        """Keep *select* under a name of its own."""
        return self.add(f"{letter}{len(self._expressions)}", select)

    def _read_by(self, select: exp.Select) -> set[str]:
        return {table.name for table in select.find_all(exp.Table)} & self._expressions.keys()

    def finish(self, select: exp.Select) -> exp.Select:
        """Return *select* with all expressions that it needs, in the order in which they were made."""
        needed: set[str] = set()
        waiting = list(self._read_by(select))
        while waiting:
            made = waiting.pop()
            if made not in needed:
                needed.add(made)
                waiting += self._reads[made]
        return self._with(select, {made: part for made, part in self._expressions.items() if made in needed})

    def everything(self, select: exp.Select) -> exp.Select:
        """Return *select* with all expressions and the checks as more of them: to be verified at once."""
        counts = {f"{self._prefix}check{place}": check for place, check in enumerate(self._checks.values())}
        return self._with(select, {**self._expressions, **counts})

    def checks(self) -> Iterator[Check]:
        """Yield the checks of all that has been asked for."""
        for (code, table, declared, _), select in self._checks.items():
            yield Check(code, table, declared, self.finish(select))

    def check(
        self, code: str, table: str, declared: str, source: str, condition: exp.Expression, key: str = ""
    ) -> None:
        """Count the rows of *source* for which *condition* holds; once for each *source* and *key*."""
        if (code, table, declared, source + key) not in self._checks:
            rows = called(exp.Count(this=exp.Star()), "n")
            select = query([rows], table_as(source, "b"), where=[condition])
            self._checks[code, table, declared, source + key] = select

    def mapping(self, table: str) -> TableMap:
        """Return how *table* is found. Raises DataError (``data.table_unmapped``)."""
        found = self.tables.get(table)
        if found is None:
            raise DataError(
                "data.table_unmapped",
                f"the recipe asks about the table {table}, which the view does not map.",
                f"Say in the view which table of yours it is (tables: {table}).",
            )
        return found

    def has(self, table: str, declared: str) -> ColumnMap:
        """Return how the column *declared* is found. Raises DataError (``data.column_unmapped``)."""
        found = self.mapping(table).column(declared)
        if found is None:
            raise DataError(
                "data.column_unmapped",
                f"the recipe asks about {table}.{declared}, which the view does not map.",
                f"Say in the view which column of {self.mapping(table).table} it is.",
            )
        return found

    def carries(self, table: str, declared: str) -> bool:
        """Return whether the column *declared* is mapped."""
        return self.mapping(table).column(declared) is not None

    def person(self) -> str:
        """Return the base of ``person``, in which a person must be one row."""
        base = self._base("person")
        who = column("b", "person")
        distinct = exp.Count(this=exp.Distinct(expressions=[who]))
        surplus = exp.Sub(this=exp.Count(this=who), expression=distinct)
        self._checks.setdefault(
            ("data.person_twice", "person", "person", base),
            query([called(surplus, "n")], table_as(base, "b")),
        )
        return base

    def _base(self, table: str) -> str:
        made = f"{self._prefix}{table}"
        if made not in self._expressions:
            base = BaseTable(table, self.mapping(table), self.dialect)
            for declared, required in TABLES[table].items():
                if required:
                    self.has(table, declared)
            self._reading(base.mapping)
            for step, select in base.steps(self._prefix):
                self.add(step, select)
            for code, declared, source, condition in base.checks(self._prefix, self._today):
                self.check(code, table, declared, source, condition)
        return made

    def _reading(self, mapping: TableMap) -> None:
        check_table(mapping, self.dialect)
        self.local_tables.add(mapping.table)

    def source(self, table: str, concepts: str | None) -> str:
        """Return the dated events of *table* that *concepts* (None: all) means: ``person, day, ymd`` ..."""
        key = (table, concepts)
        if key not in self._sources:
            self._sources[key] = self.new("s", self._source(table, concepts))
        return self._sources[key]

    def _source(self, table: str, concepts: str | None) -> exp.Select:
        if table == "death":
            self.has("person", "death_date")
            return self._dated(self.person(), "death_date", [], [])
        base = self._base(table)
        extra = [wanted for wanted in ("code", "value", "unit", "text") if self.carries(table, wanted)]
        conditions: list[exp.Expression] = []
        if concepts is not None:
            self.has(table, "code")
            coded = CodedTable(table, self.mapping(table), self.dialect, self._ancestors())
            wanted_codes = self._concepts[concepts]
            for system in unresolved(coded, wanted_codes):
                of_it = exp.EQ(this=column("b", "system"), expression=text(system, self.dialect))
                self.check("data.hierarchy_missing", table, "system", base, of_it, system)
            conditions.append(exp.paren(matches(coded, concepts, wanted_codes, "b"), copy=False))
        return self._dated(base, "date", [*extra, *(["value_t"] if "value" in extra else [])], conditions)

    def _dated(self, base: str, dated: str, extra: list[str], conditions: list[exp.Expression]) -> exp.Select:
        day = column("b", f"{dated}_day")
        outputs = [column("b", "person"), called(day, "day"), called(column("b", f"{dated}_ymd"), "ymd")]
        outputs += [column("b", wanted) for wanted in extra]
        if self._leaves_out:
            conditions = [exp.LTE(this=day, expression=integer(self._today)), *conditions]
        return query(outputs, table_as(base, "b"), where=[is_there(day), *conditions])

    def _ancestors(self) -> tuple[str, TableMap] | None:
        mapping = self.tables.get("ancestor")
        if mapping is None:
            return None
        made = f"{self._prefix}ancestor"
        if made not in self._expressions:
            outputs = [
                called(as_text(column("b", self.has("ancestor", declared).column), self.dialect), declared)
                for declared in ANCESTORS
            ]
            self._reading(mapping)
            self.add(made, query(outputs, table_as(mapping.table, "b")))
        return made, mapping

    def _with(self, select: exp.Select, named: Mapping[str, exp.Select]) -> exp.Select:
        """Return *select* over the expressions *named*; queries share them, and nobody changes them."""
        # Else these two would put a step's expressions into those of the next, and so on: text is parsed
        # hundreds of times for each row.
        kept = self.dialect in ("postgres", "sqlite")
        expressions = [
            exp.CTE(
                this=part,
                alias=exp.TableAlias(this=name(made)),
                materialized=True if kept and made.endswith(STEPS) else None,
            )
            for made, part in named.items()
        ]
        whole = exp.Select(**select.args)
        whole.set("with_", exp.With(expressions=expressions))
        return whole
