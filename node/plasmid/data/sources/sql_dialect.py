"""What the connector must know of a kind of database: the port that each kind implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlglot import exp

from plasmid.data.source import LocalTable
from plasmid.data.sources.sql_arrow import Kind

CONNECT_S = 30
"""How long a connection may take to come about, in seconds."""


@dataclass(frozen=True)
class Asked:
    """A query whose types are to be told.

    Attributes
    ----------
    sql
        *query* as it was sent.
    description
        What the driver's cursor says of the columns, as PEP 249 has it.
    tables
        The local tables.
    """

    connection: sa.Connection
    query: exp.Select
    sql: str
    description: Sequence[Sequence[Any]]
    tables: Mapping[str, LocalTable]


def decimal(precision: int | None, scale: int | None) -> Kind:
    # Below 10^15 every whole number is a float64, which is what some drivers hand over.
    return "int" if scale == 0 and precision and precision <= 15 else "decimal"


class Dialect:
    """What the connector must know of a kind of database.

    Attributes
    ----------
    sqlglot
        sqlglot's name of its SQL.
    driver, module, package
        The driver: SQLAlchemy's name, what is imported, what is installed.
    folds_up
        Whether a name that SQLAlchemy gives in lower case stands in upper case in the database.
    """

    sqlglot: ClassVar[str]
    driver: ClassVar[str]
    module: ClassVar[str]
    package: ClassVar[str]
    folds_up: ClassVar[bool] = False

    def text(self, query: exp.Select) -> str:
        """Return *query* as the database takes it."""
        return query.sql(self.sqlglot)

    def connect_args(self, limit_s: float) -> dict[str, Any]:  # noqa: ARG002 - some need it
        """Return keyword arguments for the driver; *limit_s* in seconds."""
        return {}

    def begin(self, connection: sa.Connection) -> None:
        """Begin the transaction that all queries are read in."""

    def limit(self, raw: Any, limit_s: float) -> None:
        """Let the next query of the driver's connection *raw* take at most *limit_s* seconds."""

    def cursor(self, raw: Any) -> Any:
        """Return a cursor that streams."""
        return raw.cursor()

    def abandon(self, cursor: Any) -> None:
        """Forget a cursor whose connection has ended."""
        cursor.close()

    def kinds(self, asked: Asked) -> list[Kind]:
        """Return what each column of the query holds."""
        return [self.kind(column) for column in asked.description]

    def kind(self, column: Sequence[Any]) -> Kind:
        """Return what a column of a cursor's description holds."""
        raise NotImplementedError

    def writable(self, connection: sa.Connection, schema: str | None, tables: Sequence[str]) -> list[str]:
        """Return those of *tables* that the role may write to."""
        return [table for table in tables if self._may_write(connection, schema, table)]

    def _may_write(self, connection: sa.Connection, schema: str | None, table: str) -> bool:
        raise NotImplementedError
