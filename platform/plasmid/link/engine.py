"""The coordinator's database connection: SQLite in its folder, or any SQLAlchemy URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event


def open_engine(url: str) -> Engine:
    """Return an engine; SQLite gets a write-ahead log and waits for locks instead of failing."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _settings(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA busy_timeout=10000")
            connection.execute("PRAGMA foreign_keys=ON")

    return engine


def sqlite_url(folder: Path) -> str:
    """Return the URL of the embedded database in *folder*."""
    return f"sqlite:///{folder / 'state.db'}"
