"""Columns of a batch, as transforms take and replace them."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from plasmid.core.errors import DataError
from plasmid.data.parsing import to_text
from plasmid.data.transforms.base import Place, suggestion


def check_columns(columns: Iterable[str], place: Place) -> None:
    """Refuse columns that batches cannot hold. Raises DataError (``data.transform_column``)."""
    unknown = [name for name in columns if name not in place.columns]
    if unknown:
        told = ", ".join(f"{name!r}{suggestion(name, place.columns)}" for name in unknown)
        raise DataError(
            "data.transform_column",
            f"the contract has no column {told}.",
            "Name columns as the contract does, not as the local table does.",
        )


def person_column(named: str | None, place: Place, code: str, why: str) -> str:
    """Return the column that says whose a row is: *named*, or the document's patient column.

    Raises
    ------
    DataError
        *code*: there is none; *why* says what would happen.
    """
    column = named or place.patient
    if column is None:
        raise DataError(
            code,
            f"the document has no patient column, so {why}.",
            "Name the column in the transform's settings, or refuse documents without a patient column.",
        )
    if column not in place.columns:
        raise DataError(
            code,
            f"the contract has no column {column!r}{suggestion(column, place.columns)}, so {why}.",
            "Name the column that identifies people as the contract does.",
        )
    return column


def persons(batch: pa.RecordBatch, column: str, code: str) -> pa.StringArray:
    """Return the identifiers of *batch* as the contract compares them, null where there is none.

    Raises
    ------
    DataError
        *code*: the batch has no such column, or one that nothing was read into.
    """
    if column not in batch.schema.names or pa.types.is_null(batch.schema.field(column).type):
        raise DataError(
            code,
            f"the rows have no column {column!r}, which says whose they are.",
            "Map that column in the view, or take the transform out of it.",
        )
    text = to_text(batch.column(column))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def text_column(name: str, values: pa.Array, transform: str) -> pa.StringArray:
    """Return *values* as text; a column without any value is one of missing text.

    Raises
    ------
    DataError
        ``data.transform_type``: they are of another type.
    """
    if not is_text(values.type) and not pa.types.is_null(values.type):
        raise DataError(
            "data.transform_type",
            f"{transform} takes text, and column {name!r} holds {values.type}.",
            "Name columns of text, or have the source give that column as text.",
        )
    return values.cast(pa.string())


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of *kind* are text, in whichever of Arrow's layouts."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return inner in {pa.string(), pa.large_string(), pa.string_view()}


def replace_column(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    """Return *batch* with *values* in column *name*."""
    return batch.set_column(batch.schema.get_field_index(name), name, values)
