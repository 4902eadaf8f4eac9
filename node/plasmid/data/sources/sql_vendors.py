"""SQL Server, Oracle and Snowflake, by their vendors' manuals; no test runs against one of them.

SQL Server reads under SNAPSHOT isolation, which its database must allow. Oracle reads in a READ ONLY
transaction. Snowflake has neither: every query is a snapshot of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import sqlalchemy as sa

from plasmid.data.sources.sql_arrow import Kind
from plasmid.data.sources.sql_dialect import CONNECT_S, Dialect, decimal


class SqlServer(Dialect):
    """Microsoft SQL Server."""

    sqlglot, driver, module, package = "tsql", "pyodbc", "pyodbc", "pyodbc"

    def connect_args(self, limit_s: float) -> dict[str, Any]:
        return {"timeout": max(1, min(CONNECT_S, int(limit_s)))}

    def begin(self, connection: sa.Connection) -> None:
        connection.execution_options(isolation_level="SNAPSHOT")
        connection.exec_driver_sql("SELECT 1")

    def limit(self, raw: Any, limit_s: float) -> None:
        raw.timeout = max(1, int(limit_s))

    def kind(self, column: Sequence[Any]) -> Kind:
        if column[1].__name__ == "Decimal":
            return decimal(column[4], column[5])
        kinds: dict[str, Kind] = {
            "int": "int", "float": "float", "bool": "bool", "date": "date",
            "datetime": "time", "bytearray": "bytes", "bytes": "bytes",
        }  # fmt: skip
        return kinds.get(column[1].__name__, "text")

    def _may_write(self, connection: sa.Connection, schema: str | None, table: str) -> bool:
        name = "QUOTENAME(COALESCE(:schema, SCHEMA_NAME())) + '.' + QUOTENAME(:table)"
        rights = " + ".join(
            f"HAS_PERMS_BY_NAME({name}, 'OBJECT', '{right}')" for right in ("INSERT", "UPDATE", "DELETE")
        )
        asked = sa.text(f"SELECT {rights}")
        return bool(connection.scalar(asked, {"schema": schema, "table": table}))


class Oracle(Dialect):
    """Oracle Database."""

    sqlglot, driver, module, package, folds_up = "oracle", "oracledb", "oracledb", "oracledb", True

    def connect_args(self, limit_s: float) -> dict[str, Any]:
        return {"tcp_connect_timeout": min(CONNECT_S, limit_s)}

    def begin(self, connection: sa.Connection) -> None:
        for name in ("DATE", "TIMESTAMP", "TIMESTAMP_TZ"):
            connection.exec_driver_sql(f"ALTER SESSION SET NLS_{name}_FORMAT = 'YYYY-MM-DD HH24:MI:SS'")
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    def limit(self, raw: Any, limit_s: float) -> None:
        raw.call_timeout = int(limit_s * 1000) + 1

    def kind(self, column: Sequence[Any]) -> Kind:
        name, precision, scale = column[1].name, column[4], column[5]
        if name == "DB_TYPE_NUMBER":
            return decimal(precision, scale)
        if name in ("DB_TYPE_BINARY_DOUBLE", "DB_TYPE_BINARY_FLOAT"):
            return "float"
        if name in ("DB_TYPE_RAW", "DB_TYPE_BLOB", "DB_TYPE_LONG_RAW"):
            return "bytes"
        return "time" if name.startswith(("DB_TYPE_DATE", "DB_TYPE_TIMESTAMP")) else "text"

    def _may_write(self, connection: sa.Connection, schema: str | None, table: str) -> bool:
        asked = sa.text(
            "SELECT (SELECT count(*) FROM all_tab_privs WHERE table_name IN (:table, upper(:table))"
            " AND (:schema IS NULL OR table_schema IN (:schema, upper(:schema)))"
            " AND privilege IN ('INSERT', 'UPDATE', 'DELETE')) + (SELECT count(*) FROM user_tables"
            " WHERE table_name IN (:table, upper(:table))) + (SELECT count(*) FROM session_privs"
            " WHERE privilege IN ('INSERT ANY TABLE', 'UPDATE ANY TABLE', 'DELETE ANY TABLE')) FROM dual"
        )
        return bool(connection.scalar(asked, {"schema": schema, "table": table}))


class Snowflake(Dialect):
    """Snowflake: every query is a snapshot of its own."""

    sqlglot, driver, module, package, folds_up = (
        "snowflake",
        "snowflake",
        "snowflake.sqlalchemy",
        "snowflake-sqlalchemy",
        True,
    )
    _KINDS: ClassVar[dict[int, Kind]] = {
        1: "float", 3: "date", 4: "time", 6: "zoned", 7: "zoned", 8: "time", 11: "bytes", 13: "bool",
    }  # fmt: skip

    def limit(self, raw: Any, limit_s: float) -> None:
        raw.cursor().execute(f"ALTER SESSION SET STATEMENT_TIMEOUT_IN_SECONDS = {max(1, int(limit_s))}")

    def kind(self, column: Sequence[Any]) -> Kind:
        if column[1] == 0:  # FIXED
            return "decimal" if column[5] else "int"
        return self._KINDS.get(column[1], "text")

    def _may_write(self, connection: sa.Connection, schema: str | None, table: str) -> bool:
        asked = sa.text(
            "SELECT count(*) FROM information_schema.table_privileges WHERE grantee = CURRENT_ROLE()"
            " AND table_schema ILIKE COALESCE(:schema, CURRENT_SCHEMA()) AND table_name ILIKE :table"
            " AND privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'OWNERSHIP')"
        )
        return bool(connection.scalar(asked, {"schema": schema, "table": table}))
