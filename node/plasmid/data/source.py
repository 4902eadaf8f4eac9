"""The port that every connector implements: local tables, and one read-only query over them.

Rules
-----
1. A source answers exactly one question: a single SELECT over its own tables, as Arrow record batches, in one
   consistent snapshot. It never writes.
2. Batches arrive as a stream. No more than a few of them exist at a time, however large the table.
3. What a source raises names table, column and count; never a cell, not even as the cause of an exception.
4. A source lives in the reader's process (:mod:`plasmid.data.reader`): the gateway holds no row and no
   password of a database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa
from sqlglot import exp

BATCH_ROWS = 16_384
"""Rows of a batch, about."""


@dataclass(frozen=True)
class LocalTable:
    """A table as its owner has it.

    Attributes
    ----------
    columns
        Column name -> type, as the source spells it.
    rows
        How many rows, or None where counting would read everything.
    repeated
        How often those names occur that more than one column has; ``columns`` has the first of them.
    """

    columns: Mapping[str, str]
    rows: int | None = None
    repeated: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Trouble:
    """What a source counted while it was read.

    Attributes
    ----------
    code
        ``data.`` refuses the table, ``notice.`` is for its owner to know.
    sentence
        With table, column and count; without a cell.
    """

    code: str
    sentence: str
    hint: str = ""


class Source(Protocol):
    """One open connection.

    Attributes
    ----------
    dialect
        sqlglot's name of the SQL that :meth:`select` takes.
    """

    dialect: str

    def tables(self) -> Mapping[str, LocalTable]:
        """Return the local tables by name. Raises DataError (``data.source_down``)."""

    def check_role(self, tables: Sequence[str]) -> None:
        """Refuse a role that may write to any of *tables*. Raises DataError (``data.role_may_write``)."""

    def select(self, query: exp.Select) -> Iterator[pa.RecordBatch]:
        """Yield the rows of *query*, whose column names are those of its projections.

        Raises
        ------
        DataError
            ``data.source_down``, ``data.source_table``: a table or column is not there;
            ``data.source_timeout``; what the connector says of damaged input.
        """

    def troubles(self) -> list[Trouble]:
        """Return what was counted so far, over everything that was read."""

    def locate(self, table: str, row: int) -> str:
        """Return where row number *row* (from 0, in the order of a plain projection) of *table* stands.

        For example ``line 17`` of a CSV file, ``record 4`` of a FASTA file; the owner sees it, nobody else.
        """

    def close(self) -> None:
        """End the connection; calling it again does nothing."""
