"""The tables: what the revisions make of an empty database, and of one with rows, on both databases."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from plasmid.core.errors import HubError
from plasmid.hub.accounts.accounts import Accounts
from plasmid.hub.store.database import open_hub_engine, writing
from plasmid.hub.store.migrations import FOLDER, check_release, current, revisions, upgrade
from plasmid.hub.store.tables import Base

NEXT = """
from alembic import op
import sqlalchemy as sa

revision = "next"
down_revision = "{newest}"

def upgrade():
    op.add_column("accounts", sa.Column("motto", sa.String(20), server_default="none", nullable=False))
    {then}
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = open_hub_engine(database_url)
    yield opened
    opened.dispose()


def later(tmp_path: Path, then: str = "") -> Path:
    """Return a copy of the revisions with one more."""
    folder = tmp_path / "later"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "next.py").write_text(NEXT.format(newest=revisions()[-1], then=then))
    return folder


def refusal(code: str) -> pytest.RaisesExc[HubError]:
    return pytest.RaisesExc(HubError, check=lambda error: error.code == code)


def test_the_revisions_lead_one_by_one_to_the_tables_of_the_source(engine: Engine) -> None:
    with refusal("hub.migrations"):
        check_release(engine)
    for revision in revisions():
        assert upgrade(engine, revision)
        assert current(engine) == revision
    assert not upgrade(engine)
    check_release(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_a_database_with_rows_is_upgraded_and_then_refused_by_this_release(
    engine: Engine, tmp_path: Path
) -> None:
    upgrade(engine, revisions()[0])
    upgrade(engine)
    Accounts(engine).create_user("ann")
    assert upgrade(engine, folder=later(tmp_path))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name, motto FROM accounts")).all() == [("ann", "none")]
    for refused in (check_release, upgrade):
        with refusal("hub.migrations"):
            refused(engine)


def test_what_was_committed_to_before_stays_in_lists(engine: Engine) -> None:
    upgrade(engine, "0001")
    rows = (
        "INSERT INTO accounts VALUES (1, 'ann', 'ann', 'user', NULL, 0)",
        "INSERT INTO repos VALUES (1, 1, 'ann/a', 'ann/a', false, '', 1, 7, 0, NULL, NULL, NULL)",
        "INSERT INTO repos VALUES (2, 1, 'ann/b', 'ann/b', false, '', 1, 9, 0, NULL, NULL, NULL)",
        "INSERT INTO commits VALUES (1, 1, 'c1', NULL, '', '', 'ann', 1)",
        "INSERT INTO commits VALUES (2, 2, 'c2', NULL, '', '', 'ann', 1)",
        "INSERT INTO commits VALUES (3, 1, 'c3', 1, '', '', 'ann', 7)",
    )
    with writing(engine) as connection:
        for row in rows:
            connection.execute(text(row))
    assert upgrade(engine)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT name, filled FROM repos ORDER BY key")).all()
    assert found == [("ann/a", 7), ("ann/b", None)]


def test_an_upgrade_that_fails_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    upgrade(engine)
    with pytest.raises(ZeroDivisionError):
        upgrade(engine, folder=later(tmp_path, then="1 / 0"))
    assert current(engine) == revisions()[-1]
    assert "motto" not in {column["name"] for column in inspect(engine).get_columns("accounts")}
    with writing(engine) as connection:
        connection.execute(text("DELETE FROM accounts"))


def test_hubs_that_start_together_upgrade_once(engine: Engine) -> None:
    changed: list[bool] = []
    threads = [threading.Thread(target=lambda: changed.append(upgrade(engine))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(changed) == [False, False, False, True]
