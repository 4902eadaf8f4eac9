"""Bringing the hub's tables up to date, with Alembic: no settings file, the revisions lie in ``versions/``.

Rules
-----
1. The tables are made by revisions alone; a test compares what they lead to with
   :mod:`plasmid.hub.store.tables`.
2. An upgrade is one transaction: it is done, or nothing is. Hubs that start together wait for one another.
3. A database that a later release has changed is refused, not changed.
4. A new revision is a file ``versions/rNNNN_what.py``; one that was released never changes.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from plasmid.core.errors import HubError
from plasmid.hub.store.database import writing

FOLDER = Path(__file__).parent
_UPGRADING = 0x706C61736D6965
"""The key of PostgreSQL's advisory lock."""


def revisions(folder: Path = FOLDER) -> list[str]:
    """Return the revisions, the first one first."""
    scripts = ScriptDirectory.from_config(_config(folder))
    return [script.revision for script in reversed(list(scripts.walk_revisions()))]


def current(engine: Engine) -> str | None:
    """Return the revision that the database is at, None for one without tables of a hub."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine, to: str = "head", *, folder: Path = FOLDER) -> bool:
    """Bring the tables up to date; return whether that changed anything.

    Raises
    ------
    HubError
        ``hub.migrations``: a later release made them.
    """
    config = _config(folder)
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADING})
        before = _known(connection, folder)
        config.attributes["connection"] = connection
        command.upgrade(config, to)
        return before != MigrationContext.configure(connection).get_current_revision()


def check_release(engine: Engine) -> None:
    """Raise HubError (``hub.migrations``) if the tables are not those of this release."""
    newest = revisions()[-1]
    with engine.connect() as connection:
        found = _known(connection, FOLDER)
    if found != newest:
        raise HubError(
            "hub.migrations",
            f"the hub's tables are at revision {found}, this release needs {newest}.",
            "Run 'plasmid hub migrate'.",
        )


def _config(folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _known(connection: Connection, folder: Path) -> str | None:
    """Return the database's revision.

    Raises HubError (``hub.migrations``) if this release does not know it.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in revisions(folder):
        raise HubError(
            "hub.migrations",
            f"the hub's tables are at revision {found}, which this release does not know.",
            "Use the release that made them, or a later one; nothing was changed.",
        )
    return found
