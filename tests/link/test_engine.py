"""The coordinator's database connection."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, inspect, text

from plasmid.core.errors import StorageError
from plasmid.link.engine import create_tables, open_engine, sqlite_url, write_ahead


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


def test_only_a_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE first (id INTEGER)")
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="within a transaction"):
            write_ahead(connection)
    assert not waits
    with (
        closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as owner,
        closing(sqlite3.connect(tmp_path / "state.db", timeout=0)) as other,
    ):
        owner.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(time, "sleep", lambda _: owner.execute("COMMIT"))
        write_ahead(other)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def tables(*columns: str) -> MetaData:
    made = MetaData()
    Table("first", made, *(Column(name, Integer, primary_key=name == "id") for name in columns))
    Table("second", made, Column("id", Integer, primary_key=True))
    return made


@pytest.mark.parametrize("before", [("id",), ("id", "old", "other"), ("id", "other")])
def test_tables_of_another_release_are_refused_and_left(tmp_path: Path, before: tuple[str, ...]) -> None:
    engine = open_engine(sqlite_url(tmp_path))
    metadata = tables(*before)
    metadata.remove(metadata.tables["second"])
    create_tables(engine, metadata)
    with pytest.raises(StorageError, match=r"made by another release of Plasmid \(tables first\)") as caught:
        create_tables(engine, tables("id", "old"))
    assert caught.value.code == "storage.other_release"
    assert "make a new coordinator" in caught.value.hint
    assert inspect(engine).get_table_names() == ["first"]
    engine.dispose()


def test_tables_of_this_release_are_used_as_they_are(tmp_path: Path) -> None:
    engine = open_engine(sqlite_url(tmp_path))
    for _ in range(2):
        create_tables(engine, tables("id", "old"))
        assert sorted(inspect(engine).get_table_names()) == ["first", "second"]
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO first (old) VALUES (7)"))
    engine.dispose()


def test_two_processes_may_make_the_tables_at_once(tmp_path: Path) -> None:
    """As when an operator invites while the coordinator starts for the first time."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from plasmid.link.engine import open_engine, sqlite_url\n"
        "from plasmid.link.registry import Registry\n"
        "folder = Path(sys.argv[1]); (folder / sys.argv[2]).touch()\n"
        "while not (folder / 'go').exists(): time.sleep(0.0005)\n"
        "for number in range(20): (folder / f'{number}').mkdir(exist_ok=True); "
        "Registry(open_engine(sqlite_url(folder / f'{number}')))"
    )
    made = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), f"ready-{number}"])
        for number in range(3)
    ]
    while len(list(tmp_path.glob("ready-*"))) < len(made):
        assert all(process.poll() is None for process in made)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [process.wait() for process in made] == [0, 0, 0]


def test_a_password_in_the_database_s_address_is_not_told(tmp_path: Path) -> None:
    """SQLite takes none; the address is what the message is made of."""
    engine = open_engine(sqlite_url(tmp_path))
    create_tables(engine, tables("id"))
    engine.url = engine.url.set(username="u", password="hunter2")
    with pytest.raises(StorageError) as caught:
        create_tables(engine, tables("id", "old"))
    assert "hunter2" not in str(caught.value)
    engine.dispose()
