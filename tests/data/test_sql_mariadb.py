"""The same promises at a real MariaDB, if installed (Debian: mariadb-server-core, mariadb-client-core)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
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
from plasmid.data.sources.sql import open_sql
from plasmid.data.sources.sql_source import SqlSource

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("mariadbd") and shutil.which("mariadb-install-db")),
        reason="no mariadbd on PATH",
    ),
]

CANARY = "hunter2-canary"
CELL = "Ms-Confidential"


@pytest.fixture(scope="module")
def root() -> Iterator[sa.Engine]:
    """The superuser of a server on a free port, which runs as nobody where the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="maria"))
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/data", "--skip-test-db"]
    quiet = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, **quiet)  # type: ignore[call-overload]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        f"--datadir={folder}/data",
        f"--socket={folder}/s",
        f"--port={port}",
        "--bind-address=127.0.0.1",
    ]
    server = subprocess.Popen(["mariadbd", "--no-defaults", *options], **quiet)  # type: ignore[call-overload]
    engine = sa.create_engine(
        f"mysql+pymysql://root@127.0.0.1:{port}/mysql", poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
    )
    try:
        for _ in range(300):
            time.sleep(0.1)
            if server.poll() is not None or _answers(engine):
                break
        run(
            engine,
            "CREATE DATABASE clinic",
            "CREATE TABLE clinic.person (id BIGINT, name VARCHAR(40), born DATE, seen DATETIME,"
            " weight DECIMAL(10,4), height DOUBLE, alive BOOLEAN, late DOUBLE, raw BLOB)",
            f"INSERT INTO clinic.person SELECT seq, '{CELL}', '1970-01-02', '2020-01-01 01:00', 0.1, 0.1, 1,"
            " IF(seq > 20000, 1.5, NULL), 'x' FROM mysql.seq_1_to_20001",
            f"CREATE USER reader IDENTIFIED BY '{CANARY}'",
            "GRANT SELECT ON clinic.person TO reader",
            "CREATE USER writer",
            "GRANT SELECT ON clinic.* TO writer",
            "CREATE ROLE editors",
            "GRANT DELETE ON `clin_c`.* TO editors",
            "GRANT editors TO writer",
            "SET DEFAULT ROLE editors FOR writer",
        )
        yield engine
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(engine: sa.Engine) -> bool:
    try:
        engine.connect().close()
    except sa.exc.OperationalError:
        return False
    return True


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.connect() as connection:
        for statement in statements:
            connection.execution_options(no_parameters=True).exec_driver_sql(statement)


def connect(
    root: sa.Engine,
    folder: Path,
    user: str = "reader",
    *,
    limit_s: float = 30,
    database: str = "clinic",
    password: str = CANARY,
    **settings: str,
) -> SqlSource:
    if user == "reader":
        (folder / "password").write_text(password)
        (folder / "password").chmod(0o600)
        settings["password_file"] = "password"
    url = f"mariadb://{user}@127.0.0.1:{root.url.port}/{database}"
    return open_sql(
        SqlConnection.model_validate({"kind": "sql", "url": url, **settings}), folder, limit_s=limit_s
    )


def read(source: SqlSource, text: str) -> pa.Table:
    parsed = sqlglot.parse_one(text, dialect="mysql")
    assert isinstance(parsed, exp.Select)
    return pa.Table.from_batches(list(source.select(parsed)))


def refused(error: pytest.ExceptionInfo[DataError], code: str) -> None:
    assert error.value.code == code
    assert CANARY not in str(error.value)
    assert CELL not in str(error.value)
    assert error.value.__context__ is None


def test_types_are_those_of_the_columns(root: sa.Engine, tmp_path: Path) -> None:
    source = connect(root, tmp_path)
    found = read(source, "SELECT id, name, born, seen, weight, height, alive, late FROM person ORDER BY id")
    assert [str(one) for one in found.schema.types] == [
        "int64", "string", "date32[day]", "timestamp[us]", "double", "double", "int64", "double",
    ]  # fmt: skip
    assert found.num_rows == 20001
    assert found.column("weight")[0].as_py() == 0.1
    assert found.column("late").null_count == 20000
    assert source.tables()["person"].columns["weight"] == "DECIMAL(10, 4)"
    with pytest.raises(DataError) as error:
        read(source, "SELECT raw FROM person")
    refused(error, "data.source_value")
    source.close()


