"""Accounts, repositories, revisions, files, gates, and what repositories are found by."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _text(length: int | None = None) -> Any:
    kind = sa.Text if length is None else sa.String
    plain, sorted_by_bytes = kind(length), kind(length, collation="C")
    return plain.with_variant(sorted_by_bytes, "postgresql")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "accounts",
        sa.Column("key", sa.Integer(), nullable=False),
        sa.Column("name", _text(96), nullable=False),
        sa.Column("folded", _text(96), nullable=False),
        sa.Column("kind", _text(16), nullable=False),
        sa.Column("email", _text(254), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_accounts")),
        sa.UniqueConstraint("folded", name=op.f("uq_accounts_folded")),
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", _text(64), nullable=False),
        sa.Column("oid", _text(40), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("wanted", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_index(op.f("ix_blobs_wanted"), "blobs", ["wanted"], unique=False)
    op.create_table(
        "memberships",
        sa.Column("user", sa.Integer(), nullable=False),
        sa.Column("organisation", sa.Integer(), nullable=False),
        sa.Column("role", _text(8), nullable=False),
        sa.ForeignKeyConstraint(["organisation"], ["accounts.key"], name=op.f("fk_memberships_organisation")),
        sa.ForeignKeyConstraint(["user"], ["accounts.key"], name=op.f("fk_memberships_user")),
        sa.PrimaryKeyConstraint("user", "organisation", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_organisation"), "memberships", ["organisation"], unique=False)
    op.create_table(
        "repos",
        sa.Column("key", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Integer(), nullable=False),
        sa.Column("name", _text(193), nullable=False),
        sa.Column("folded", _text(193), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("gated", _text(8), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("downloads", sa.BigInteger(), nullable=False),
        sa.Column("metric", sa.Float(precision=53), nullable=True),
        sa.Column("epsilon", sa.Float(precision=53), nullable=True),
        sa.Column("retired", _text(300), nullable=True),
        sa.ForeignKeyConstraint(["owner"], ["accounts.key"], name=op.f("fk_repos_owner")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_repos")),
        sa.UniqueConstraint("folded", name=op.f("uq_repos_folded")),
    )
    op.create_index(op.f("ix_repos_created_key"), "repos", ["created", "key"], unique=False)
    op.create_index(op.f("ix_repos_downloads_key"), "repos", ["downloads", "key"], unique=False)
    op.create_index(op.f("ix_repos_epsilon_key"), "repos", ["epsilon", "key"], unique=False)
    op.create_index(op.f("ix_repos_metric_key"), "repos", ["metric", "key"], unique=False)
    op.create_index(op.f("ix_repos_owner_updated_key"), "repos", ["owner", "updated", "key"], unique=False)
    op.create_index(op.f("ix_repos_updated_key"), "repos", ["updated", "key"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("digest", _text(64), nullable=False),
        sa.Column("account", sa.Integer(), nullable=False),
        sa.Column("name", _text(96), nullable=False),
        sa.Column("scope", _text(8), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=True),
        sa.Column("used", sa.BigInteger(), nullable=True),
        sa.Column("revoked", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["account"], ["accounts.key"], name=op.f("fk_tokens_account")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_tokens")),
    )
    op.create_index(op.f("ix_tokens_account"), "tokens", ["account"], unique=False)
    op.create_table(
        "acceptances",
        sa.Column("repo", sa.Integer(), nullable=False),
        sa.Column("account", sa.Integer(), nullable=False),
        sa.Column("terms", _text(64), nullable=False),
        sa.Column("state", _text(8), nullable=False),
        sa.Column("asked", sa.BigInteger(), nullable=False),
        sa.Column("decided", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["account"], ["accounts.key"], name=op.f("fk_acceptances_account")),
        sa.ForeignKeyConstraint(
            ["repo"], ["repos.key"], name=op.f("fk_acceptances_repo"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("repo", "account", name=op.f("pk_acceptances")),
    )
    op.create_index(op.f("ix_acceptances_account"), "acceptances", ["account"], unique=False)
    op.create_table(
        "commits",
        sa.Column("key", sa.Integer(), nullable=False),
        sa.Column("repo", sa.Integer(), nullable=False),
        sa.Column("id", _text(40), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("title", _text(), nullable=False),
        sa.Column("description", _text(), nullable=False),
        sa.Column("author", _text(96), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["parent"], ["commits.key"], name=op.f("fk_commits_parent"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["repo"], ["repos.key"], name=op.f("fk_commits_repo"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_commits")),
        sa.UniqueConstraint("repo", "id", name=op.f("uq_commits_repo_id")),
    )
    op.create_index(op.f("ix_commits_parent"), "commits", ["parent"], unique=False)
    op.create_table(
        "lineage",
        sa.Column("repo", sa.Integer(), nullable=False),
        sa.Column("kind", _text(16), nullable=False),
        sa.Column("parent", _text(256), nullable=False),
        sa.Column("name", _text(256), nullable=False),
        sa.Column("revision", _text(200), nullable=True),
        sa.ForeignKeyConstraint(["repo"], ["repos.key"], name=op.f("fk_lineage_repo"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("repo", "kind", "parent", name=op.f("pk_lineage")),
    )
    op.create_index(op.f("ix_lineage_parent"), "lineage", ["parent"], unique=False)
    op.create_table(
        "repo_tags",
        sa.Column("tag", _text(200), nullable=False),
        sa.Column("repo", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["repo"], ["repos.key"], name=op.f("fk_repo_tags_repo"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tag", "repo", name=op.f("pk_repo_tags")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_repo_tags_repo"), "repo_tags", ["repo"], unique=False)
    op.create_table(
        "texts",
        sa.Column("repo", sa.Integer(), nullable=False),
        sa.Column("title", _text(200), nullable=False),
        sa.Column("terms", _text(), nullable=False),
        sa.Column("card", _text(), nullable=False),
        sa.Column("retired_by", _text(96), nullable=True),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["repo"], ["repos.key"], name=op.f("fk_texts_repo"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("repo", name=op.f("pk_texts")),
    )
    op.create_table(
        "files",
        sa.Column("commit", sa.Integer(), nullable=False),
        sa.Column("path", _text(255), nullable=False),
        sa.Column("blob", _text(64), nullable=False),
        sa.Column("lfs", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["blob"], ["blobs.sha256"], name=op.f("fk_files_blob")),
        sa.ForeignKeyConstraint(
            ["commit"], ["commits.key"], name=op.f("fk_files_commit"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("commit", "path", name=op.f("pk_files")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_files_blob"), "files", ["blob"], unique=False)
    op.create_table(
        "refs",
        sa.Column("repo", sa.Integer(), nullable=False),
        sa.Column("kind", _text(8), nullable=False),
        sa.Column("name", _text(200), nullable=False),
        sa.Column("commit", sa.Integer(), nullable=False),
        sa.Column("message", _text(), nullable=False),
        sa.ForeignKeyConstraint(["commit"], ["commits.key"], name=op.f("fk_refs_commit"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["repo"], ["repos.key"], name=op.f("fk_refs_repo"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("repo", "kind", "name", name=op.f("pk_refs")),
    )
    op.create_index(op.f("ix_refs_commit"), "refs", ["commit"], unique=False)
