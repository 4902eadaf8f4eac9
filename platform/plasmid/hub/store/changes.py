"""What a commit makes of a folder's files: pure, no database.

Rules
-----
1. Operations apply in their order; all of them or none.
2. What they lead to can lie in one folder on every system (:func:`plasmid.hub.store.names.check_together`),
   and has at most :data:`MAX_FILES` files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from plasmid.core.canonical import digest_json
from plasmid.core.errors import HubError
from plasmid.hub.store.database import micros
from plasmid.hub.store.names import RepoId, check_path, check_together
from plasmid.hub.store.reading import entry_missing
from plasmid.hub.store.records import Add, Blob, Copy, Delete, FileEntry, Operation

MAX_FILES = 10_000
MAX_OPERATIONS = 25_000
MAX_COMMIT_TITLE = 1_000
MAX_COMMIT_DESCRIPTION = 65_536
_ID_DIGITS = 40

Files = dict[str, FileEntry]


def apply(
    before: Mapping[str, FileEntry],
    operations: Sequence[Operation],
    *,
    repo: RepoId,
    head: str,
    blob: Callable[[str], Blob],
    at: Callable[[str], Mapping[str, FileEntry]],
) -> Files:
    """Return the files by path after *operations*.

    Parameters
    ----------
    blob
        The stored blob of a SHA-256; raises HubError (``hub.blob_missing``).
    at
        The files of a revision; raises HubError (``hub.revision_missing``).

    Raises
    ------
    HubError
        ``hub.path``, ``hub.path_conflict``, ``hub.too_many_files``; ``hub.entry_missing``: there is nothing
        to delete or to copy.
    """
    if len(operations) > MAX_OPERATIONS:
        raise _too_many(repo, len(operations), "changes in one commit", MAX_OPERATIONS)
    files = dict(before)
    for change in operations:
        match change:
            case Add(path, sha256, lfs):
                stored = blob(sha256)
                files[check_path(path)] = FileEntry(path, stored.size, stored.oid, stored.sha256, lfs)
            case Copy(path, source, revision):
                found = (files if revision is None else at(revision)).get(source)
                if found is None:
                    raise entry_missing(repo, source, revision or head)
                files[check_path(path)] = FileEntry(path, found.size, found.oid, found.sha256, found.lfs)
            case Delete(path, folder):
                below = path.rstrip("/") + "/"
                gone = [name for name in files if name.startswith(below)] if folder else [path]
                if not gone or gone[0] not in files:
                    raise entry_missing(repo, path, head)
                for name in gone:
                    del files[name]
    if len(files) > MAX_FILES:
        raise _too_many(repo, len(files), "files", MAX_FILES)
    check_together(files)
    return files


def commit_id(
    files: Mapping[str, FileEntry],
    *,
    repo: RepoId,
    parent: str | None,
    title: str,
    description: str,
    author: str,
    created: datetime,
) -> str:
    """Return the id of a commit: the same for the same contents, and for no others."""
    said = {
        "schema": "plasmid.commit/1",
        "repo": repo.folded,
        "parent": parent,
        "files": [[path, files[path].sha256, files[path].lfs] for path in sorted(files)],
        "title": title,
        "description": description,
        "author": author,
        "created": micros(created),
    }
    return digest_json(said)[:_ID_DIGITS]


def plain_text(text: str, limit: int) -> str:
    """Return *text* as every database keeps it, cut to *limit* characters."""
    kept = text[:limit].encode("utf-8", "replace").decode("utf-8")
    return kept.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _too_many(repo: RepoId, found: int, what: str, limit: int) -> HubError:
    return HubError(
        "hub.too_many_files",
        f"{repo} would have {found} {what}; {limit} are allowed.",
        "Pack small files into one, or spread them over repositories.",
    )
