"""What the columns of a query to SQLite hold, which SQLite itself does not say.

Rules
-----
1. A plain column holds what its table declares, by SQLite's rules of affinity (datatype3.html, 3.1); a cast
   what it casts to; COUNT whole numbers. A value of another kind is refused when it comes.
2. Of every other column the values are asked for their types, once and in the same snapshot: text where one
   is text, float64 where one is no whole number. Dates are text, as SQLite has them.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlglot import exp

from plasmid.data.source import LocalTable
from plasmid.data.sources.sql_arrow import Kind


def kinds(
    query: exp.Select, sql: str, tables: Mapping[str, LocalTable], connection: sa.Connection
) -> list[Kind]:
    """Return what each projection of *query* holds, which is *sql* as it is sent."""
    found = [_declared(one.unalias(), query, tables) for one in query.selects]
    open_ = [index for index, kind in enumerate(found) if kind is None]
    if not open_:
        return [kind for kind in found if kind is not None]
    names = ", ".join(f"c{index}" for index in range(len(found)))
    types = ", ".join(f"typeof(c{index})" for index in open_)
    rows = connection.execution_options(no_parameters=True).exec_driver_sql(
        f"WITH q({names}) AS ({sql}) SELECT DISTINCT {types} FROM q"  # noqa: S608 - our own rendering
    )
    seen = [set(column) - {"null"} for column in zip(*rows.all(), strict=True)] or [set() for _ in open_]
    asked = dict(zip(open_, map(_of_values, seen), strict=True))
    return [kind or asked[index] for index, kind in enumerate(found)]


def _of_values(types: set[str]) -> Kind:
    if "blob" in types:
        return "bytes"
    if types == {"integer"}:
        return "int"
    return "float" if types and "text" not in types else "text"


def _declared(what: exp.Expr, query: exp.Select, tables: Mapping[str, LocalTable]) -> Kind | None:
    if isinstance(what, exp.Count):
        return "int"
    if isinstance(what, exp.Cast):
        return _affinity(what.to.sql("sqlite"))
    if not isinstance(what, exp.Column):
        return None
    of = [
        one
        for one in (query.args.get("from_") or query.args.get("from"), *query.args.get("joins", ()))
        if one
    ]
    found = [one.this for one in of if isinstance(one.this, exp.Table)]
    near = [one for one in found if what.table in ("", one.alias_or_name)]
    if len(found) != len(of) or len(near) != 1 or query.args.get("with_"):
        return None
    declared = tables[near[0].name].columns.get(what.name) if near[0].name in tables else None
    return None if declared is None else _affinity(declared)


def _affinity(declared: str) -> Kind | None:
    name = declared.upper()
    if "INT" in name or "BOOL" in name:
        return "int"
    if any(part in name for part in ("CHAR", "CLOB", "TEXT", "DATE", "TIME", "JSON", "UUID")):
        return "text"
    if any(part in name for part in ("REAL", "FLOA", "DOUB")):
        return "float"
    return "decimal" if any(part in name for part in ("NUM", "DEC")) else None
