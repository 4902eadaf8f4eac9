"""An owner's URL of a database becomes SQLAlchemy's, with the driver that is known here, and no secret."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote

import sqlalchemy as sa

from plasmid.core.errors import DataError
from plasmid.data.settings import SqlConnection
from plasmid.data.sources.sql_databases import MySql, Postgres, Sqlite
from plasmid.data.sources.sql_dialect import Dialect
from plasmid.data.sources.sql_vendors import Oracle, Snowflake, SqlServer

DIALECTS: dict[str, Dialect] = {
    "postgresql": Postgres(),
    "mysql": MySql(),
    "mariadb": MySql(),
    "mssql": SqlServer(),
    "oracle": Oracle(),
    "snowflake": Snowflake(),
    "sqlite": Sqlite(),
}
"""By the first word of the URL."""

_SECRET = re.compile(r"pass|pwd|secret|token|private_key", re.IGNORECASE)
_TITLES = {
    "postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB", "mssql": "SQL Server",
    "oracle": "Oracle", "snowflake": "Snowflake",
}  # fmt: skip


def resolved(settings: SqlConnection, folder: Path) -> tuple[sa.URL, Dialect]:
    """Return the URL to connect to, and what is to be known about its kind of database.

    Raises
    ------
    DataError
        ``data.connection_url``; ``data.driver_missing``; ``data.source_down``: no such SQLite file.
    """
    try:
        url = sa.make_url(settings.url)
        backend, _, driver = url.drivername.partition("+")
    except (sa.exc.ArgumentError, ValueError):
        url = None
    if url is None:
        raise DataError(
            "data.connection_url",
            "the connection's url is not a SQLAlchemy URL.",
            "Write it as postgresql://user@host:5432/database, or sqlite:///file.db.",
        )
    if url.password is not None or any(_holds_secret(*one) for one in url.query.items()):
        raise DataError(
            "data.connection_url",
            "the connection's url holds a password or another secret.",
            "Take it out, change it at the database, write the new one into a file (chmod 600), and name "
            "that file as password_file.",
        )
    dialect = DIALECTS.get(backend)
    if dialect is None or driver not in ("", dialect.driver):
        known = ", ".join(f"{name}+{one.driver}" for name, one in DIALECTS.items())
        raise DataError(
            "data.connection_url",
            f"{url.drivername!r} is no kind of database and driver that can be read here.",
            f"Known are {known}; the driver may be left out.",
        )
    if not _installed(dialect.module):
        raise DataError(
            "data.driver_missing",
            f"reading from {_TITLES.get(backend, backend)} needs {dialect.package}, which is not installed.",
            f"pip install '{dialect.package}'",
        )
    if backend == "sqlite":
        return _sqlite(url, settings, folder), dialect
    return url.set(
        drivername=backend if backend == dialect.driver else f"{backend}+{dialect.driver}"
    ), dialect


def place(url: sa.URL) -> str:
    """Return what messages call the database of *url*."""
    if url.get_backend_name() == "sqlite":
        return f"SQLite file {Path(unquote(str(url.database))).name!r}"
    title = _TITLES[url.get_backend_name()]
    name = f" {url.database!r}" if url.database else ""
    asked = url.host or str(url.query.get("host", ""))
    host = "this machine" if asked[:1] in ("", "/") else asked
    return f"{title} database{name} at {host}{f':{url.port}' if url.port else ''}"


def _holds_secret(key: str, value: str | tuple[str, ...]) -> bool:
    # ODBC's connection string is a list of keys and values of its own.
    return _SECRET.search(str(value) if key == "odbc_connect" else key) is not None


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _sqlite(url: sa.URL, settings: SqlConnection, folder: Path) -> sa.URL:
    if settings.password_file is not None or not url.database or url.query or url.database == ":memory:":
        raise DataError(
            "data.connection_url",
            "an SQLite connection is a file and nothing else: no password, no options.",
            "Write sqlite:///file.db, relative to the site's folder, and leave password_file out.",
        )
    path = folder / url.database
    if not path.is_file():
        raise DataError(
            "data.source_down", f"there is no SQLite file {path}.", "Correct the path in the url."
        )
    return sa.URL.create(
        "sqlite+pysqlite", database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"}
    )
