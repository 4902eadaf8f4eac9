"""Databases as sources: one snapshot, stable types, every failure named, and never a password or a cell."""

from __future__ import annotations

import datetime as dt
import logging
import os
import resource
import sqlite3
import traceback
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
import sqlglot
from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.settings import SqlConnection
from plasmid.data.source import BATCH_ROWS
from plasmid.data.sources import sql_url
from plasmid.data.sources.sql import open_sql
from plasmid.data.sources.sql_source import SqlSource
from support.servers.postgres_server import Postgres

CANARY = "hunter2-canary"
CELL = "Ms-Confidential"
PEOPLE = """
CREATE TABLE person (
  id bigint, name text, born date, weight numeric(10, 4), height double precision, alive boolean,
  seen timestamptz, uid uuid, late double precision, short numeric(6, 0), raw bytea, many int[]
)"""
FILL = f"""
INSERT INTO person
SELECT g, '{CELL}', date '1970-01-01' + g, 0.1, 0.1, g % 2 = 0, timestamptz '2020-01-01 01:00+01',
  '00000000-0000-0000-0000-000000000001', CASE WHEN g > 20000 THEN 1.5 END, g, NULL, NULL
FROM generate_series(1, 20001) AS g"""


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    """A database with a table, and a role that may only read it."""
    url = postgres.database(
        "people", PEOPLE, FILL, 'CREATE VIEW "Elders" AS SELECT id FROM person WHERE id < 3'
    )
    postgres.run("CREATE TABLE hidden (id int)", "CREATE ROLE reader LOGIN", database="people")
    postgres.run('GRANT SELECT ON person, "Elders" TO reader', database="people")
    postgres.locked_role("locked", CANARY)
    assert url == postgres.url("people")
    return postgres.url("people", "reader")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[SqlSource]]:
    """Sources that are closed at the end."""
    sources: list[SqlSource] = []
    yield sources
    for source in sources:
        source.close()
        source.close()


def connect(
    opened: list[SqlSource], url: str, folder: Path, *, limit_s: float = 30, **settings: str
) -> SqlSource:
    source = open_sql(
        SqlConnection.model_validate({"kind": "sql", "url": url, **settings}), folder, limit_s=limit_s
    )
    opened.append(source)
    return source


def query(text: str, dialect: str = "postgres") -> exp.Select:
    parsed = sqlglot.parse_one(text, dialect=dialect)
    assert isinstance(parsed, exp.Select)
    return parsed


def read(source: SqlSource, text: str) -> pa.Table:
    return pa.Table.from_batches(list(source.select(query(text, source.dialect))))


def refused(error: pytest.ExceptionInfo[DataError], code: str, *parts: str) -> None:
    """The error has its code and says *parts*; no exception hangs on to it, no secret or cell is told."""
    assert error.value.code == code
    for part in parts:
        assert part in str(error.value)
    assert CANARY not in "".join(traceback.format_exception(error.value))
    assert CELL not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__context__ is None


def no_frame_holds_the_password(error: pytest.ExceptionInfo[DataError]) -> None:
    ours = [entry.frame.raw for entry in error.traceback if str(entry.path) != __file__]
    assert ours
    assert CANARY not in "".join(repr(value) for frame in ours for value in frame.f_locals.values())


# -- what is read ------------------------------------------------------------------------------------


