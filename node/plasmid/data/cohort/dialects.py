"""The few pieces of SQL that differ between engines, so that the same data give the same rows in each.

Rules
-----
1. Everything is a tree of sqlglot, never text. A name is a quoted identifier, a value a literal.
2. Text is compared by its code points, whatever collation a column has: PostgreSQL's orders ``a`` before
   ``B``, MySQL's and SQL Server's say that both cases are equal.
3. Blanks around a text are left out, and an empty text is missing, as in a file.
4. A number is read from text by one pattern in every engine; "1e3" and "-.5" are numbers, "1,5", "NaN" and
   "12 mg" are none. Arithmetic on values is in double precision.
5. Connectors see to the session: ISO dates as text (``DateStyle``, ``NLS_DATE_FORMAT``), and in PostgreSQL
   ``standard_conforming_strings``; all of these are defaults but Oracle's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, cast

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect

from plasmid.core.errors import DataError
from plasmid.data.settings import TableMap

DIALECTS: Final = ("duckdb", "postgres", "sqlite", "mysql", "tsql", "oracle", "snowflake")
_NAME_LIMITS = {"postgres": 63, "mysql": 64, "tsql": 128, "oracle": 128, "snowflake": 255}
"""Bytes of a column's name in a result; PostgreSQL cuts a longer one without an error."""
_NUMBER = "^[+-]?([0-9]{1,40}[.]?[0-9]{0,40}|[.][0-9]{1,40})([eE][+-]?[0-9]{1,2})?$"
# Types by their parts, for building a type from its text takes as long as the rest of a query.
_TEXT_TYPES = {
    "tsql": exp.DataType(
        this=exp.DType.NVARCHAR, expressions=[exp.DataTypeParam(this=exp.Literal.number(4000))]
    ),
    "oracle": exp.DataType(
        this=exp.DType.VARCHAR, expressions=[exp.DataTypeParam(this=exp.Literal.number(4000))]
    ),
    "mysql": exp.DataType(this=exp.DType.CHARACTER_SET, kind=exp.Var(this="utf8mb4")),
}
_COLLATIONS = {
    "postgres": exp.Identifier(this="C", quoted=True),
    "mysql": exp.Var(this="utf8mb4_bin"),
    "tsql": exp.Var(this="Latin1_General_BIN2"),
}


def both(*conditions: exp.Expression) -> exp.Expression:
    """Return that all of *conditions* hold."""
    return cast("exp.Expression", exp.and_(*conditions, copy=False))


def either(*conditions: exp.Expression) -> exp.Expression:
    """Return that one of *conditions* holds."""
    return cast("exp.Expression", exp.or_(*conditions, copy=False))


def is_null(value: exp.Expression) -> exp.Expression:
    """Return that *value* is missing."""
    return exp.Is(this=value, expression=exp.Null())


def is_there(value: exp.Expression) -> exp.Expression:
    """Return that *value* is not missing."""
    return exp.Not(this=is_null(value))


def case(*pairs: tuple[exp.Expression, exp.Expression], otherwise: exp.Expression | None = None) -> exp.Case:
    """Return the value of the first of *pairs* whose condition holds, else *otherwise* (None: NULL)."""
    ifs = [exp.If(this=condition, true=value) for condition, value in pairs]
    return exp.Case(ifs=ifs, default=otherwise)


def table_as(table: str, alias: str) -> exp.Table:
    """Return *table* under the name *alias*."""
    return exp.Table(this=name(table), alias=exp.TableAlias(this=name(alias)))


def join(table: str, alias: str, on: exp.Expression, side: str | None = None) -> exp.Join:
    """Return the join of *table* as *alias*; *side* ``LEFT`` keeps rows without a partner."""
    return exp.Join(this=table_as(table, alias), on=on, side=side, kind=None if side else "INNER")


