"""The hub's tables. Times are microseconds since 1970 (:mod:`plasmid.hub.store.database`).

Rules
-----
1. Text compares and sorts by its bytes in both databases.
2. A repository's row is what a search reads: small, and with an index for every order. Long texts lie
   elsewhere.
3. What belongs to a repository goes with it (``ON DELETE CASCADE``), except blobs: others may use them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from plasmid.hub.store.names import MAX_NAME, MAX_PATH, MAX_REVISION

MAX_TITLE = 200
MAX_TAG = 200
MAX_EDGE_NAME = 256
MAX_REASON = 300
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def _text(length: int | None = None) -> Any:
    kind = Text if length is None else String
    plain, sorted_by_bytes = kind(length), kind(length, collation="C")
    return plain.with_variant(sorted_by_bytes, "postgresql")


def _owned() -> Any:
    return ForeignKey("repos.key", ondelete="CASCADE")


class Base(DeclarativeBase):
    """Of all tables here."""


Base.metadata.naming_convention = NAMES


class AccountRow(Base):
    """A user or an organisation; *folded* is the name in lower case."""

    __tablename__ = "accounts"
    key: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(_text(MAX_NAME))
    folded: Mapped[str] = mapped_column(_text(MAX_NAME), unique=True)
    kind: Mapped[str] = mapped_column(_text(16))
    email: Mapped[str | None] = mapped_column(_text(254))
    created: Mapped[int] = mapped_column(BigInteger)


class MembershipRow(Base):
    """A user's role in an organisation."""

    __tablename__ = "memberships"
    user: Mapped[int] = mapped_column(ForeignKey("accounts.key"), primary_key=True)
    organisation: Mapped[int] = mapped_column(ForeignKey("accounts.key"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(_text(8))


class TokenRow(Base):
    """A token, by the SHA-256 of its secret; a row stays when its token is revoked."""

    __tablename__ = "tokens"
    digest: Mapped[str] = mapped_column(_text(64), primary_key=True)
    account: Mapped[int] = mapped_column(ForeignKey("accounts.key"), index=True)
    name: Mapped[str] = mapped_column(_text(MAX_NAME))
    scope: Mapped[str] = mapped_column(_text(8))
    created: Mapped[int] = mapped_column(BigInteger)
    expires: Mapped[int | None] = mapped_column(BigInteger)
    used: Mapped[int | None] = mapped_column(BigInteger)
    revoked: Mapped[int | None] = mapped_column(BigInteger)


class RepoRow(Base):
    """A repository, and what it is found by: ``metric`` and ``epsilon`` are the card's, None where it has
    none.

    ``retired`` is the reason. ``filled`` is when something was first committed: None is never, and it is in
    no list then.
    """

    __tablename__ = "repos"
    key: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int] = mapped_column(ForeignKey("accounts.key"))
    name: Mapped[str] = mapped_column(_text(2 * MAX_NAME + 1))
    folded: Mapped[str] = mapped_column(_text(2 * MAX_NAME + 1), unique=True)
    private: Mapped[bool]
    gated: Mapped[str] = mapped_column(_text(8))
    created: Mapped[int] = mapped_column(BigInteger)
    updated: Mapped[int] = mapped_column(BigInteger)
    downloads: Mapped[int] = mapped_column(BigInteger)
    metric: Mapped[float | None] = mapped_column(Float(53))
    epsilon: Mapped[float | None] = mapped_column(Float(53))
    retired: Mapped[str | None] = mapped_column(_text(MAX_REASON))
    filled: Mapped[int | None] = mapped_column(BigInteger)
    __table_args__ = (
        Index(None, "updated", "key"),
        Index(None, "created", "key"),
        Index(None, "downloads", "key"),
        Index(None, "metric", "key"),
        Index(None, "epsilon", "key"),
        Index(None, "owner", "updated", "key"),
    )


class TextsRow(Base):
    """A repository's texts: its title, terms to accept, front matter (JSON), who retired it and when."""

    __tablename__ = "texts"
    repo: Mapped[int] = mapped_column(_owned(), primary_key=True)
    title: Mapped[str] = mapped_column(_text(MAX_TITLE))
    terms: Mapped[str] = mapped_column(_text())
    card: Mapped[str] = mapped_column(_text())
    retired_by: Mapped[str | None] = mapped_column(_text(MAX_NAME))
    retired_at: Mapped[int | None] = mapped_column(BigInteger)


class TagRow(Base):
    """A tag that a repository is found by, or a word of its title; not a tag of a revision."""

    __tablename__ = "repo_tags"
    tag: Mapped[str] = mapped_column(_text(MAX_TAG), primary_key=True)
    repo: Mapped[int] = mapped_column(_owned(), primary_key=True, index=True)
    __table_args__ = ({"sqlite_with_rowid": False},)


class EdgeRow(Base):
    """What a repository was made from: *parent* is a name in lower case (a repository, a run, a recipe)."""

    __tablename__ = "lineage"
    repo: Mapped[int] = mapped_column(_owned(), primary_key=True)
    kind: Mapped[str] = mapped_column(_text(16), primary_key=True)
    parent: Mapped[str] = mapped_column(_text(MAX_EDGE_NAME), primary_key=True, index=True)
    name: Mapped[str] = mapped_column(_text(MAX_EDGE_NAME))
    revision: Mapped[str | None] = mapped_column(_text(MAX_REVISION))


class CommitRow(Base):
    """A revision."""

    __tablename__ = "commits"
    key: Mapped[int] = mapped_column(primary_key=True)
    repo: Mapped[int] = mapped_column(_owned())
    id: Mapped[str] = mapped_column(_text(40))
    parent: Mapped[int | None] = mapped_column(ForeignKey("commits.key", ondelete="CASCADE"), index=True)
    title: Mapped[str] = mapped_column(_text())
    description: Mapped[str] = mapped_column(_text())
    author: Mapped[str] = mapped_column(_text(MAX_NAME))
    created: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (UniqueConstraint("repo", "id"),)


class RefRow(Base):
    """A branch or a tag of a revision."""

    __tablename__ = "refs"
    repo: Mapped[int] = mapped_column(_owned(), primary_key=True)
    kind: Mapped[str] = mapped_column(_text(8), primary_key=True)
    name: Mapped[str] = mapped_column(_text(MAX_REVISION), primary_key=True)
    commit: Mapped[int] = mapped_column(ForeignKey("commits.key", ondelete="CASCADE"), index=True)
    message: Mapped[str] = mapped_column(_text())


class BlobRow(Base):
    """Stored bytes; *wanted* is when somebody last stored or asked for them."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(_text(64), primary_key=True)
    oid: Mapped[str] = mapped_column(_text(40))
    size: Mapped[int] = mapped_column(BigInteger)
    wanted: Mapped[int] = mapped_column(BigInteger, index=True)


class SecretRow(Base):
    """A secret of the hub's own, in hexadecimal digits."""

    __tablename__ = "secrets"
    name: Mapped[str] = mapped_column(_text(32), primary_key=True)
    value: Mapped[str] = mapped_column(_text(64))


class ArrivalRow(Base):
    """Bytes that came over a link for a repository, which may name them until then (not in a commit yet)."""

    __tablename__ = "arrivals"
    repo: Mapped[int] = mapped_column(_owned(), primary_key=True)
    sha256: Mapped[str] = mapped_column(_text(64), primary_key=True)
    until: Mapped[int] = mapped_column(BigInteger, index=True)


class FileRow(Base):
    """A file of a revision."""

    __tablename__ = "files"
    commit: Mapped[int] = mapped_column(ForeignKey("commits.key", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(_text(MAX_PATH), primary_key=True)
    blob: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    lfs: Mapped[bool]
    __table_args__ = ({"sqlite_with_rowid": False},)


class AcceptanceRow(Base):
    """Whoever accepted terms (by their SHA-256), and whether that lets them in."""

    __tablename__ = "acceptances"
    repo: Mapped[int] = mapped_column(_owned(), primary_key=True)
    account: Mapped[int] = mapped_column(ForeignKey("accounts.key"), primary_key=True, index=True)
    terms: Mapped[str] = mapped_column(_text(64))
    state: Mapped[str] = mapped_column(_text(8))
    asked: Mapped[int] = mapped_column(BigInteger)
    decided: Mapped[int | None] = mapped_column(BigInteger)
