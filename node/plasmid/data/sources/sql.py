"""SQL databases by SQLAlchemy URL: PostgreSQL, MySQL, MariaDB, SQL Server, Oracle, Snowflake, SQLite.

Rules
-----
1. The password is the first line of a file that only its owner can read. It goes to the driver alone.
2. Everything is read in one transaction that cannot write and sees one state of the database; Snowflake has
   no such transaction, so there each query is a state of its own.
3. A role that may write to the tables that are read is refused, unless the connection allows it.
4. Messages of drivers hold cells and SQL. They are sorted by SQLSTATE, number or class and never repeated.
5. ``limit_s`` bounds the connection from opening to its last row; the database is told, and a step that is on
   its way when the limit ends takes at most as long again.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from plasmid.core.errors import DataError
from plasmid.data.settings import SqlConnection

if TYPE_CHECKING:
    from plasmid.data.sources.sql_source import SqlSource


def open_sql(connection: SqlConnection, folder: Path, *, limit_s: float) -> SqlSource:
    """Connect, and return the source. A path of *connection* is relative to *folder*, the site's.

    Parameters
    ----------
    limit_s
        How long the connection may be used, in seconds.

    Raises
    ------
    DataError
        ``data.connection_url``: the URL is malformed, names another kind of database or holds a secret;
        ``data.driver_missing``; ``data.secret_readable``; ``data.secret_unusable``;
        ``data.source_down``: no connection, or not with this user, password and database;
        ``data.source_snapshot``: the database gives no read-only snapshot; ``data.source_timeout``.
    """
    if find_spec("sqlalchemy") is None:
        raise DataError(
            "data.driver_missing",
            "reading a database needs SQLAlchemy, which is not installed.",
            "pip install 'plasmid[sql]'",
        )
    # Here, because everything else of a node works without it.
    from plasmid.data.sources.sql_source import SqlSource

    return SqlSource(connection, folder, limit_s=limit_s)