def query(
    outputs: Sequence[exp.Expression],
    source: exp.Table,
    *,
    joins: Sequence[exp.Join] = (),
    where: Sequence[exp.Expression] = (),
    group: Sequence[exp.Expression] = (),
    distinct: bool = False,
) -> exp.Select:
    """Return a SELECT. Parts may be shared by several trees: sqlglot copies a tree before it writes it."""
    args: dict[str, object] = {"expressions": list(outputs), "from_": exp.From(this=source)}
    if joins:
        args["joins"] = list(joins)
    if where:
        args["where"] = exp.Where(this=both(*where))
    if group:
        args["group"] = exp.Group(expressions=list(group))
    if distinct:
        args["distinct"] = exp.Distinct()
    return exp.Select(**args)


def called(value: exp.Expression, alias: str) -> exp.Alias:
    """Return *value* as an output column."""
    return exp.Alias(this=value, alias=name(alias))


def name(text: str) -> exp.Identifier:
    """Return *text* as a quoted identifier."""
    return exp.Identifier(this=text, quoted=True)


def column(table: str, text: str) -> exp.Column:
    """Return the column *text* of what is called *table* in the query."""
    return exp.Column(this=name(text), table=name(table))


def text(value: str, dialect: str) -> exp.Expression:
    """Return *value* as a literal; SQL Server and Oracle keep letters beyond ASCII only as national ones."""
    if dialect in ("tsql", "oracle") and not value.isascii():
        return exp.National(this=value)
    return exp.Literal.string(value)


def integer(value: int) -> exp.Expression:
    """Return *value* as a literal."""
    return exp.Literal.number(value) if value >= 0 else exp.Neg(this=exp.Literal.number(-value))


def double(value: float) -> exp.Expression:
    """Return *value* in double precision; the exponent keeps engines from reading a decimal."""
    digits = exp.Cast(this=exp.Literal.number(f"{abs(value):.17e}"), to=exp.DataType(this=exp.DType.DOUBLE))
    return digits if value >= 0 else exp.Neg(this=digits)


def whole(value: exp.Expression, dialect: str) -> exp.Expression:
    """Return *value*, a whole number in whatever type, as an integer."""
    kind = exp.TryCast if dialect == "duckdb" else exp.Cast
    return kind(this=value, to=exp.DataType(this=exp.DType.INT))


def as_text(value: exp.Expression, dialect: str) -> exp.Expression:
    """Return *value* as text without blanks around it, compared by code points; empty is NULL."""
    if dialect == "tsql":  # style 23 is ISO for dates and nothing for other types
        kind = _TEXT_TYPES["tsql"]
        typed: exp.Expression = exp.Convert(this=kind, expression=value, style=exp.Literal.number(23))
    else:
        kind = _TEXT_TYPES.get(dialect, exp.DataType(this=exp.DType.TEXT))
        typed = exp.Cast(this=value, to=kind)
    trimmed: exp.Expression = exp.Trim(this=typed)
    collation = _COLLATIONS.get(dialect)
    if collation is not None:
        trimmed = exp.Collate(this=trimmed, expression=collation)
    return exp.Nullif(this=trimmed, expression=exp.Literal.string(""))


def sortable(value: exp.Expression, dialect: str) -> exp.Expression:
    """Return a long text as what can be sorted; Oracle sorts no CLOB, so there its first 1,000 characters."""
    if dialect == "oracle":
        value = exp.Substring(this=value, start=integer(1), length=integer(1000))
    return as_text(value, dialect)


def blanked(value: exp.Expression, dialect: str) -> exp.Expression:
    """Return the text *value* with each of its digits as 0."""
    if dialect not in ("mysql", "sqlite"):
        digits, zeros = exp.Literal.string("123456789"), exp.Literal.string("0" * 9)
        return exp.Translate(this=value, from_=digits, to=zeros)
    for digit in "123456789":
        value = exp.Replace(
            this=value, expression=exp.Literal.string(digit), replacement=exp.Literal.string("0")
        )
    return value


