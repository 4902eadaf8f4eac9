"""The revisions of repositories: commits, their files, branches and tags.

Rules
-----
1. A commit never changes. Branches move, by commits alone; tags do not move.
2. Bytes are stored first; then one transaction makes the commit, moves the branch and says what the
   repository is found by (:mod:`plasmid.hub.store.publishing`). Whatever fails before its end, nothing of it
   is seen.
3. Who builds on a head that is not the head any more is told so, and nothing is written; who names no parent
   builds on whatever is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from plasmid.core.clock import Clock, now
from plasmid.core.errors import HubError
from plasmid.hub.store import reading
from plasmid.hub.store.blobs import BlobStore, missing
from plasmid.hub.store.card_facts import MAX_SOURCE_BYTES, SOURCES, Facts, read_facts
from plasmid.hub.store.changes import MAX_COMMIT_DESCRIPTION, MAX_COMMIT_TITLE, Files, apply, plain_text
from plasmid.hub.store.database import writing
from plasmid.hub.store.names import MIN_PREFIX, check_revision
from plasmid.hub.store.publishing import Draft, publish
from plasmid.hub.store.reading import MAIN
from plasmid.hub.store.records import Account, Add, Blob, Commit, FileEntry, Operation, Ref, Refs, Repo
from plasmid.hub.store.tables import CommitRow, RefRow

_ATTEMPTS = 50
_MAX_MESSAGE = 2_000


class Revisions:
    """What :class:`plasmid.hub.store.registry.Registry` does with commits and names for them."""

    def __init__(self, engine: Engine, blobs: BlobStore, *, clock: Clock = now) -> None:
        self._engine, self._blobs, self._clock = engine, blobs, clock

    # -- reading -----------------------------------------------------------------------------------

    def resolve(self, repo: Repo, revision: str) -> Commit:
        """Return the commit that a branch, a tag, an id or at least seven digits of one name.

        Raises
        ------
        HubError
            ``hub.revision_missing``.
        """
        with self._engine.connect() as connection:
            found = reading.find_commit(connection, repo, revision)
        if found is None:
            raise reading.revision_missing(repo.id, revision)
        return found

    def tree(self, commit: Commit) -> list[FileEntry]:
        """Return every file of a commit, by path."""
        with self._engine.connect() as connection:
            return reading.tree(connection, commit)

    def file(self, commit: Commit, path: str) -> FileEntry:
        """Return a file of a commit. Raises HubError (``hub.entry_missing``)."""
        with self._engine.connect() as connection:
            found = reading.tree(connection, commit, path) if path.isprintable() else []
        if not found:
            raise reading.entry_missing(commit.repo, path, commit.id)
        return found[0]

    def history(self, commit: Commit, *, after: int = 0, limit: int = 50) -> list[Commit]:
        """Return *commit* and its ancestors, newest first, but for the first *after*; *limit* at most."""
        with self._engine.connect() as connection:
            return reading.history(connection, commit, after=after, limit=limit)

    def count_history(self, commit: Commit) -> int:
        """Return how many there are of *commit* and its ancestors."""
        with self._engine.connect() as connection:
            return reading.count_history(connection, commit)

    # -- committing --------------------------------------------------------------------------------

    def commit(
        self,
        repo: Repo,
        branch: str,
        operations: Sequence[Operation],
        *,
        title: str,
        description: str = "",
        by: Account,
        parent: str | None = None,
    ) -> Commit:
        """Apply *operations* to a branch's files, in order, all or none. Where they change nothing, return
        its head.

        Parameters
        ----------
        title, description
            Cut to 1,000 and 65,536 characters.
        parent
            The id of the commit that must be the branch's head, or at least seven digits of it; None:
            whatever is.

        Raises
        ------
        HubError
            ``hub.commit_conflict``: *parent* is not the head; ``hub.revision_missing``: there is no such
            branch; ``hub.blob_missing``: an added file's bytes are not stored; what
            :func:`plasmid.hub.store.changes.apply` raises; ``hub.repo_missing``.
        """
        for _ in range(_ATTEMPTS):
            head = self.resolve(repo, f"refs/heads/{branch}")
            if parent is not None and not (len(parent) >= MIN_PREFIX and head.id.startswith(parent)):
                break
            before = {entry.path: entry for entry in self.tree(head)}
            after = self._apply(repo, head, before, operations)
            if after == before:
                return head
            draft = Draft(
                files=after,
                parent=head,
                title=plain_text(title, MAX_COMMIT_TITLE),
                description=plain_text(description, MAX_COMMIT_DESCRIPTION),
                author=by.name,
                created=self._clock(),
            )
            facts = self._facts(before, after) if branch == MAIN else None
            if self._published(repo, branch, draft, facts):
                return self.resolve(repo, draft.id(repo.id))
        raise HubError(
            "hub.commit_conflict",
            f"the branch {branch} of {repo.id} is at {head.id[:12]}, not at {(parent or 'its head')[:12]}.",
            "Somebody else committed meanwhile: fetch the branch, look at the change, and upload again.",
        )

    def _apply(
        self, repo: Repo, head: Commit, before: Mapping[str, FileEntry], operations: Sequence[Operation]
    ) -> Files:
        with self._engine.connect() as connection:
            added = [change.sha256 for change in operations if isinstance(change, Add)]
            stored = reading.blobs(connection, added)
        trees: dict[str, Files] = {}

        def blob(sha256: str) -> Blob:
            if sha256 not in stored:
                raise missing(sha256)
            return stored[sha256]

        def at(revision: str) -> Files:
            if revision not in trees:
                entries = self.tree(self.resolve(repo, revision))
                trees[revision] = {entry.path: entry for entry in entries}
            return trees[revision]

        return apply(before, operations, repo=repo.id, head=head.id, blob=blob, at=at)

    def _facts(self, before: Mapping[str, FileEntry], after: Files) -> Facts | None:
        """Return what the repository is found by from now on, None where that has not changed."""
        sources = [name for name in SOURCES if name in after]
        if [before.get(name) for name in SOURCES] == [after.get(name) for name in SOURCES]:
            return None
        found = {}
        for name in sources:
            data = self._blobs.load(after[name].sha256, max_bytes=MAX_SOURCE_BYTES)
            if data is not None:
                found[name] = data
        return read_facts(found)

    def _published(self, repo: Repo, branch: str, draft: Draft, facts: Facts | None) -> bool:
        """Make the commit unless the branch has moved meanwhile."""
        try:
            with writing(self._engine) as connection:
                return publish(connection, repo.key, repo.id, branch, draft, facts=facts)
        except IntegrityError:
            gone = [entry for entry in draft.files.values() if not self._blobs.has(entry.sha256)]
        if not gone:
            return False
        raise missing(gone[0].sha256)

    # -- branches and tags -------------------------------------------------------------------------

    def refs(self, repo: Repo) -> Refs:
        """Return the branches, ``main`` first, and the tags, both by name."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(RefRow.kind, RefRow.name, RefRow.message, CommitRow.id)
                .join(CommitRow, CommitRow.key == RefRow.commit)
                .where(RefRow.repo == repo.key)
            ).all()
        found = sorted((row.kind != "branch", row.name != MAIN, row.name, row) for row in rows)
        refs = [(row.kind, Ref(row.name, row.id, row.message)) for _, _, _, row in found]
        return Refs(
            branches=tuple(ref for kind, ref in refs if kind == "branch"),
            tags=tuple(ref for kind, ref in refs if kind == "tag"),
        )

    def branch(self, repo: Repo, name: str, revision: str = MAIN) -> None:
        """Make a branch at *revision*.

        Raises
        ------
        HubError
            ``hub.revision``: it cannot be a name; ``hub.ref_exists``; ``hub.revision_missing``.
        """
        self._name(repo, "branch", name, revision, "")

    def tag(self, repo: Repo, name: str, revision: str = MAIN, *, message: str = "") -> None:
        """Make a tag of *revision*; a message is cut to 2,000 characters.

        Raises
        ------
        HubError
            As :meth:`branch`.
        """
        self._name(repo, "tag", name, revision, plain_text(message, _MAX_MESSAGE))

    def _name(self, repo: Repo, kind: str, name: str, revision: str, message: str) -> None:
        check_revision(name)
        commit = self.resolve(repo, revision)
        with writing(self._engine) as connection:
            reading.hold(connection, repo.key, repo.id)
            known = connection.execute(
                select(RefRow.kind).where(RefRow.repo == repo.key, RefRow.name == name)
            ).scalar_one_or_none()
            if known is not None:
                raise HubError(
                    "hub.ref_exists",
                    f"{repo.id} has a {known} {name!r} already.",
                    "Choose another name, or delete that one first.",
                )
            connection.execute(
                insert(RefRow).values(repo=repo.key, kind=kind, name=name, commit=commit.key, message=message)
            )

    def delete_branch(self, repo: Repo, name: str) -> None:
        """Delete a branch; its commits stay.

        Raises
        ------
        HubError
            ``hub.revision_missing``; ``hub.ref_protected``: ``main`` stays.
        """
        if name == MAIN:
            raise HubError(
                "hub.ref_protected",
                f"the branch {MAIN} of {repo.id} stays.",
                "Delete the repository instead.",
            )
        self._unname(repo, "branch", name)

    def delete_tag(self, repo: Repo, name: str) -> None:
        """Delete a tag; its commit stays. Raises HubError (``hub.revision_missing``)."""
        self._unname(repo, "tag", name)

    def _unname(self, repo: Repo, kind: str, name: str) -> None:
        place = (RefRow.repo == repo.key) & (RefRow.kind == kind) & (RefRow.name == name)
        with writing(self._engine) as connection:
            reading.hold(connection, repo.key, repo.id)
            if not (name.isprintable() and connection.execute(delete(RefRow).where(place)).rowcount):
                raise reading.revision_missing(repo.id, name)
