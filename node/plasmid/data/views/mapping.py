"""A local column made a declared one: codes, units and dates as the view's mapping says.

Pure: Arrow in, Arrow out; what cannot be converted is marked, never shown.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from plasmid.core.errors import DataError
from plasmid.data.parsing import Mask, to_numbers, to_text
from plasmid.data.settings import ColumnMap
from plasmid.recipes.columns import AnyColumn, NumberColumn


def convert(cells: pa.Array, how: ColumnMap, column: AnyColumn) -> tuple[pa.Array, dict[str, Mask]]:
    """Return local *cells*, [rows], as *how* says, and which rows cannot be converted, by code.

    The codes are ``data.code_unmapped`` and ``data.date_unreadable``. A number that is none becomes NaN,
    which the contract then refuses.

    A marker of the contract for what is missing stays as it is: it is neither a code nor a number of a unit.

    Raises
    ------
    DataError
        ``data.unit_unconvertible``: as :func:`plasmid.data.views.units.conversion`, or the contract has no
        unit.
    """
    trouble: dict[str, Mask] = {}
    if how.codes is not None:
        text = to_text(cells)
        places = pc.index_in(text, value_set=pa.array([one.strip() for one in how.codes], pa.string()))
        known = pc.take(pa.array(list(how.codes.values()), pa.string()), places)
        blank = pc.fill_null(pc.equal(text, ""), True)
        marker = _is_marker(text, column)
        unlisted = pc.and_(pc.invert(pc.or_(blank, marker)), pc.is_null(places))
        cells = pc.if_else(pc.and_(marker, pc.is_null(places)), text, known)
        if how.other is not None:
            cells = pc.if_else(unlisted, pa.scalar(how.other), cells)
        else:
            trouble["data.code_unmapped"] = np.asarray(unlisted)
    factor, offset = _scale(how, column)
    if (factor, offset) != (1.0, 0.0):
        given = pc.if_else(_is_marker(to_text(cells), column), pa.scalar(None), to_numbers(cells))
        cells = pc.add(pc.multiply(given, factor), offset)
    if how.date_format is not None and not pa.types.is_temporal(cells.type):
        text = to_text(cells)
        each = text.dictionary_encode()  # few texts are many dates
        days = pa.array([_day(one, how.date_format) for one in each.dictionary.to_pylist()], pa.string())
        days, marker = pc.take(days, each.indices), _is_marker(text, column)
        there = pc.and_(pc.fill_null(pc.not_equal(text, ""), False), pc.invert(marker))
        trouble["data.date_unreadable"] = np.asarray(pc.and_(pc.is_null(days), there))
        cells = pc.if_else(marker, text, days)
    return cells, {code: mask for code, mask in trouble.items() if mask.any()}


def _is_marker(text: pa.Array, column: AnyColumn) -> pa.Array:
    return pc.is_in(text, value_set=pa.array(column.missing_markers, pa.string()))


def _day(text: str, form: str) -> str | None:
    try:  # not Arrow's, to which 31 February is a day in March
        return datetime.strptime(text, form).date().isoformat()
    except ValueError:
        return None


def _scale(how: ColumnMap, column: AnyColumn) -> tuple[float, float]:
    if how.factor is not None:
        return how.factor, how.offset
    unit = column.unit if isinstance(column, NumberColumn) else None
    if how.unit is None or how.unit == unit:
        return 1.0, how.offset
    if unit is None:
        raise DataError(
            "data.unit_unconvertible",
            f"the view says that column {how.column!r} is in {how.unit!r}, and the contract's has no unit.",
            "Leave 'unit' out of the view, or give factor, if you know what the recipe expects.",
        )
    from plasmid.data.views.units import conversion  # loads a unit library, where it is needed

    factor, offset = conversion(how.unit, unit)
    return factor, offset + how.offset
