"""The coordinator's database: SQLite in its folder, or any SQLAlchemy URL.

There are no migrations: a database whose tables another release made is refused, not changed.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, MetaData, create_engine, event, inspect

from plasmid.core.errors import StorageError

LOCKED_S = 10
"""How long a connection waits for another's lock."""


def open_engine(url: str) -> Engine:
    """Return an engine; SQLite gets a write-ahead log and waits for locks instead of failing."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _settings(connection: Any, _: Any) -> None:
            connection.execute(f"PRAGMA busy_timeout={1000 * LOCKED_S}")
            write_ahead(connection)
            connection.execute("PRAGMA foreign_keys=ON")

    return engine


def write_ahead(connection: Any) -> None:
    """Turn the file of a sqlite3 *connection* to a write-ahead log.

    SQLite itself does not wait where two processes do so with a new file at once.

    Raises
    ------
    sqlite3.OperationalError
        It is still locked after :data:`LOCKED_S`; or the file cannot be used, at once.
    """
    until = time.monotonic() + LOCKED_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # above are extended codes
            if not busy or time.monotonic() > until:
                raise
            time.sleep(0.01)


def sqlite_url(folder: Path) -> str:
    """Return the URL of the embedded database in *folder*."""
    return f"sqlite:///{folder / 'state.db'}"


def create_tables(engine: Engine, metadata: MetaData) -> None:
    """Make the tables of *metadata* that are not there.

    Raises
    ------
    StorageError
        ``storage.other_release``: one that is there has other columns.
    """
    found = inspect(engine)
    there = set(found.get_table_names())
    other = sorted(
        name
        for name, table in metadata.tables.items()
        if name in there
        and {column["name"] for column in found.get_columns(name)} != set(table.columns.keys())
    )
    if other:
        raise StorageError(
            "storage.other_release",
            f"the database {engine.url.render_as_string(hide_password=True)} was made by another release of "
            f"Plasmid (tables {', '.join(other)}); this one cannot use it, and has changed nothing.",
            "Read it with the release that made it. For this one make a new coordinator, under another "
            "PLASMID_HOME or PLASMID_DATABASE_URL, and enrol everybody there.",
        )
    if there.issuperset(metadata.tables):
        return
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # another process may be about to make them, too
        metadata.create_all(connection)
        connection.commit()
