"""From rows to records: repositories, revisions and their files, read on a connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, literal, select
from sqlalchemy.orm import aliased

from plasmid.core.errors import HubError
from plasmid.hub.store.database import moment
from plasmid.hub.store.names import COMMIT, PREFIX, RepoId
from plasmid.hub.store.records import Blob, Commit, FileEntry, Repo
from plasmid.hub.store.tables import BlobRow, CommitRow, FileRow, RefRow, RepoRow, TextsRow

MAIN = "main"
BATCH = 500
"""Values in one ``IN``."""


def repo_missing(name: object) -> HubError:
    """Return the error for a repository that is not there, or that whoever asks may not see."""
    return HubError(
        "hub.repo_missing",
        f"there is no repository {name} here, or you may not see it.",
        "Check the name (owner/name) and your token; 'plasmid hub ls' lists what you may see.",
    )


def revision_missing(repo: RepoId, revision: str) -> HubError:
    """Return the error for a branch, tag or commit that is not there."""
    return HubError(
        "hub.revision_missing",
        f"{repo} has no branch, tag or commit {revision[:200]!r}.",
        f"Take one that it has; {MAIN!r} is always there.",
    )


def entry_missing(repo: RepoId, path: str, commit: str) -> HubError:
    """Return the error for a file that is not in a revision."""
    return HubError(
        "hub.entry_missing",
        f"{repo} has no file {path[:255]!r} at {commit[:12]}.",
        "Check the path, with its case, and the revision.",
    )


# -- repositories ----------------------------------------------------------------------------------


def hold(connection: Connection, key: int, name: object = "") -> None:
    """Let no other transaction change that repository until this one ends. Raises ``hub.repo_missing``."""
    wanted = select(RepoRow.key).where(RepoRow.key == key).with_for_update()
    if connection.execute(wanted).one_or_none() is None:
        raise repo_missing(name)


def repos(connection: Connection, condition: ColumnElement[bool]) -> list[Repo]:
    """Return the repositories of which that is true, in no order."""
    rows = connection.execute(
        select(RepoRow, TextsRow.terms, CommitRow.id.label("head"))
        .join(TextsRow, TextsRow.repo == RepoRow.key)
        .join(RefRow, (RefRow.repo == RepoRow.key) & (RefRow.kind == "branch") & (RefRow.name == MAIN))
        .join(CommitRow, CommitRow.key == RefRow.commit)
        .where(condition)
    )
    return [
        Repo(
            id=RepoId(*row.name.split("/")),
            key=row.key,
            private=row.private,
            gated=row.gated,
            terms=row.terms,
            created=moment(row.created),
            updated=moment(row.updated),
            downloads=row.downloads,
            retired=row.retired,
            head=row.head,
        )
        for row in rows
    ]


# -- revisions -------------------------------------------------------------------------------------

_PARENT = aliased(CommitRow)


def _commits() -> Select[*tuple[Any, ...]]:
    return select(CommitRow, _PARENT.id.label("parent_id")).outerjoin(
        _PARENT, _PARENT.key == CommitRow.parent
    )


def _commit(row: Any, repo: RepoId) -> Commit:
    return Commit(
        id=row.id,
        key=row.key,
        repo=repo,
        parent=row.parent_id,
        title=row.title,
        description=row.description,
        author=row.author,
        created=moment(row.created),
    )


def find_commit(connection: Connection, repo: Repo, revision: str) -> Commit | None:
    """Return the commit that *revision* names: as an id, a branch, a tag, the beginning of an id."""
    if not revision.isprintable():
        return None
    here = _commits().where(CommitRow.repo == repo.key)
    if COMMIT.fullmatch(revision):
        row = connection.execute(here.where(CommitRow.id == revision)).one_or_none()
        return None if row is None else _commit(row, repo.id)
    kinds: tuple[str, ...] = ("branch", "tag")
    for prefix, kind in (("refs/heads/", "branch"), ("refs/tags/", "tag")):
        if revision.startswith(prefix):
            revision, kinds = revision.removeprefix(prefix), (kind,)
    name = MAIN if revision == "HEAD" else revision
    named = here.join(RefRow, RefRow.commit == CommitRow.key).where(
        RefRow.repo == repo.key, RefRow.name == name, RefRow.kind.in_(kinds)
    )
    row = connection.execute(named.order_by(RefRow.kind).limit(1)).one_or_none()
    if row is None and PREFIX.fullmatch(revision) and len(kinds) > 1:
        begins = (CommitRow.id >= revision) & (CommitRow.id < revision + "g")
        found = connection.execute(here.where(begins).limit(2)).all()
        row = found[0] if len(found) == 1 else None
    return None if row is None else _commit(row, repo.id)


def history(connection: Connection, commit: Commit, *, after: int, limit: int) -> list[Commit]:
    """Return *commit* and its ancestors, newest first, but for the first *after*; *limit* at most."""
    line = _line(commit, after + limit)
    wanted = _commits().join(line, line.c.key == CommitRow.key).order_by(line.c.age).offset(after)
    return [_commit(row, commit.repo) for row in connection.execute(wanted)]


def count_history(connection: Connection, commit: Commit) -> int:
    """Return how many commits :func:`history` could return."""
    return connection.execute(select(func.count()).select_from(_line(commit, None))).scalar_one()


def _line(commit: Commit, limit: int | None) -> Any:
    line = (
        select(CommitRow.key, CommitRow.parent, literal(1).label("age"))
        .where(CommitRow.key == commit.key)
        .cte("line", recursive=True)
    )
    older = select(CommitRow.key, CommitRow.parent, line.c.age + 1).where(CommitRow.key == line.c.parent)
    return line.union_all(older if limit is None else older.where(line.c.age < limit))


# -- files -----------------------------------------------------------------------------------------


def tree(connection: Connection, commit: Commit, path: str | None = None) -> list[FileEntry]:
    """Return the files of a commit by path, or the one at *path*."""
    wanted = (
        select(FileRow.path, BlobRow.size, BlobRow.oid, BlobRow.sha256, FileRow.lfs)
        .join(BlobRow, BlobRow.sha256 == FileRow.blob)
        .where(FileRow.commit == commit.key)
        .order_by(FileRow.path)
    )
    rows = connection.execute(wanted if path is None else wanted.where(FileRow.path == path))
    return [FileEntry(row.path, row.size, row.oid, row.sha256, row.lfs) for row in rows]


def blobs(connection: Connection, names: Iterable[str]) -> dict[str, Blob]:
    """Return the blobs *names* (SHA-256) that there are, by name."""
    wanted, found = list(dict.fromkeys(names)), {}
    for first in range(0, len(wanted), BATCH):
        part = BlobRow.sha256.in_(wanted[first : first + BATCH])
        for row in connection.execute(select(BlobRow).where(part)):
            found[row.sha256] = Blob(row.sha256, row.oid, row.size)
    return found
