"""PostgreSQL, MySQL, MariaDB and SQLite: driver, read-only snapshot, time limit, types and rights of each.

Rules
-----
1. PostgreSQL: REPEATABLE READ, READ ONLY. MySQL, MariaDB: a consistent snapshot, READ ONLY. SQLite: a file
   opened read-only, and a read transaction, which a writer without WAL waits for.
2. Dates are written as ISO 8601, times in UTC, whatever the session's defaults.
3. Rows come through the driver's own cursor that leaves the result at the server.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlglot import exp
from sqlglot.generators.mysql import MySQLGenerator

from plasmid.data.sources import sql_sqlite
from plasmid.data.sources.sql_arrow import Kind
from plasmid.data.sources.sql_dialect import CONNECT_S, Asked, Dialect, decimal

_NUMBER = itertools.count()


class Postgres(Dialect):
    """PostgreSQL, and what speaks its protocol."""

    sqlglot, driver, module, package = "postgres", "psycopg", "psycopg", "psycopg[binary]"
    _KINDS: ClassVar[dict[int, Kind]] = {
        16: "bool", 17: "bytes", 20: "int", 21: "int", 23: "int", 26: "int", 700: "float", 701: "float",
        1082: "date", 1114: "time", 1184: "zoned",
    }  # fmt: skip

    def connect_args(self, limit_s: float) -> dict[str, Any]:
        return {"connect_timeout": max(2, min(CONNECT_S, int(limit_s)))}

    def begin(self, connection: sa.Connection) -> None:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        for setting in ("datestyle = 'ISO, YMD'", "timezone = 'UTC'", "standard_conforming_strings = on"):
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        connection.exec_driver_sql("SELECT 1")  # SET takes no snapshot, this does

    def limit(self, raw: Any, limit_s: float) -> None:
        raw.execute(f"SET LOCAL statement_timeout = {int(limit_s * 1000) + 1}")

    def cursor(self, raw: Any) -> Any:
        from psycopg.types.numeric import FloatLoader
        from psycopg.types.string import TextLoader

        cursor = raw.cursor(name=f"plasmid_{next(_NUMBER)}")
        cursor.adapters.register_loader("numeric", FloatLoader)  # float(its text): correctly rounded
        for kind in ("uuid", "json", "jsonb"):
            cursor.adapters.register_loader(kind, TextLoader)
        return cursor

    def kind(self, column: Sequence[Any]) -> Kind:
        if column[1] == 1700:
            return decimal(column[4], column[5])
        return self._KINDS.get(column[1], "text")

    def _may_write(self, connection: sa.Connection, schema: str | None, table: str) -> bool:
        asked = sa.text(
            "SELECT has_table_privilege(t, 'INSERT, UPDATE, DELETE, TRUNCATE')"
            " OR has_any_column_privilege(t, 'INSERT, UPDATE') FROM (SELECT to_regclass("
            "coalesce(quote_ident(CAST(:schema AS text)) || '.', '') || quote_ident(:table)) AS t) AS one"
        )
        return bool(connection.scalar(asked, {"schema": schema, "table": table}))


class MySql(Dialect):
    """MySQL and MariaDB."""

    sqlglot, driver, module, package = "mysql", "pymysql", "pymysql", "pymysql"
    _KINDS: ClassVar[dict[int, Kind]] = {
        1: "int", 2: "int", 3: "int", 8: "int", 9: "int", 13: "int", 4: "float", 5: "float", 10: "date",
        7: "time", 12: "time", 16: "bytes",
    }  # fmt: skip
    _GRANT = re.compile(r"GRANT (.+?) ON (?:TABLE )?(\*|`(?:[^`]|``)+`)\.(\*|`(?:[^`]|``)+`) TO ")

    def text(self, query: exp.Select) -> str:
        return _MySqlText(dialect="mysql").generate(query)

    def connect_args(self, limit_s: float) -> dict[str, Any]:
        from pymysql.constants import FIELD_TYPE
        from pymysql.converters import conversions

        decimals = dict.fromkeys((FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL), float)
        seconds = max(1, int(limit_s))
        return {
            "conv": {**conversions, **decimals},
            "connect_timeout": min(CONNECT_S, seconds),
            "read_timeout": seconds + 1,
        }

    def begin(self, connection: sa.Connection) -> None:
        connection.execution_options(isolation_level="AUTOCOMMIT")  # SQLAlchemy begins nothing of its own
        connection.exec_driver_sql("SET SESSION time_zone = '+00:00'")
        connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def limit(self, raw: Any, limit_s: float) -> None:
        maria = "MariaDB" in raw.get_server_info()
        value = (
            f"max_statement_time = {limit_s:.3f}"
            if maria
            else f"max_execution_time = {int(limit_s * 1000) + 1}"
        )
        with raw.cursor() as cursor:
            cursor.execute(f"SET SESSION {value}")

    def cursor(self, raw: Any) -> Any:
        from pymysql.cursors import SSCursor

        return raw.cursor(SSCursor)

    def abandon(self, cursor: Any) -> None:
        result = cursor._result  # noqa: SLF001 - closing would read the rest of it from nowhere
        if result is not None:
            result.unbuffered_active, result.connection = False, None
        cursor.connection = None

    def kind(self, column: Sequence[Any]) -> Kind:
        if column[1] in (0, 246):  # DECIMAL, NEWDECIMAL; its length counts a sign
            return decimal(column[4] - 1, column[5])
        return self._KINDS.get(column[1], "text")

    def writable(self, connection: sa.Connection, schema: str | None, tables: Sequence[str]) -> list[str]:
        schema = schema or connection.scalar(sa.text("SELECT DATABASE()")) or ""
        granted = [
            (_like(found[2]), _like(found[3]))
            for (line,) in connection.exec_driver_sql("SHOW GRANTS").all()
            if (found := self._GRANT.match(line))
            and re.search(r"\b(ALL PRIVILEGES|INSERT|UPDATE|DELETE|DROP)\b", found[1])
        ]
        return [
            table
            for table in tables
            if any(database.fullmatch(schema) and name.fullmatch(table) for database, name in granted)
        ]


class _MySqlText(MySQLGenerator):
    # MariaDB has no REGEXP_LIKE, which sqlglot writes; both have RLIKE.
    TRANSFORMS: ClassVar[dict[Any, Any]] = {
        **MySQLGenerator.TRANSFORMS,
        exp.RegexpLike: lambda self, one: self.binary(one, "RLIKE"),
    }


def _like(granted: str) -> re.Pattern[str]:
    # In a grant "_" and "%" stand for any letter and any text, unless a backslash is before them.
    if granted == "*":
        return re.compile(r".*", re.DOTALL)
    parts = re.findall(r"\\.|.", granted[1:-1].replace("``", "`"), re.DOTALL)
    wild = {"_": ".", "%": ".*"}
    return re.compile("".join(wild.get(one, re.escape(one[-1])) for one in parts), re.DOTALL | re.IGNORECASE)


class Sqlite(Dialect):
    """SQLite: a file."""

    sqlglot, driver, module, package = "sqlite", "pysqlite", "sqlite3", ""

    def begin(self, connection: sa.Connection) -> None:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1")  # BEGIN alone takes no snapshot

    def limit(self, raw: Any, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        raw.set_progress_handler(lambda: time.monotonic() > end, 100_000)

    def kinds(self, asked: Asked) -> list[Kind]:
        return sql_sqlite.kinds(asked.query, asked.sql, asked.tables, asked.connection)

    def _may_write(self, connection: sa.Connection, schema: str | None, table: str) -> bool:  # noqa: ARG002
        return False  # the file is open for reading
