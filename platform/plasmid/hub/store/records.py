"""What the hub's registry answers with: plain records, no database behind them. Times are aware, UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from plasmid.hub.store.names import RepoId

Action = Literal["read", "write", "admin"]
"""What is asked for, what a role allows, and what a token's scope allows: each includes those before it."""
Gate = Literal["", "auto", "manual"]
"""Open; open to whoever accepts the terms; open to whoever accepts them and is let in."""
Access = Literal["open", "accepted", "pending", "rejected", "terms"]
"""Of one account to one repository's files. ``open``: no gate, or the account may write here; ``terms``: the
present terms have not been accepted."""
ACTIONS: tuple[Action, ...] = ("read", "write", "admin")


@dataclass(frozen=True)
class Account:
    """Who asks.

    Attributes
    ----------
    scope
        The most that the token allows; ``admin`` where no token was involved.
    organisations
        Role by name of organisation; empty for an organisation.
    """

    key: int
    name: str
    kind: Literal["user", "organisation"]
    email: str | None
    scope: Action
    organisations: Mapping[str, Action] = field(default_factory=dict)


@dataclass(frozen=True)
class Blob:
    """Stored bytes: SHA-256, SHA-1 of Git's ``blob <size>\\0`` and the bytes (both hex), size in bytes."""

    sha256: str
    oid: str
    size: int


@dataclass(frozen=True)
class Repo:
    """A repository.

    Attributes
    ----------
    gated, terms
        See :data:`Gate`; the text to accept, "" without a gate.
    updated
        When a commit last came to a branch, or a setting changed.
    downloads
        Counted by :meth:`Registry.count_download`.
    retired
        Why, None if it is not retired.
    head
        Commit id of the branch ``main``.
    """

    id: RepoId
    key: int
    private: bool
    gated: Gate
    terms: str
    created: datetime
    updated: datetime
    downloads: int
    retired: str | None
    head: str


@dataclass(frozen=True)
class Commit:
    """A revision: it never changes.

    Attributes
    ----------
    id
        40 hex digits, of the SHA-256 of everything that it says and holds.
    parent
        None for a repository's first one.
    author
        Name of the account.
    """

    id: str
    key: int
    repo: RepoId
    parent: str | None
    title: str
    description: str
    author: str
    created: datetime


@dataclass(frozen=True)
class FileEntry:
    """A file of a commit; *oid* is Git's SHA-1. With *lfs* clients know it by *sha256*, else by *oid*."""

    path: str
    size: int
    oid: str
    sha256: str
    lfs: bool

    @property
    def etag(self) -> str:
        """What clients know the file's content by."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Ref:
    """A branch or a tag; *commit* is a commit id, *message* a tag's."""

    name: str
    commit: str
    message: str = ""


@dataclass(frozen=True)
class Refs:
    """The branches (``main`` first) and the tags, by name."""

    branches: tuple[Ref, ...]
    tags: tuple[Ref, ...]


@dataclass(frozen=True)
class Add:
    """Put the stored blob *sha256* at *path*, whatever is there."""

    path: str
    sha256: str
    lfs: bool = False


@dataclass(frozen=True)
class Delete:
    """Take away the file at *path*; with *folder* every file below it."""

    path: str
    folder: bool = False


@dataclass(frozen=True)
class Copy:
    """Put at *path* what *source* holds: in this commit so far, or at *revision* of the same repository."""

    path: str
    source: str
    revision: str | None = None


Operation = Add | Delete | Copy


@dataclass(frozen=True)
class AccessRequest:
    """What somebody asked of a gated repository."""

    account: str
    email: str | None
    state: Literal["accepted", "pending", "rejected"]
    asked: datetime
