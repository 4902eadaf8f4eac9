"""One connection to a database as a :class:`plasmid.data.source.Source`; the rules are in sql.py."""

from __future__ import annotations

import contextlib
import gc
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine.reflection import ObjectKind
from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.settings import SqlConnection
from plasmid.data.source import BATCH_ROWS, LocalTable, Trouble
from plasmid.data.sources.sql_arrow import TYPES, Kind, Unfit, array
from plasmid.data.sources.sql_dialect import Asked
from plasmid.data.sources.sql_errors import Problem, problem_of, told
from plasmid.data.sources.sql_query import rendered, used_tables
from plasmid.data.sources.sql_secret import read_secret
from plasmid.data.sources.sql_url import place, resolved

T = TypeVar("T")


class SqlSource:
    """A database; see :func:`plasmid.data.sources.sql.open_sql` for parameters and errors.

    One query at a time: what an earlier one has not yet delivered is lost to some kinds of database.
    """

    def __init__(self, settings: SqlConnection, folder: Path, *, limit_s: float) -> None:
        url, self._dialect = resolved(settings, folder)
        self.dialect = self._dialect.sqlglot
        self._settings, self._limit_s, self._end = settings, limit_s, time.monotonic() + limit_s
        self._backend, self._where = url.get_backend_name(), place(url)
        self._troubles: list[Trouble] = []
        self._tables: dict[str, LocalTable] | None = None
        self._checked: set[str] = set()
        self._connection: sa.Connection | None = None
        self._engine = sa.create_engine(
            url,
            poolclass=sa.NullPool,
            pool_reset_on_return=None,  # the connection is not used again, and a failure would be logged
            hide_parameters=True,
            connect_args=self._dialect.connect_args(limit_s),
        )
        self._errors = (sa.exc.SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error, OSError)
        if settings.password_file is not None:
            secret = folder / settings.password_file
            read_secret(secret)  # so that what is wrong with it is told before anything is asked

            @sa.event.listens_for(self._engine, "do_connect")
            def _password(_dialect: Any, _record: Any, _args: Any, arguments: dict[str, Any]) -> None:
                arguments["password"] = read_secret(secret)

        self._connection = self._asked(self._engine.connect, connecting=True)
        try:
            self._asked(partial(self._dialect.begin, self._connection))
            self._limit()
        except DataError:
            self.close()
            raise

    def tables(self) -> Mapping[str, LocalTable]:
        """Return tables and views of the schema by name. Raises DataError (``data.source_down``)."""
        if self._tables is None:
            found = self._asked(self._inspected)
            self._tables = {
                name: LocalTable({column["name"]: self._type(column["type"]) for column in columns})
                for (_, name), columns in sorted(found.items(), key=lambda one: one[0][1])
            }
        return self._tables

    def check_role(self, tables: Sequence[str]) -> None:
        """Refuse a role that may write to any of the local *tables*; :meth:`select` asks for its own.

        Raises
        ------
        DataError
            ``data.role_may_write``, unless the connection says ``writable_role: allow``, which is a notice.
        """
        asked = sorted(set(tables) - self._checked)
        schema = self._settings.schema_name
        found = self._asked(partial(self._dialect.writable, self._open(), schema, asked))
        what = f"the role may write to {_list(found)} of {self._where}"
        if found and self._settings.writable_role == "refuse":
            raise DataError(
                "data.role_may_write",
                f"{what}, and a view only reads.",
                "Give the site a role that has SELECT and nothing else, or write writable_role: allow.",
            )
        self._checked.update(asked)
        if found:
            self._troubles.append(
                Trouble(
                    "notice.role_may_write", f"{what}.", "A role that has SELECT and nothing else is safer."
                )
            )

    def select(self, query: exp.Select) -> Iterator[pa.RecordBatch]:
        """Yield the rows of *query*, whose column names are those of its projections.

        Raises
        ------
        DataError
            ``data.source_table``: a table or column is not there; ``data.role_may_write``;
            ``data.source_timeout``; ``data.source_denied``; ``data.source_down``: the connection was lost;
            ``data.source_value``: a value that is none of its column's type, or of a type that no contract
            holds; ``data.source_failed``.
        """
        names = query.named_selects
        self.check_role(used_tables(query, self.tables(), self._where))
        sql = rendered(query, self._settings.schema_name, self._dialect)
        self._limit()
        cursor = self._asked(partial(self._dialect.cursor, self._open().connection.driver_connection))
        try:
            self._asked(partial(cursor.execute, sql))
            asked = Asked(self._open(), query, sql, cursor.description, self.tables())
            kinds = self._asked(partial(self._dialect.kinds, asked))
            for name, kind in zip(names, kinds, strict=True):
                if kind == "bytes":
                    raise _unfit(self._where, name, kind, None)
            yield from self._batches(cursor, names, kinds)
        finally:
            with contextlib.suppress(*self._errors):
                if self._connection is None:
                    self._dialect.abandon(cursor)
                else:
                    cursor.close()

    def _batches(self, cursor: Any, names: Sequence[str], kinds: Sequence[Kind]) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([(name, TYPES[kind]) for name, kind in zip(names, kinds, strict=True)])
        before = 0
        while rows := self._step(cursor, names, kinds, before):
            before += len(rows[0])
            yield pa.RecordBatch.from_arrays(rows, schema=schema)
        if not before:
            yield pa.RecordBatch.from_pylist([], schema=schema)

    def _step(
        self, cursor: Any, names: Sequence[str], kinds: Sequence[Kind], before: int
    ) -> list[pa.Array] | None:
        """Return the next rows as one array a column, None after the last."""
        collecting = gc.isenabled()
        gc.disable()  # it would look through the cells, time and again, for cycles that they cannot have
        try:
            rows = self._asked(partial(cursor.fetchmany, BATCH_ROWS))
            self._left()
            columns: list[pa.Array] = []
            bad: DataError | None = None
            for name, kind, values in zip(names, kinds, zip(*rows, strict=True), strict=bool(rows)):
                try:
                    columns.append(array(values, kind))
                except Unfit as unfit:
                    bad = _unfit(self._where, name, kind, before + unfit.index)
                    break
        finally:
            if collecting:
                gc.enable()
        if bad is not None:
            raise bad
        return columns or None

    def troubles(self) -> list[Trouble]:
        """Return the notices so far."""
        return list(self._troubles)

    def locate(self, table: str, row: int) -> str:  # noqa: ARG002 - the port's
        """Return ``row N of the query``: rows of a database have no place of their own."""
        return f"row {row + 1} of the query"

    def close(self) -> None:
        """End the connection; calling it again does nothing."""
        if self._connection is not None:
            with contextlib.suppress(*self._errors):
                self._connection.invalidate()  # a polite end would first read what is left of a query
            with contextlib.suppress(*self._errors):
                self._connection.close()
            self._engine.dispose()
        self._connection = None

    # -- inside ------------------------------------------------------------------------------------

    def _open(self) -> sa.Connection:
        if self._connection is None:
            raise DataError("data.source_down", f"{self._where} is closed.", "Open the view anew.")
        return self._connection

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise told(Problem.timeout, TimeoutError(), self._where, self._limit_s)
        return left

    def _limit(self) -> None:
        raw = self._open().connection.driver_connection
        self._asked(partial(self._dialect.limit, raw, self._left()))

    def _asked(self, action: Callable[[], T], *, connecting: bool = False) -> T:
        try:
            return action()
        except self._errors as error:
            problem = problem_of(self._backend, error, connecting=connecting)
            failure = told(problem, error, self._where, self._limit_s)
        # Out of the except block: no driver's exception hangs on to it.
        if connecting or failure.code == "data.source_down":
            self.close()
        raise failure

    def _inspected(self) -> dict[Any, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sa.exc.SAWarning)  # a type that SQLAlchemy does not know
            schema = self._settings.schema_name
            return dict(sa.inspect(self._open()).get_multi_columns(schema, kind=ObjectKind.ANY))

    def _type(self, kind: Any) -> str:
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            return str(kind.compile(self._engine.dialect))
        return "unknown"


def _unfit(where: str, column: str, kind: Kind, row: int | None) -> DataError:
    what = {
        "int": "a whole number within 64 bits", "float": "a number", "decimal": "a number below 2^53",
        "bool": "a truth value", "date": "a date", "time": "a date with time", "zoned": "a date with time",
        "text": "text",
    }  # fmt: skip
    if row is None:
        told_ = f"column {column!r} of the query to {where} holds bytes, which no contract can."
    else:
        told_ = f"column {column!r} of the query to {where}: the value in row {row + 1} is not {what[kind]}."
    return DataError(
        "data.source_value",
        told_,
        "Map another column, correct the rows, or cast the column in a view of the database; "
        "an identifier of many digits to text.",
    )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more
