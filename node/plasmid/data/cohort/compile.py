"""A recipe's cohort and a site's mapping become one read-only SELECT in the dialect of the site's source.

Rules
-----
1. A recipe never sends SQL. The query is built as a tree from typed parts, written, read back and compared
   with what a query may hold (:mod:`plasmid.data.cohort.query_check`); anything else is an error here, not at
   the source.
2. Each declared table is a few common table expressions: its columns as text without blanks and as numbers,
   its dates as integers (:mod:`plasmid.data.cohort.days`). From there on there are only integers, joins,
   grouping, comparisons and ROW_NUMBER, which every engine does alike: the same data give the same rows, in
   the same order (of person and index date).
3. What a query would pass over in silence is counted by a :class:`Check` in the same snapshot: dates in the
   future, dates, numbers, units and values that nothing maps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache

from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort.criteria import Criteria
from plasmid.data.cohort.declared_tables import Check, DeclaredTables
from plasmid.data.cohort.dialects import (
    DIALECTS,
    both,
    called,
    case,
    check_name,
    check_table,
    column,
    integer,
    join,
    ordered,
    query,
    table_as,
    text,
)
from plasmid.data.cohort.query_check import verify
from plasmid.data.settings import ColumnMap, TableMap
from plasmid.recipes.cohort import (
    AnyDefinition,
    Cohort,
    TakeAge,
    TakeCode,
    TakeCount,
    TakeDays,
    TakeIndex,
    TakePerson,
    TakePresent,
    TakeSex,
    TakeText,
    TakeValue,
)
from plasmid.recipes.columns import AnyColumn, NumberColumn


@dataclass(frozen=True)
class Compiled:
    """One question to a source.

    Attributes
    ----------
    select
        Its output columns are named as the contract's, in the contract's order.
    conversions
        Contract column -> what is still to be done to its values; nothing where it is not named.
    checks
        Counts to be asked first, in the same snapshot. One above 0 is an error.
    """

    select: exp.Select
    conversions: Mapping[str, ColumnMap] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()


def compile_rows(
    columns: Mapping[str, AnyColumn], mapping: TableMap, dialect: str, local_columns: Collection[str]
) -> Compiled:
    """Return the projection of one local table for a contract without a cohort.

    Parameters
    ----------
    mapping
        A contract column that it does not name is looked for under its own name.
    local_columns
        The columns that the local table has.

    Raises
    ------
    DataError
        ``data.column_missing``: a required column, or one that the mapping names, is not there.
    """
    _known(dialect)
    check_table(mapping, dialect)
    outputs: list[tuple[str, str]] = []
    conversions: dict[str, ColumnMap] = {}
    missing: list[str] = []
    for contract, wanted in columns.items():
        how = mapping.column(contract)
        local = how.column if how else contract
        if local not in local_columns:
            if wanted.required or how is not None:
                missing.append(f"{contract} ({local})" if local != contract else contract)
            continue
        outputs.append((local, contract))
        if how is not None and how != ColumnMap(column=local):
            conversions[contract] = how
    if missing or not outputs:
        raise DataError(
            "data.column_missing",
            f"the table {mapping.table} lacks columns of the contract: {', '.join(missing) or 'all'}.",
            "Map them to columns of yours in the view (tables: rows: columns), or correct their names.",
        )
    return Compiled(_projection(mapping.table, tuple(outputs), dialect), conversions)


@lru_cache(maxsize=64)
def _projection(table: str, outputs: tuple[tuple[str, str], ...], dialect: str) -> exp.Select:
    """Return the columns of *table* in *outputs*, (its own name, that in the contract), for readers only.

    It is one object for all who ask alike: a thousand files of one form are asked the same.
    """
    select = query(
        [_output(column("s", local), contract, dialect) for local, contract in outputs], table_as(table, "s")
    )
    verify(select, dialect, {table})
    return select


def compile_cohort(
    cohort: Cohort,
    columns: Mapping[str, AnyColumn],
    tables: Mapping[str, TableMap],
    dialect: str,
    today: date,
    *,
    leaves_out: bool = False,
) -> Compiled:
    """Return the query of a *cohort* that contradicts neither itself nor the contract's *columns*.

    Parameters
    ----------
    tables
        Declared table -> the site's, as in a view.
    dialect
        sqlglot's name, one of :data:`plasmid.data.cohort.dialects.DIALECTS`.
    today
        A later date in the data is an error.
    leaves_out
        An event of a later date is left out, as one without a date.

    Raises
    ------
    DataError
        ``data.table_unmapped``, ``data.column_unmapped``: the mapping lacks what the cohort asks for;
        ``data.code_system_unmapped``, ``data.hierarchy_missing``, ``data.unit_unmapped``,
        ``data.unit_unconvertible``, ``data.date_format``, ``data.name_unusable``.
    """
    _known(dialect)
    base = DeclaredTables(tables, cohort.concepts, dialect, today, leaves_out=leaves_out)
    criteria = Criteria(base, cohort.index)
    conditions = criteria.all_of(cohort.where)
    outputs = [
        _output(_value_of(criteria, cohort.columns[contract], wanted, dialect), contract, dialect)
        for contract, wanted in columns.items()
    ]
    person, day = column("i", "person"), column("i", "day")
    joins = [join(base.person(), "p", exp.EQ(this=column("p", "person"), expression=person))]
    for joined in criteria.joined.values():
        same = exp.EQ(this=column(joined, "person"), expression=person)
        then = exp.EQ(this=column(joined, "day"), expression=day)
        joins.append(join(joined, joined, both(same, then), "LEFT"))
    joins += [
        join(seen, seen, exp.EQ(this=column(seen, "person"), expression=person), "LEFT")
        for seen in criteria.seen.values()
    ]
    select = query(outputs, table_as(criteria.index, "i"), joins=joins, where=conditions)
    select.set("order", exp.Order(expressions=[ordered(person, dialect), ordered(day, dialect)]))
    # one look at everything: each query below is a part of it
    verify(base.everything(select), dialect, base.local_tables)
    return Compiled(base.finish(select), {}, tuple(base.checks()))


def _known(dialect: str) -> None:
    if dialect not in DIALECTS:
        raise ValueError(f"no queries are written in {dialect!r}, only in {', '.join(DIALECTS)}")


def _output(value: exp.Expression, contract: str, dialect: str) -> exp.Alias:
    check_name(contract, dialect)
    return called(value, contract)


def _value_of(
    criteria: Criteria, definition: AnyDefinition, wanted: AnyColumn, dialect: str
) -> exp.Expression:
    match definition:
        case TakePerson():
            return column("i", "person")
        case TakeSex():
            return _sex(definition, criteria.sex(), dialect)
        case TakeAge():
            return _age(criteria.age_span())
        case TakeIndex():
            return _part(definition.part)
        case TakeValue():
            return criteria.value(definition, wanted.unit if isinstance(wanted, NumberColumn) else None)
        case TakeCount():
            return criteria.count(definition)
        case TakeDays():
            return criteria.days(definition)
        case TakePresent():
            enough = exp.GTE(this=criteria.count(definition), expression=integer(definition.at_least))
            yes, no = (text(value, dialect) for value in definition.values)
            return case((enough, yes), otherwise=no)
        case TakeCode():
            return criteria.code(definition)
        case TakeText():
            return criteria.text(definition)


def _sex(definition: TakeSex, sex: exp.Expression, dialect: str) -> exp.Expression:
    pairs = [
        (exp.EQ(this=sex, expression=text(meaning, dialect)), text(spelled, dialect))
        for meaning, spelled in definition.values.items()
    ]
    return case(*pairs, otherwise=sex) if pairs else sex


def _quotient(value: exp.Expression, by: int) -> exp.Expression:
    """Return the whole part of *value*, which is not negative, divided by *by*; exact in any engine."""
    rest = exp.Mod(this=exp.paren(value, copy=False), expression=integer(by))
    even = exp.paren(exp.Sub(this=exp.paren(value, copy=False), expression=rest), copy=False)
    return exp.Cast(this=exp.Div(this=even, expression=integer(by)), to=exp.DataType(this=exp.DType.INT))


def _age(span: exp.Expression) -> exp.Expression:
    return case((exp.GTE(this=span, expression=integer(0)), _quotient(span, 10_000)))


def _part(part: str) -> exp.Expression:
    ymd = column("i", "ymd")
    if part == "year":
        return _quotient(ymd, 10_000)
    return _quotient(exp.Mod(this=ymd, expression=integer(10_000)), 100)
