"""What Alembic runs: the revisions, in the transaction of :func:`plasmid.hub.store.migrations.upgrade`."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