def test_a_pattern_is_written_as_mariadb_takes_it(root: sa.Engine, tmp_path: Path) -> None:
    source = connect(root, tmp_path)
    matched = exp.RegexpLike(this=exp.column("name"), expression=exp.Literal.string("^Ms-[A-Z]"))
    for condition, rows in ((matched, 20001), (exp.not_(matched), 0)):
        query = exp.select("id").from_("person").where(condition)
        assert sum(batch.num_rows for batch in source.select(query)) == rows
    source.close()


def test_all_queries_see_one_state(root: sa.Engine, tmp_path: Path) -> None:
    run(
        root,
        "CREATE TABLE clinic.t (a INT)",
        "INSERT INTO clinic.t VALUES (1)",
        "GRANT SELECT ON clinic.t TO reader",
    )
    source = connect(root, tmp_path)
    run(root, "INSERT INTO clinic.t VALUES (2)")
    assert read(source, "SELECT a FROM t").to_pylist() == [{"a": 1}]
    run(root, "UPDATE clinic.t SET a = 5")
    assert read(source, "SELECT a FROM t").to_pylist() == [{"a": 1}]
    source.close()


def test_rights_of_a_role_and_by_a_pattern_are_found(root: sa.Engine, tmp_path: Path) -> None:
    source = connect(root, tmp_path, "writer")
    with pytest.raises(DataError) as error:
        read(source, "SELECT id FROM person")
    refused(error, "data.role_may_write")
    source.close()
    allowed = connect(root, tmp_path, "writer", writable_role="allow")
    assert read(allowed, "SELECT id FROM person LIMIT 1").num_rows == 1
    assert [one.code for one in allowed.troubles()] == ["notice.role_may_write"]
    with pytest.raises(sa.exc.OperationalError, match="READ ONLY"):
        allowed._open().exec_driver_sql("DELETE FROM person")
    allowed.close()


def test_a_connection_that_fails_says_why(root: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        connect(root, tmp_path, password=CANARY + "x")
    refused(error, "data.source_down")
    assert "refuses the user or the password" in str(error.value)
    # A role without rights is told neither that there is such a database nor that there is none.
    with pytest.raises(DataError) as error:
        connect(root, tmp_path, database="nowhere")
    refused(error, "data.source_denied")


def test_the_time_limit_ends_a_query(root: sa.Engine, tmp_path: Path) -> None:
    source = connect(root, tmp_path, limit_s=1)
    with pytest.raises(DataError) as error:
        read(source, "SELECT SUM(SQRT(a.id * b.id)) AS s FROM person AS a, person AS b, person AS c")
    refused(error, "data.source_timeout")
    source.close()


def test_a_connection_lost_in_the_middle(root: sa.Engine, tmp_path: Path) -> None:
    source = connect(root, tmp_path)
    parsed = sqlglot.parse_one("SELECT a.id FROM person AS a, person AS b", dialect="mysql")
    assert isinstance(parsed, exp.Select)
    rows = source.select(parsed)
    assert next(rows).num_rows == BATCH_ROWS
    with root.connect() as connection:
        find = "SELECT id FROM information_schema.processlist WHERE user = 'reader'"
        for (number,) in connection.exec_driver_sql(find).all():
            connection.exec_driver_sql(f"KILL {number}")
    with pytest.raises(DataError) as error:
        for _ in rows:
            pass
    refused(error, "data.source_down")


def test_what_is_not_there_or_not_allowed(root: sa.Engine, tmp_path: Path) -> None:
    run(root, "CREATE TABLE clinic.hidden (a INT)")
    source = connect(root, tmp_path)
    for text, code in (
        ("SELECT id FROM persons", "data.source_table"),
        ("SELECT name + id FROM person WHERE idd = 1", "data.source_table"),
        ("SELECT a FROM hidden", "data.source_table"),  # MariaDB does not show it to this role
    ):
        with pytest.raises(DataError) as error:
            read(source, text)
        refused(error, code)
    source.close()
