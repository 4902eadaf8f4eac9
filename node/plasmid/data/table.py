"""A validated table in memory, and the bytes that carry it to the worker."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plasmid.core.errors import DataError
from plasmid.models.specs import Cell


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes
    ----------
    columns
        The values by column name, each list *rows* long.
    rows
        The number of rows.
    notices
        What the reader changed or what its owner should know, as sentences without values.
    """

    columns: Mapping[str, list[Cell]]
    rows: int
    notices: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if any(len(values) != self.rows for values in self.columns.values()):
            raise ValueError("columns of a table have equal length")

    def __repr__(self) -> str:
        return f"Table(columns={list(self.columns)!r}, rows={self.rows})"

    def subset(self, indices: Iterable[int]) -> Table:
        """Return the rows at *indices*, in that order; a row may be asked for twice."""
        chosen = [int(index) for index in indices]
        columns = {name: [values[index] for index in chosen] for name, values in self.columns.items()}
        return Table(columns, len(chosen), self.notices)

    def groups(self, column: str) -> list[list[int]]:
        """Return the row numbers of each person, ascending, persons in order of their first row.

        Parameters
        ----------
        column
            An identifier column. A row without an identifier is a person of its own.
        """
        found: dict[Cell, list[int]] = {}
        alone: list[list[int]] = []
        for row, cell in enumerate(self.columns[column]):
            if cell is None:
                alone.append([row])
            else:
                found.setdefault(cell, []).append(row)
        return sorted([*found.values(), *alone])

    def to_bytes(self) -> bytes:
        """Return the table as UTF-8 JSON."""
        content = {"columns": dict(self.columns), "rows": self.rows, "notices": list(self.notices)}
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Table:
        """Return the table that :meth:`to_bytes` wrote.

        Raises
        ------
        DataError
            ``data.table_malformed``: *data* is something else.
        """
        try:
            content = json.loads(bytes(data))
            sound = _is_sound(content)
        except (ValueError, RecursionError):
            sound = False
        if not sound:
            raise DataError(
                "data.table_malformed",
                "the bytes are not a table.",
                "Gateway and worker must be of one release.",
            )
        return cls(content["columns"], content["rows"], tuple(content["notices"]))


def concatenate(tables: Iterable[Table]) -> Table:
    """Return the rows of all *tables*, in order. All must have the first one's columns.

    Raises
    ------
    ValueError
        There is no table, or their columns differ.
    """
    given = list(tables)
    if not given or any(table.columns.keys() != given[0].columns.keys() for table in given):
        raise ValueError("tables to be joined have the same columns")
    columns = {name: [cell for table in given for cell in table.columns[name]] for name in given[0].columns}
    return Table(columns, sum(table.rows for table in given))


def _is_sound(content: Any) -> bool:
    if not isinstance(content, dict) or content.keys() != {"columns", "rows", "notices"}:
        return False
    columns, rows, notices = content["columns"], content["rows"], content["notices"]
    return (
        isinstance(columns, dict)
        and type(rows) is int
        and isinstance(notices, list)
        and all(isinstance(notice, str) for notice in notices)
        and all(isinstance(values, list) and len(values) == rows for values in columns.values())
        and all(_is_cell(cell) for values in columns.values() for cell in values)
    )


def _is_cell(cell: object) -> bool:
    if cell is None or isinstance(cell, str):
        return True
    return isinstance(cell, int | float) and not isinstance(cell, bool) and math.isfinite(cell)
