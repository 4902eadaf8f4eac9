"""Measured values in the unit that is asked for, and the count of those that cannot be had in it."""

from __future__ import annotations

from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort.declared_tables import DeclaredTables
from plasmid.data.cohort.dialects import both, case, column, double, either, integer, is_null, is_there, text
from plasmid.data.views.units import conversion


def measured(base: DeclaredTables, table: str, source: str, unit: str | None) -> exp.Expression:
    """Return the value of a row ``e`` of *source* in *unit* (UCUM; None: as it is).

    A factor of the mapping decides; else the unit of the row, through the mapping's ``units``; else the
    unit of the column. A local unit that is written as UCUM writes it needs no line in ``units``.

    Raises
    ------
    DataError
        ``data.column_unmapped``; ``data.unit_unmapped``: nothing says in which unit the values are;
        ``data.unit_unconvertible``: all of them are in one that does not convert; ``data.factor_ambiguous``:
        one factor, and values of several concept sets.
    """
    how = base.has(table, "value")
    raw = column("e", "value")
    unread = both(is_there(column("b", "value_t")), is_null(column("b", "value")))
    base.check("data.not_a_number", table, "value", source, unread)
    if how.factor is not None:
        if base.scaled.setdefault(table, source) != source:
            raise DataError(
                "data.factor_ambiguous",
                f"the view gives one factor for {table}.value, and the recipe asks for several things of it.",
                "A factor fits one analyte in one unit: name the rows' units instead ('unit', 'units'), or "
                "map a database view that has converted them.",
            )
        return _scaled(raw, how.factor, how.offset)
    if unit is None:
        return raw
    if base.carries(table, "unit"):
        return _by_row(base, table, source, unit)
    if how.unit is None:
        raise DataError(
            "data.unit_unmapped",
            f"the recipe wants {table}.value in {unit}; the view does not say in which unit yours is.",
            "Map the column unit, or give unit beside the column value.",
        )
    return _scaled(raw, *conversion(how.unit, unit))


def _by_row(base: DeclaredTables, table: str, source: str, unit: str) -> exp.Expression:
    units = {local.strip(): ucum for local, ucum in base.mapping(table).units.items()}
    for written in (unit, *units.values()):
        units.setdefault(written, written)
    pairs, unconvertible = [], []
    for local, ucum in units.items():
        try:
            scaled = _scaled(column("e", "value"), *conversion(ucum, unit))
        except DataError:  # other analytes of the table are measured in it; a row of this one is counted
            unconvertible.append(_is(column("b", "unit"), local, base.dialect))
        else:
            pairs.append((_is(column("e", "unit"), local, base.dialect), scaled))
    there = is_there(column("b", "value"))
    listed = either(*(_is(column("b", "unit"), local, base.dialect) for local in units))
    known = case((listed, integer(1)), otherwise=integer(0))
    unknown = both(there, exp.EQ(this=known, expression=integer(0)))
    base.check("data.unit_unmapped", table, "unit", source, unknown, unit)
    if unconvertible:
        wrong = both(there, either(*unconvertible))
        base.check("data.unit_unconvertible", table, "unit", source, wrong, unit)
    return case(*pairs) if pairs else exp.Cast(this=exp.Null(), to=exp.DataType(this=exp.DType.DOUBLE))


def _is(value: exp.Expression, local: str, dialect: str) -> exp.Expression:
    return exp.EQ(this=value, expression=text(local, dialect)) if local else is_null(value)


def _scaled(value: exp.Expression, factor: float, offset: float) -> exp.Expression:
    if factor != 1.0:
        value = exp.Mul(this=value, expression=double(factor))
    return exp.paren(exp.Add(this=value, expression=double(offset)), copy=False) if offset else value
