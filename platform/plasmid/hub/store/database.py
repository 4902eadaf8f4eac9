"""The hub's transactions: many readers, and writers that do not lose each other's work.

Rules
-----
1. What a transaction decides it decides on rows that it has locked: SQLite takes the write lock before the
   first read (``BEGIN IMMEDIATE``), PostgreSQL locks the rows (``FOR UPDATE``).
2. Times are whole microseconds since 1970, UTC: both databases sort and compare them alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import ArgumentError

from plasmid.core.errors import HubError
from plasmid.link.engine import write_ahead

POOL = 48
"""Connections at most; a request needs one at a time, and there are 40 threads for requests."""
COLLECTING = 0x706C61736D6964
"""The key of PostgreSQL's advisory lock between storing blobs and collecting them."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CACHE_KIB = 16 * 1024


def open_hub_engine(url: str) -> Engine:
    """Return an engine of the hub's database; nothing is asked of the database yet.

    Raises
    ------
    HubError
        ``hub.database``: *url* is no database's, or its driver is not installed.
    """
    problem = "it is no URL of a database"
    try:
        engine = create_engine(url, pool_size=POOL // 4, max_overflow=POOL - POOL // 4, pool_pre_ping=True)
    except ArgumentError:
        engine = None
    except ModuleNotFoundError as error:
        engine, problem = None, f"it needs the package {error.name}"
    if engine is None:
        raise HubError(
            "hub.database",
            f"the hub's database cannot be used: {problem}.",
            "Write postgresql+psycopg://USER@HOST/NAME in PLASMID_HUB_DATABASE_URL (its driver comes with "
            "'plasmid[sql]'), or leave it out for SQLite.",
        )
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_sqlite)
    elif engine.dialect.name == "postgresql":
        event.listen(engine, "connect", _set_postgresql)
    return engine


def _set_sqlite(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA busy_timeout=30000")
    write_ahead(connection)
    connection.execute("PRAGMA synchronous=FULL")  # a commit that was answered outlives a loss of power
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")


def _set_postgresql(connection: Any, _: Any) -> None:
    # Requests run beside one another: helpers for one query only make it wait for their start.
    with connection.cursor() as cursor:
        cursor.execute("SET max_parallel_workers_per_gather = 0")
    connection.commit()


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Yield a connection whose work is committed when the block ends without an error."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.commit()


def lock_blobs(connection: Connection, *, alone: bool) -> None:
    """Until the transaction ends, keep collectors away, or with *alone* everybody who stores blobs.

    SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        kind = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
        connection.execute(text(f"SELECT {kind}(:key)"), {"key": COLLECTING})


def micros(time: datetime) -> int:
    """Return *time* (aware) in microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime:
    """Return the time of :func:`micros`."""
    return _EPOCH + timedelta(microseconds=value)
