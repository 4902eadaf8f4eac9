"""What a repository was made from, and what was made from it.

Rules
-----
1. Edges are what cards and provenance files say (:mod:`plasmid.hub.store.card_facts`), by name: a parent need
   not be here.
2. A repository that the viewer may not read is not named among children, and its name as a parent is only
   what the child itself says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, select

from plasmid.hub.accounts.accounts import Accounts
from plasmid.hub.store.reading import BATCH, repos
from plasmid.hub.store.records import Account, Repo
from plasmid.hub.store.tables import EdgeRow, RepoRow

MAX_CHILDREN = 1_000
MAX_DESCENDANTS = 10_000


@dataclass(frozen=True)
class Edge:
    """One step of a lineage.

    Attributes
    ----------
    kind
        ``base`` (an adapter of it), ``merge``, ``finetune``, ``quantized``, ``run`` or ``recipe``.
    name
        Of the parent, or of the child where children are asked for.
    revision
        What the child says of its parent: a revision; of a recipe, the name.
    repo
        The parent or child; None where it is not here, or the viewer may not read it.
    """

    kind: str
    name: str
    revision: str | None
    repo: Repo | None


class Lineage:
    """Lineage in one hub's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def parents(self, repo: Repo, *, viewer: Account | None) -> list[Edge]:
        """Return what *repo* says that it was made from, by kind and name."""
        wanted = (
            select(EdgeRow.kind, EdgeRow.name, EdgeRow.parent, EdgeRow.revision)
            .where(EdgeRow.repo == repo.key)
            .order_by(EdgeRow.kind, EdgeRow.parent)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(wanted).all()
            here = {
                found.id.folded: found
                for found in repos(connection, RepoRow.folded.in_([row.parent for row in rows]))
                if Accounts.may(viewer, found, "read")
            }
        return [Edge(row.kind, row.name, row.revision, here.get(row.parent)) for row in rows]

    def children(self, repo: Repo, *, viewer: Account | None, limit: int = MAX_CHILDREN) -> list[Edge]:
        """Return what says that it was made from *repo*, the newest first, at most *limit* (1,000)."""
        with self._engine.connect() as connection:
            found = _children(connection, [repo.id.folded], min(limit, MAX_CHILDREN))
        return [edge for edge in found if edge.repo and Accounts.may(viewer, edge.repo, "read")]

    def descendants(self, repo: Repo, *, viewer: Account | None) -> list[Edge]:
        """Return everything that was built on *repo*, the nearest first, each once, at most 10,000.

        Steps over what the viewer may not read are made; only it is not named.
        """
        found: list[Edge] = []
        seen, names = {repo.id.folded}, [repo.id.folded]
        with self._engine.connect() as connection:
            while names and len(found) < MAX_DESCENDANTS:
                edges = _children(connection, names, MAX_DESCENDANTS)
                names = []
                for edge in edges:
                    if edge.repo is not None and edge.repo.id.folded not in seen:
                        seen.add(edge.repo.id.folded)
                        names.append(edge.repo.id.folded)
                        found.append(edge)
        return [edge for edge in found if edge.repo and Accounts.may(viewer, edge.repo, "read")][
            :MAX_DESCENDANTS
        ]


def _children(connection: Connection, names: list[str], limit: int) -> list[Edge]:
    rows: list[Any] = []
    for part in _parts(names):
        rows += connection.execute(
            select(EdgeRow.repo, EdgeRow.kind, EdgeRow.revision)
            .join(RepoRow, RepoRow.key == EdgeRow.repo)
            .where(EdgeRow.parent.in_(part))
            .order_by(RepoRow.updated.desc(), RepoRow.key.desc())
            .limit(limit)
        ).all()
    known = {
        repo.key: repo
        for part in _parts([row.repo for row in rows])
        for repo in repos(connection, RepoRow.key.in_(part))
    }
    return [Edge(row.kind, str(known[row.repo].id), row.revision, known[row.repo]) for row in rows]


def _parts(values: list[str] | list[int]) -> Iterable[list[str] | list[int]]:
    return (values[first : first + BATCH] for first in range(0, len(values), BATCH))