def test_every_type_has_one_arrow_type_in_every_batch(
    database: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    source = connect(opened, database, tmp_path)
    text = "SELECT id, name, born, weight, height, alive, seen, uid, late, short AS s FROM person ORDER BY id"
    batches = list(source.select(query(text)))
    assert [batch.num_rows for batch in batches] == [BATCH_ROWS, 20001 - BATCH_ROWS]
    assert {str(batch.schema) for batch in batches} == {str(batches[0].schema)}
    assert [str(one) for one in batches[0].schema.types] == [
        "int64", "string", "date32[day]", "double", "double", "bool", "timestamp[us, tz=UTC]", "string",
        "double", "int64",
    ]  # fmt: skip
    assert batches[0].slice(0, 1).to_pylist() == [
        {
            "id": 1,
            "name": CELL,
            "born": dt.date(1970, 1, 2),
            "weight": 0.1,  # the float64 nearest to the decimal, not a sum of digits
            "height": 0.1,
            "alive": False,
            "seen": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
            "uid": "00000000-0000-0000-0000-000000000001",
            "late": None,
            "s": 1,
        }
    ]
    assert batches[1].column("late")[-1].as_py() == 1.5
    assert source.troubles() == []
    assert source.locate("person", 0) == "row 1 of the query"


def test_decimals_are_correctly_rounded_and_long_ones_refused(
    database: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    source = connect(opened, database, tmp_path)
    digits = [
        "0.3",
        "2.675",
        "123456.789012345678901234567890",
        "1e-320",
        "0.1000000000000000055511151231257827",
    ]
    rows = ", ".join(f"({one}::numeric)" for one in digits)
    found = read(source, f"SELECT t.v AS v FROM (VALUES {rows}) AS t(v)")
    assert found.column("v").to_pylist() == [float(one) for one in digits]
    with pytest.raises(DataError) as error:
        read(source, "SELECT CAST('9007199254740993' AS numeric) AS id FROM person LIMIT 1")
    refused(error, "data.source_value", "'id'", "row 1", "below 2^53", "to text")


def test_tables_and_views_with_their_columns(database: str, opened: list[SqlSource], tmp_path: Path) -> None:
    tables = connect(opened, database, tmp_path).tables()
    assert list(tables) == ["Elders", "hidden", "person"]
    assert dict(tables["Elders"].columns) == {"id": "BIGINT"}
    assert tables["person"].columns["weight"] == "NUMERIC(10, 4)"


def test_a_query_without_rows_still_has_its_columns(
    database: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    found = read(connect(opened, database, tmp_path), "SELECT id, born FROM person WHERE name LIKE '%nobody'")
    assert found.num_rows == 0
    assert found.schema == pa.schema([("id", pa.int64()), ("born", pa.date32())])


@pytest.mark.parametrize("column", ["raw", "many"])
def test_bytes_and_arrays_are_refused(
    column: str, postgres: Postgres, database: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    url = postgres.database(
        f"odd_{column}", PEOPLE, f"INSERT INTO person (raw, many) VALUES ('{CELL}', '{{7}}')"
    )
    source = connect(opened, url, tmp_path, writable_role="allow")
    with pytest.raises(DataError) as error:
        read(source, f"SELECT {column} FROM person")
    refused(error, "data.source_value", repr(column))


def test_a_million_rows_are_streamed(database: str, opened: list[SqlSource], tmp_path: Path) -> None:
    source = connect(opened, database, tmp_path)
    text = "SELECT g AS g, repeat('x', 100) AS t FROM generate_series(1, 1000000) AS g"
    rows = live = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for batch in source.select(query(text)):
        rows += batch.num_rows
        live = max(live, pa.total_allocated_bytes())
    assert rows == 1_000_000
    assert live < 40 * BATCH_ROWS * 100  # of 100 MB, a few batches
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 90_000


def test_a_schema_other_than_the_default(postgres: Postgres, opened: list[SqlSource], tmp_path: Path) -> None:
    url = postgres.database(
        "schemas", "CREATE SCHEMA cdm", "CREATE TABLE cdm.t (a int)", "INSERT INTO cdm.t VALUES (7)"
    )
    source = connect(opened, url, tmp_path, schema_name="cdm", writable_role="allow")
    assert list(source.tables()) == ["t"]
    assert read(source, "WITH w AS (SELECT a FROM t) SELECT a FROM w").to_pylist() == [{"a": 7}]


# -- one snapshot, and nothing written -----------------------------------------------------------------


def test_all_queries_see_one_state_of_postgresql(
    postgres: Postgres, opened: list[SqlSource], tmp_path: Path
) -> None:
    url = postgres.database("snapshot", "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
    source = connect(opened, url, tmp_path, writable_role="allow")
    postgres.run(
        "INSERT INTO t VALUES (2)", database="snapshot"
    )  # before the first select, after the opening
    assert read(source, "SELECT a FROM t").to_pylist() == [{"a": 1}]
    postgres.run("UPDATE t SET a = 5", database="snapshot")
    assert read(source, "SELECT a FROM t").to_pylist() == [{"a": 1}]
    assert read(connect(opened, url, tmp_path, writable_role="allow"), "SELECT a FROM t").num_rows == 2
    with pytest.raises(sa.exc.InternalError, match="read-only transaction"):
        source._open().exec_driver_sql("DELETE FROM t")


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_all_queries_see_one_state_of_sqlite(journal: str, opened: list[SqlSource], tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "a b.db", timeout=0.05)
    other.executescript(f"PRAGMA journal_mode={journal}; CREATE TABLE t (a INT); INSERT INTO t VALUES (1);")
    source = connect(opened, "sqlite:///a b.db", tmp_path)
    other.execute("UPDATE t SET a = 2")
    if journal == "wal":
        other.commit()
    else:  # without it the writer waits for the reader
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.commit()
        other.rollback()
    assert read(source, "SELECT a FROM t").to_pylist() == [{"a": 1}]
    with pytest.raises(sa.exc.OperationalError, match="readonly"):
        source._open().exec_driver_sql("UPDATE t SET a = 3")
    other.close()


@pytest.mark.parametrize("right", ["INSERT", "UPDATE (name)", "DELETE", "TRUNCATE"])
def test_a_role_that_may_write_is_refused_or_noted(
    right: str, postgres: Postgres, opened: list[SqlSource], database: str, tmp_path: Path
) -> None:
    role = f"w_{right[:6].lower()}"
    postgres.run(f"CREATE ROLE {role} LOGIN", f"GRANT SELECT, {right} ON person TO {role}", database="people")
    source = connect(opened, postgres.url("people", role), tmp_path)
    with pytest.raises(DataError) as error:
        read(source, "SELECT id FROM person")
    refused(error, "data.role_may_write", "'person'", "'people'", "SELECT and nothing else")
    source.check_role(["Elders"])  # of this table it is told nothing
    allowed = connect(opened, postgres.url("people", role), tmp_path, writable_role="allow")
    assert read(allowed, "SELECT id FROM person LIMIT 1").num_rows == 1
    assert [(one.code, "'person'" in one.sentence) for one in allowed.troubles()] == [
        ("notice.role_may_write", True)
    ]


# -- secrets -----------------------------------------------------------------------------------------


def secret(folder: Path, text: str = CANARY + "\nsecond line\n", mode: int = 0o600) -> str:
    path = folder / "db.password"
    path.write_text(text)
    path.chmod(mode)
    return path.name


def test_a_password_opens_the_connection_and_is_nowhere_else(
    postgres: Postgres,
    database: str,
    opened: list[SqlSource],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    url = postgres.url("people", "locked")
    source = connect(opened, url, tmp_path, password_file=secret(tmp_path))
    assert read(source, "SELECT 1 AS one FROM (VALUES (1)) AS t").num_rows == 1
    shown = [
        repr(source),
        repr(source._engine),
        repr(source._engine.url),
        source._engine.url.render_as_string(False),
    ]
    assert CANARY not in "".join(shown) + caplog.text
    assert CANARY.encode() not in Path(f"/proc/{os.getpid()}/cmdline").read_bytes()
    with pytest.raises(DataError) as error:
        read(source, "SELECT id FROM person")
    refused(error, "data.source_denied", "GRANT SELECT")
    no_frame_holds_the_password(error)


@pytest.mark.parametrize(
    ("role", "password", "name", "host", "parts"),
    [
        ("locked", CANARY + "x", "people", "", ["refuses the user or the password", "password file"]),
        ("locked", CANARY, "nowhere", "", ["is not there", "'nowhere'"]),
        ("nobody", CANARY, "people", "", ["refuses the user"]),
        ("locked", CANARY, "people", "127.0.0.1:1", ["refuses connections", "127.0.0.1:1"]),
        ("locked", CANARY, "people", "no-such-host.invalid", ["unknown name"]),
        ("locked", CANARY, "people", "?host=/nowhere", ["does not answer"]),
    ],
)
def test_a_connection_that_fails_says_why_without_the_password(
    role: str, password: str, name: str, host: str, parts: list[str],
    postgres: Postgres, database: str, opened: list[SqlSource], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    url = f"postgresql://{role}@{host}/{name}" if host and host[0] != "?" else postgres.url(name, role)
    if host.startswith("?"):
        url = f"postgresql://{role}@/{name}{host}"
    with pytest.raises(DataError) as error:
        connect(opened, url, tmp_path, password_file=secret(tmp_path, password + "\n"))
    refused(error, "data.source_down", *parts)
    no_frame_holds_the_password(error)
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("text", "mode", "code", "part"),
    [
        (CANARY, 0o640, "data.secret_readable", "0640"),
        (CANARY, 0o604, "data.secret_readable", "chmod 600"),
        ("\n" + CANARY, 0o600, "data.secret_unusable", "is empty"),
        (CANARY * 2000, 0o600, "data.secret_unusable", "more than 16384 bytes"),
    ],
)
def test_a_password_file_that_cannot_be_used(
    text: str, mode: int, code: str, part: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        connect(opened, "postgresql://u@127.0.0.1:1/d", tmp_path, password_file=secret(tmp_path, text, mode))
    refused(error, code, part)


def test_a_password_file_that_is_no_file(opened: list[SqlSource], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, part in (("pipe", "not a regular file"), (".", "cannot be read"), ("none", "No such file")):
        with pytest.raises(DataError) as error:
            connect(opened, "postgresql://u@127.0.0.1:1/d", tmp_path, password_file=name)
        assert error.value.code == "data.secret_unusable"
        assert part in str(error.value) or name == "."


@pytest.mark.parametrize(
    ("url", "code", "part"),
    [
        (f"postgresql://u:{CANARY}@h/d", "data.connection_url", "password_file"),
        (f"postgresql://u@h/d?password={CANARY}", "data.connection_url", "password_file"),
        (
            f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{CANARY}",
            "data.connection_url",
            "password_file",
        ),
        ("postgresql+asyncpg://u@h/d", "data.connection_url", "postgresql+psycopg"),
        ("duckdb:///x.db", "data.connection_url", "'duckdb'"),
        ("not a url", "data.connection_url", "not a SQLAlchemy URL"),
        ("sqlite://", "data.connection_url", "sqlite:///file.db"),
        ("sqlite:///x.db?mode=rw", "data.connection_url", "no options"),
        ("sqlite:///none.db", "data.source_down", "none.db"),
    ],
)
def test_urls_that_are_refused(
    url: str, code: str, part: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        connect(opened, url, tmp_path)
    refused(error, code, part)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("postgresql://h/d", "psycopg[binary]"),
        ("mariadb://h/d", "pymysql"),
        ("mssql://h/d", "pyodbc"),
        ("oracle://h/d", "oracledb"),
        ("snowflake://h/d", "snowflake-sqlalchemy"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(
    url: str, package: str, opened: list[SqlSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_url, "find_spec", lambda _name: None)
    with pytest.raises(DataError) as error:
        connect(opened, url, tmp_path)
    refused(error, "data.driver_missing", f"pip install '{package}'")


# -- failures of queries -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("SELECT id FROM persons", "no table 'persons'. Near to it: 'person'."),
        ("SELECT p.weigt FROM person AS p", "no column 'weigt' in table 'person'. Near to it: 'weight'"),
        ("SELECT idd AS idd FROM person", "no column 'idd'"),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(
    text: str, part: str, database: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        read(connect(opened, database, tmp_path), text)
    refused(error, "data.source_table", part)


def test_what_only_the_database_misses_is_told_without_its_words(
    database: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    source = connect(opened, database, tmp_path)
    with pytest.raises(DataError) as error:
        read(source, "WITH w AS (SELECT id AS a FROM person) SELECT b FROM w")
    refused(error, "data.source_table", "lacks a table or column")


def test_a_cell_in_the_words_of_a_driver_stays_there(
    database: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        read(connect(opened, database, tmp_path), "SELECT CAST(name AS int) AS n FROM person")
    refused(error, "data.source_value", "cannot be read")


def test_the_time_limit_ends_a_query_and_says_where_it_is_raised(
    database: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    source = connect(opened, database, tmp_path, limit_s=0.4)
    with pytest.raises(DataError) as error:
        read(source, "SELECT pg_sleep(20) AS s FROM (VALUES (1)) AS t")
    refused(error, "data.source_timeout", "within 0.4 s", "limit_s in the view's file")


def test_the_time_limit_ends_a_query_of_sqlite(opened: list[SqlSource], tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "x.db").executescript("CREATE TABLE t (a INT); INSERT INTO t VALUES (1);")
    source = connect(opened, "sqlite:///x.db", tmp_path, limit_s=0.3)
    text = "WITH RECURSIVE c AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM c) SELECT COUNT(*) AS n FROM c"
    with pytest.raises(DataError) as error:
        read(source, text)
    refused(error, "data.source_timeout", "'x.db'")


def test_a_connection_lost_in_the_middle(
    postgres: Postgres, database: str, opened: list[SqlSource], tmp_path: Path
) -> None:
    source = connect(opened, database, tmp_path)
    rows = source.select(query("SELECT g AS g FROM generate_series(1, 100000) AS g"))
    assert next(rows).num_rows == BATCH_ROWS
    postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'")
    with pytest.raises(DataError) as error:
        list(rows)
    refused(error, "data.source_down", "ended the connection")
    with pytest.raises(DataError) as error:
        source.check_role(["person"])
    refused(error, "data.source_down", "is closed")


# -- SQLite's own types --------------------------------------------------------------------------------


def test_sqlite_types_come_from_the_table_or_from_the_values(opened: list[SqlSource], tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "t.db")
    other.execute("CREATE TABLE t (i INTEGER, r REAL, d DATE, n DECIMAL(8,2), free, s VARCHAR(9))")
    other.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", [(None,) * 6] * BATCH_ROWS)
    other.execute("INSERT INTO t VALUES (1, 2, '2020-01-31', '1.25', 3, 'x')")
    other.execute("INSERT INTO t VALUES (2, 2.5, '2020-01-31', 4, 3.5, 'y')")
    other.commit()
    source = connect(opened, "sqlite:///t.db", tmp_path)
    text = "SELECT i, r, d, n, free, s, i + 1 AS up, i / 2.0 AS half, s || 'z' AS z FROM t"
    batches = list(source.select(query(text, "sqlite")))
    assert len(batches) == 2
    assert [str(one) for one in batches[0].schema.types] == (
        ["int64", "double", "string", "double", "double", "string", "int64", "double", "string"]
    )
    assert batches[1].to_pylist()[-1] == {
        "i": 2, "r": 2.5, "d": "2020-01-31", "n": 4.0, "free": 3.5, "s": "y", "up": 3, "half": 1.0, "z": "yz",
    }  # fmt: skip
    source.close()
    other.execute("UPDATE t SET i = ? WHERE s = 'y'", (CELL,))
    other.commit()
    with pytest.raises(DataError) as error:
        read(connect(opened, "sqlite:///t.db", tmp_path), "SELECT i FROM t")
    refused(error, "data.source_value", "'i'", f"row {BATCH_ROWS + 2}", "not a whole number")
    other.close()


def test_a_file_that_is_no_database_is_told(opened: list[SqlSource], tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text(CELL * 100)
    with pytest.raises(DataError) as error:
        connect(opened, "sqlite:///x.db", tmp_path)
    refused(error, "data.source_down", "'x.db'", "cannot be opened")


def test_text_that_is_no_text_is_refused_without_it(opened: list[SqlSource], tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "t.db")
    other.execute("CREATE TABLE t (s TEXT)")
    other.execute("INSERT INTO t VALUES (CAST(x'4d732d436f6e666964656e7469616cff' AS TEXT))")
    other.commit()
    with pytest.raises(DataError) as error:
        read(connect(opened, "sqlite:///t.db", tmp_path), "SELECT s FROM t")
    refused(error, "data.source_value")
