"""The coordinator's database connection."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from plasmid.link.engine import open_engine, sqlite_url


def test_sqlite_waits_for_locks_and_keeps_references(tmp_path: Path) -> None:
    assert sqlite_url(tmp_path) == f"sqlite:///{tmp_path}/state.db"
    engine = open_engine(sqlite_url(tmp_path))
    for _ in range(2):  # each connection of the pool anew
        with engine.connect() as connection:
            settings = [
                connection.execute(text(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "busy_timeout", "foreign_keys")
            ]
        assert settings == ["wal", 10_000, 1]
        engine.dispose()