def number(raw: exp.Expression, as_read: exp.Expression, dialect: str) -> exp.Expression:
    """Return the local value *raw* in double precision, NULL where it is no number.

    Parameters
    ----------
    as_read
        The same value by :func:`as_text`.
    """
    target = exp.DataType(this=exp.DType.DOUBLE)
    if (
        dialect == "tsql"
    ):  # no patterns before 2025, but a cast that gives NULL, and 0 only for the empty text
        return case((is_there(as_read), exp.TryCast(this=raw, to=target)))
    if dialect == "sqlite":
        return _sqlite_number(raw, as_read, target)
    kind = exp.TryCast if dialect == "duckdb" else exp.Cast
    pattern = exp.RegexpLike(this=as_read, expression=exp.Literal.string(_NUMBER))
    return case((pattern, kind(this=raw, to=target)))


def _sqlite_number(raw: exp.Expression, as_read: exp.Expression, target: exp.DataType) -> exp.Expression:
    """Without patterns: what is a number already, or text of digits with at most one sign and one point."""
    stored = exp.In(
        this=exp.Typeof(this=raw),
        expressions=[exp.Literal.string(kind) for kind in ("integer", "real")],
    )
    first = exp.Substring(this=as_read, start=integer(1), length=integer(1))
    signed = exp.In(this=first, expressions=[exp.Literal.string(sign) for sign in "+-"])
    rest = exp.Substring(this=as_read, start=integer(2), length=integer(81))
    body = case((signed, rest), otherwise=as_read)
    zeros = blanked(body, "sqlite")
    left = exp.Replace(this=zeros, expression=exp.Literal.string("0"), replacement=exp.Literal.string(""))
    digits = exp.In(this=left, expressions=[exp.Literal.string(shape) for shape in ("", ".")])
    some = exp.NEQ(this=body, expression=exp.Literal.string("."))
    kept = both(digits, some, exp.NEQ(this=body, expression=exp.Literal.string("")))
    typed = exp.Cast(this=raw, to=target)
    return case((stored, typed), (kept, typed))


def ordered(value: exp.Expression, dialect: str, *, descending: bool = False) -> exp.Ordered:
    """Return *value* as a key of ORDER BY; it is never NULL, and no engine is told where NULL goes."""
    null_ordering = _null_ordering(dialect)
    first = null_ordering != "nulls_are_last" and (null_ordering == "nulls_are_small") != descending
    return exp.Ordered(this=value, desc=descending, nulls_first=first)


@lru_cache(maxsize=16)
def _null_ordering(dialect: str) -> str:
    return str(Dialect.get_or_raise(dialect).NULL_ORDERING)


def check_name(given: str, dialect: str) -> None:
    """Raise DataError (``data.name_unusable``) if *dialect* cannot name a column of a result *given*."""
    limit = _NAME_LIMITS.get(dialect)
    if limit is not None and len(given.encode()) > limit:
        raise DataError(
            "data.name_unusable",
            f"a column of this source's result cannot be called {given!r}.",
            f"Its engine takes names of at most {limit} bytes: the recipe needs a shorter one.",
        )
    _check_quotes(given, dialect)


def check_table(mapping: TableMap, dialect: str) -> None:
    """Raise DataError (``data.name_unusable``) if *dialect* cannot name a table or a column of *mapping*."""
    if dialect == "tsql" and mapping.table.startswith("#"):
        raise DataError(
            "data.name_unusable",
            f"the table {mapping.table!r} would be a temporary one of the session.",
            "Name a table or view of the database.",
        )
    for given in (mapping.table, *(how.column for how in map(mapping.column, mapping.columns) if how)):
        _check_quotes(given, dialect)


def _check_quotes(given: str, dialect: str) -> None:
    if dialect == "oracle" and '"' in given:
        raise DataError(
            "data.name_unusable", f"Oracle has no table or column {given!r}.", "Its names hold no quote."
        )
