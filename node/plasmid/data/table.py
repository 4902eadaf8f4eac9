"""A validated table in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from plasmid.bases.specs import Cell


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

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        return list(self.columns)

    def record(self, row: int) -> dict[str, Cell]:
        """Return one row by column name."""
        return {name: values[row] for name, values in self.columns.items()}

    def records(self) -> Iterator[dict[str, Cell]]:
        """Yield every row by column name."""
        for row in range(self.rows):
            yield self.record(row)


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


class Drawn(Protocol):
    """Rows that are drawn a few at a time: a table, a snapshot, or one after the other."""

    @property
    def rows(self) -> int:
        """The number of rows."""

    def subset(self, indices: Iterable[int]) -> Table:
        """Return the rows at *indices*, in that order."""

    @property
    def names(self) -> list[str]:
        """The columns' names."""

    def groups(self, column: str) -> Sequence[Any]:
        """Return the row numbers of each person, each a sequence of int."""


class Chosen:
    """Those rows of *whole* that *rows* names, ascending, which stay where they are."""

    def __init__(self, whole: Drawn, rows: Sequence[int]) -> None:
        self._whole, self._rows = whole, rows

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return self._whole.names

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def subset(self, indices: Iterable[int]) -> Table:
        """Return the rows at *indices*, in that order."""
        return self._whole.subset([self._rows[int(index)] for index in indices])

    def groups(self, column: str) -> Sequence[Any]:
        """Return the row numbers of each person of whom there are rows, in order of their first row."""
        places = {int(row): place for place, row in enumerate(self._rows)}
        groups = (
            [places[row] for row in map(int, rows) if row in places] for rows in self._whole.groups(column)
        )
        return sorted(rows for rows in groups if rows)


class Joined:
    """The rows of *first*, which stay where they are, and then those of *second*."""

    def __init__(self, first: Drawn, second: Table) -> None:
        self._first, self._second = first, second

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return self._second.names

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self._first.rows + self._second.rows

    def subset(self, indices: Iterable[int]) -> Table:
        """Return the rows at *indices*, in that order."""
        wanted, cut = [int(index) for index in indices], self._first.rows
        here = [index for index in wanted if index < cut]
        there = [index - cut for index in wanted if index >= cut]
        joined = concatenate([self._first.subset(here), self._second.subset(there)])
        places, after = iter(range(len(here))), iter(range(len(here), len(wanted)))
        return joined.subset([next(places) if index < cut else next(after) for index in wanted])

    def groups(self, column: str) -> Sequence[Any]:
        """Return the row numbers of each person; nobody is in both parts."""
        cut = self._first.rows
        own = [[cut + row for row in rows] for rows in self._second.groups(column)]
        return [*self._first.groups(column), *own]
