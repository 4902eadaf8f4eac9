"""A query against the tables that a database has: what it reads, what is not there, and its text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.source import LocalTable
from plasmid.data.sources.sql_dialect import Dialect


def used_tables(query: exp.Select, tables: Mapping[str, LocalTable], where: str) -> list[str]:
    """Return the local tables that *query* reads.

    Raises
    ------
    DataError
        ``data.source_table``: a table or column of *query* is not among *tables*; the nearest names are told.
    """
    folded = {name.casefold(): name for name in tables}
    inner = _inner(query)
    everything = list(query.find_all(exp.Table))
    read = [one for one in everything if one.name not in inner and isinstance(one.this, exp.Identifier)]
    for one in read:
        if one.name.casefold() not in folded:
            raise _missing(f"table {one.name!r}", one.name, tables, where)
    local = {id(one): folded[one.name.casefold()] for one in read}
    # Columns of what the query itself makes are not looked for, nor names that may be one of those.
    opaque = {one.alias_or_name for one in everything if id(one) not in local}
    opaque |= {one.alias for one in query.find_all(exp.Subquery, exp.Values) if one.alias}
    made = {one.alias.casefold() for one in query.find_all(exp.Alias)}
    for column in query.find_all(exp.Column):
        near = [local[id(one)] for one in read if column.table in ("", one.alias_or_name)]
        has = {name.casefold(): name for table in near for name in tables[table].columns}
        name = column.name.casefold()
        if isinstance(column.this, exp.Star) or not near or column.table in opaque or name in has:
            continue
        if not column.table and (opaque or (name in made and column.find_ancestor(exp.Order, exp.Having))):
            continue
        which = f"table {near[0]!r}" if len(set(near)) == 1 else f"tables {', '.join(sorted(set(near)))}"
        raise _missing(f"column {column.name!r} in {which}", column.name, has.values(), where)
    return list(dict.fromkeys(local.values()))


def rendered(query: exp.Select, schema: str | None, dialect: Dialect) -> str:
    """Return the text of *query*, its tables looked for in *schema*."""
    sent = query.copy()
    inner = _inner(sent)
    for table in sent.find_all(exp.Table):
        if schema and not table.db and table.name not in inner:
            table.set("db", exp.to_identifier(schema, quoted=True))
    if dialect.folds_up:
        for one in sent.find_all(exp.Identifier):
            if one.name == one.name.lower():
                one.set("this", one.name.upper())
    return dialect.text(sent)


def _inner(query: exp.Select) -> set[str]:
    return {one.alias for one in query.find_all(exp.CTE)}


def _missing(what: str, name: str, known: Iterable[str], where: str) -> DataError:
    folded = {one.casefold(): one for one in known}
    close = [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, 3, cutoff=0.6)]
    near = f" Near to it: {', '.join(map(repr, close))}." if close else ""
    return DataError(
        "data.source_table",
        f"{where} has no {what}.{near}",
        "Correct the view's mapping, or the rights of the role: it may not see everything.",
    )
