"""What several processes of one hub share: its key, which bytes came; and when a repository was filled."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _text(length: int) -> Any:
    plain, sorted_by_bytes = sa.String(length), sa.String(length, collation="C")
    return plain.with_variant(sorted_by_bytes, "postgresql")


def upgrade() -> None:
    """Make the tables, and mark the repositories that something was committed to."""
    op.create_table(
        "secrets",
        sa.Column("name", _text(32), nullable=False),
        sa.Column("value", _text(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "arrivals",
        sa.Column("repo", sa.Integer(), nullable=False),
        sa.Column("sha256", _text(64), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["repo"], ["repos.key"], name=op.f("fk_arrivals_repo"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("repo", "sha256", name=op.f("pk_arrivals")),
    )
    op.create_index(op.f("ix_arrivals_until"), "arrivals", ["until"], unique=False)
    op.add_column("repos", sa.Column("filled", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE repos SET filled = updated WHERE EXISTS "
        "(SELECT 1 FROM commits WHERE commits.repo = repos.key AND commits.parent IS NOT NULL)"
    )
