"""The one transaction that makes a commit: its files, its branch, and what its repository is found by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from plasmid.hub.store.card_facts import WORD, Facts
from plasmid.hub.store.changes import Files, commit_id
from plasmid.hub.store.database import micros
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.reading import MAIN, hold
from plasmid.hub.store.records import Commit
from plasmid.hub.store.tables import CommitRow, EdgeRow, FileRow, RefRow, RepoRow, TagRow, TextsRow


@dataclass(frozen=True)
class Draft:
    """A commit to be; *parent* None makes its branch."""

    files: Files
    parent: Commit | None
    title: str
    description: str
    author: str
    created: datetime

    def id(self, repo: RepoId) -> str:
        """Return the id that it has in *repo*."""
        return commit_id(
            self.files,
            repo=repo,
            parent=self.parent.id if self.parent else None,
            title=self.title,
            description=self.description,
            author=self.author,
            created=self.created,
        )


def publish(
    connection: Connection, key: int, repo: RepoId, branch: str, draft: Draft, *, facts: Facts | None
) -> bool:
    """Make the commit, unless its parent is not the head of *branch* any more; return whether it was made.

    Parameters
    ----------
    key
        Of the repository.
    facts
        What it is found by from now on; None leaves that as it is.

    Raises
    ------
    HubError
        ``hub.repo_missing``: the repository was deleted meanwhile.
    IntegrityError
        A blob was collected meanwhile.
    """
    hold(connection, key, repo)
    place = (RefRow.repo == key) & (RefRow.kind == "branch") & (RefRow.name == branch)
    head = connection.execute(select(RefRow.commit).where(place)).scalar_one_or_none()
    if head != (draft.parent.key if draft.parent else None):
        return False
    made = _commit(connection, key, repo, draft)
    if draft.parent is None:
        connection.execute(
            insert(RefRow).values(repo=key, kind="branch", name=branch, commit=made, message="")
        )
    else:
        connection.execute(update(RefRow).where(place).values(commit=made))
    changed: dict[str, Any] = {"updated": micros(draft.created)}
    if draft.parent is not None:
        changed["filled"] = func.coalesce(RepoRow.filled, micros(draft.created))
    if facts is not None and branch == MAIN:
        changed |= {"metric": facts.metric, "epsilon": facts.epsilon}
        _find_by(connection, key, facts)
    connection.execute(update(RepoRow).where(RepoRow.key == key).values(**changed))
    return True


def _commit(connection: Connection, key: int, repo: RepoId, draft: Draft) -> int:
    """Write the commit and its files; one of the same id, made on another branch, is that commit."""
    digest = draft.id(repo)
    known = select(CommitRow.key).where(CommitRow.repo == key, CommitRow.id == digest)
    found = connection.execute(known).scalar_one_or_none()
    if found is not None:
        return int(found)
    row: Any = connection.execute(
        insert(CommitRow).values(
            repo=key,
            id=digest,
            parent=draft.parent.key if draft.parent else None,
            title=draft.title,
            description=draft.description,
            author=draft.author,
            created=micros(draft.created),
        )
    ).inserted_primary_key
    files = [
        {"commit": row[0], "path": path, "blob": entry.sha256, "lfs": entry.lfs}
        for path, entry in draft.files.items()
    ]
    if files:
        connection.execute(insert(FileRow), files)
    return int(row[0])


def _find_by(connection: Connection, key: int, facts: Facts) -> None:
    connection.execute(delete(TagRow).where(TagRow.repo == key))
    connection.execute(delete(EdgeRow).where(EdgeRow.repo == key))
    tags = dict.fromkeys((*facts.tags, *(WORD + word for word in facts.words)))
    if tags:
        connection.execute(insert(TagRow), [{"repo": key, "tag": tag} for tag in tags])
    if facts.edges:
        edges = [
            {"repo": key, "kind": kind, "parent": name.lower(), "name": name, "revision": revision}
            for kind, name, revision in facts.edges
        ]
        connection.execute(insert(EdgeRow), edges)
    card = json.dumps(facts.card, ensure_ascii=True, allow_nan=False)
    connection.execute(update(TextsRow).where(TextsRow.repo == key).values(title=facts.title, card=card))
