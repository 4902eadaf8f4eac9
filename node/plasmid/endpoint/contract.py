"""A caller's rows under an adapter's data contract: read as ``plasmid predict`` reads a file.

Rules
-----
1. Cells are checked and cleaned by the same functions (:mod:`plasmid.data.parsing`), so that a row scores the
   same here.
2. The length of an input is counted in the model's tokens, not the contract's letters, and told with both
   numbers.
3. Messages name columns, kinds of problems and rows, never a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from plasmid.adapters.files import HeadFile
from plasmid.bases.specs import Cell
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import DataError, ModelError
from plasmid.data.findings import Tally
from plasmid.data.parsing import check_column
from plasmid.endpoint.requests import MAX_CHARACTERS
from plasmid.recipes.columns import (
    AnyColumn,
    Column,
    MoleculeColumn,
    NucleotideColumn,
    ProteinColumn,
    TextColumn,
)

_COLUMNS: TypeAdapter[dict[str, AnyColumn]] = TypeAdapter(dict[str, Column])
_PLAIN: dict[str, AnyColumn] = {
    "protein": ProteinColumn(type="protein", max_length=8192),
    "nucleotide": NucleotideColumn(type="nucleotide", max_length=65_536),
    "molecule": MoleculeColumn(type="molecule", max_length=8192),
    "text": TextColumn(type="text", max_length=8192),
}


def input_column(about: HeadFile | None, kind: str) -> AnyColumn:
    """Return the contract of an adapter's input, or of a base model's that reads *kind*."""
    if about is None or about.input not in about.columns:
        return _PLAIN[kind]
    return _contract(canonical_json(about.columns))[about.input]


@lru_cache(maxsize=512)
def _contract(columns: bytes) -> dict[str, AnyColumn]:
    try:
        return _COLUMNS.validate_json(columns)
    except ValidationError as error:
        raise ModelError(
            "model.adapter_invalid",
            "the columns in the adapter's head.json are no data contract.",
            "Fetch the adapter again from its source.",
        ) from error


def wanted(about: HeadFile) -> dict[str, AnyColumn]:
    """Return the columns that a row needs: the input, then the covariates."""
    known = _contract(canonical_json(about.columns))
    names = [about.input, *(one.name for one in about.head.covariates)]
    return {about.input: input_column(about, about.kind)} | {
        name: known[name] for name in names[1:] if name in known
    }


def clean(
    given: Mapping[str, Sequence[Cell]], columns: Mapping[str, AnyColumn], rows: int
) -> dict[str, list[Any]]:
    """Return *given* under the contracts *columns*, each [rows].

    Raises
    ------
    DataError
        The first problem's code; all are told.
    """
    tally, found = Tally(), {}
    for name, column in columns.items():
        if name not in given:
            if column.required:
                tally.problem("data.column_missing", f"column {name!r} is missing")
            continue
        try:
            cells = pa.array(list(given[name]))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            tally.problem("data.source_value", f"column {name!r} holds text and numbers")
            continue
        checked = check_column(cells, _without_limit(column))
        for finding, mask in checked.findings.items():
            tally.add(name, finding.value, mask, np.arange(rows))
        found[name] = checked.values.to_pylist()
    tally.raise_if_errors("the request", columns, lambda row: f"row {row + 1}", [])
    return found | {name: [None] * rows for name in columns if name not in found}


def _without_limit(column: AnyColumn) -> AnyColumn:
    if isinstance(column, TextColumn):
        return column.model_copy(update={"max_characters": MAX_CHARACTERS})
    if hasattr(column, "max_length"):
        return column.model_copy(update={"max_length": MAX_CHARACTERS})
    return column


def one_column(values: Sequence[str], column: AnyColumn) -> list[str]:
    """Return *values* under *column*. Raises DataError as :func:`clean`."""
    found = clean({"input": values}, {"input": column}, len(values))["input"]
    missing = [row for row, value in enumerate(found) if value is None]
    if missing:
        raise DataError(
            "data.missing_value",
            f"{len(missing)} inputs are empty, first in row {missing[0] + 1}.",
            "Leave them out.",
        )
    return found
