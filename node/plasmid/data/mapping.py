"""A local column made a declared one: codes, units and dates as the view's mapping says.

Pure: Arrow in, Arrow out; what cannot be converted is marked, never shown.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from plasmid.data.cells import Mask, to_numbers, to_text
from plasmid.data.settings import ColumnMap
from plasmid.recipes.columns import AnyColumn, NumberColumn


def convert(cells: pa.Array, how: ColumnMap, column: AnyColumn) -> tuple[pa.Array, dict[str, Mask]]:
    """Return local *cells*, [rows], as *how* says, and which rows cannot be converted, by code.

    The codes are ``data.code_unmapped`` and ``data.date_unreadable``. A number that is none becomes NaN,
    which the contract then refuses.

    Raises
    ------
    DataError
        ``data.unit_unconvertible``, ``data.unit_unknown``: as :func:`plasmid.data.units.conversion`.
    """
    trouble: dict[str, Mask] = {}
    if how.codes is not None:
        text = to_text(cells)
        places = pc.index_in(text, value_set=pa.array(list(how.codes), pa.string()))
        known = pc.take(pa.array(list(how.codes.values()), pa.string()), places)
        blank = pc.fill_null(pc.equal(text, ""), True)
        marker = pc.is_in(text, value_set=pa.array(column.missing_markers, pa.string()))
        unlisted = pc.and_(pc.invert(pc.or_(blank, marker)), pc.is_null(places))
        cells = pc.if_else(marker, text, known)
        if how.other is not None:
            cells = pc.if_else(unlisted, pa.scalar(how.other), cells)
        else:
            trouble["data.code_unmapped"] = np.asarray(unlisted)
    factor, offset = _scale(how, column)
    if (factor, offset) != (1.0, 0.0):
        cells = pc.add(pc.multiply(to_numbers(cells), factor), offset)
    if how.date_format is not None:
        text = to_text(cells)
        days = pc.strptime(text, format=how.date_format, unit="s", error_is_null=True)
        unread = pc.and_(pc.is_null(days), pc.fill_null(pc.not_equal(text, ""), False))
        trouble["data.date_unreadable"] = np.asarray(unread)
        cells = pc.strftime(days, format="%Y-%m-%d")
    return cells, {code: mask for code, mask in trouble.items() if mask.any()}


def _scale(how: ColumnMap, column: AnyColumn) -> tuple[float, float]:
    if how.factor is not None:
        return how.factor, how.offset
    unit = column.unit if isinstance(column, NumberColumn) else None
    if how.unit is None or unit is None or how.unit == unit:
        return 1.0, how.offset
    from plasmid.data.units import conversion  # loads a unit library, where it is needed

    factor, offset = conversion(how.unit, unit)
    return factor, offset + how.offset
