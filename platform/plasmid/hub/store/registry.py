"""Repositories: made, found by name, set, retired, deleted. What they hold is in
:mod:`plasmid.hub.store.revisions`.

Rules
-----
1. Whether somebody may do it is not asked here, but by the caller (:mod:`plasmid.hub.accounts.accounts`).
2. Every change is one transaction.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from plasmid.core.clock import Clock, now
from plasmid.core.errors import HubError
from plasmid.hub.accounts.accounts import account_row
from plasmid.hub.accounts.gates import Gates
from plasmid.hub.store import reading
from plasmid.hub.store.blob_retention import keep_blobs, want_blob
from plasmid.hub.store.blobs import BlobStore
from plasmid.hub.store.changes import plain_text
from plasmid.hub.store.database import micros, writing
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.publishing import Draft, publish
from plasmid.hub.store.reading import MAIN
from plasmid.hub.store.records import Account, Blob, Gate, Repo
from plasmid.hub.store.revisions import Revisions
from plasmid.hub.store.tables import MAX_REASON, RepoRow, TextsRow

MAX_TERMS = 20_000
_COUNT_EVERY_S = 10.0


class Registry(Revisions):
    """All repositories of one hub. Methods may be called from several threads.

    Attributes
    ----------
    gates
        Terms, acceptances, and requests for access.
    """

    def __init__(self, engine: Engine, blobs: BlobStore, *, clock: Clock = now) -> None:
        super().__init__(engine, blobs, clock=clock)
        self.gates = Gates(engine, clock)
        self._counting = threading.Lock()
        self._counts: dict[int, int] = {}
        self._counted = time.monotonic()

    # -- repositories ------------------------------------------------------------------------------

    def create(self, repo: RepoId, *, by: Account, private: bool = False) -> Repo:
        """Make a repository: the branch ``main``, with one commit that holds nothing.

        Raises
        ------
        HubError
            ``hub.exists``; ``hub.account_missing``: there is no such owner.
        """
        created = self._clock()
        try:
            with writing(self._engine) as connection:
                owner = account_row(connection, repo.owner)
                named = RepoId(owner.name, repo.name)
                values = {
                    "owner": owner.key,
                    "name": str(named),
                    "folded": named.folded,
                    "private": private,
                    "gated": "",
                    "created": micros(created),
                    "updated": micros(created),
                    "downloads": 0,
                }
                made: Any = connection.execute(insert(RepoRow).values(**values)).inserted_primary_key
                connection.execute(insert(TextsRow).values(repo=made[0], title="", terms="", card="{}"))
                draft = Draft({}, None, "initial commit", "", by.name, created)
                publish(connection, made[0], named, MAIN, draft, facts=None)
        except IntegrityError:
            taken = True
        else:
            taken = False
        if taken:
            raise HubError(
                "hub.exists",
                f"there is a repository {repo} already.",
                "Choose another name, or commit to it.",
            )
        return self.get(repo)

    def get(self, repo: RepoId) -> Repo:
        """Return a repository, its id in the case that it was made with.

        Raises HubError (``hub.repo_missing``).
        """
        with self._engine.connect() as connection:
            found = reading.repos(connection, RepoRow.folded == repo.folded)
        if not found:
            raise reading.repo_missing(repo)
        return found[0]

    def delete(self, repo: RepoId) -> None:
        """Delete a repository; blobs that no other one uses go with the next collect.

        Raises
        ------
        HubError
            ``hub.repo_missing``.
        """
        with writing(self._engine) as connection:
            if not connection.execute(delete(RepoRow).where(RepoRow.folded == repo.folded)).rowcount:
                raise reading.repo_missing(repo)

    def update(
        self,
        repo: RepoId,
        *,
        private: bool | None = None,
        gated: Gate | None = None,
        terms: str | None = None,
    ) -> Repo:
        """Change a repository's settings; None leaves one as it is.

        Raises
        ------
        HubError
            ``hub.repo_missing``; ``hub.terms``: a gate without terms to accept, or terms that are too long.
        """
        known = self.get(repo)
        gate = known.gated if gated is None else gated
        text = known.terms if terms is None else plain_text(terms, len(terms)).strip()
        if gate not in ("", "auto", "manual") or (gate and not text) or len(text) > MAX_TERMS:
            raise HubError(
                "hub.terms",
                f"a gate is auto or manual, and has terms to accept, at most {MAX_TERMS} characters of them.",
                "Give the terms' text with the gate.",
            )
        changed = {"gated": gate, "private": known.private if private is None else private}
        with writing(self._engine) as connection:
            reading.hold(connection, known.key, repo)
            updated = micros(self._clock())
            connection.execute(
                update(RepoRow).where(RepoRow.key == known.key).values(**changed, updated=updated)
            )
            connection.execute(update(TextsRow).where(TextsRow.repo == known.key).values(terms=text))
        return self.get(repo)

    def retire(self, repo: RepoId, reason: str, *, by: Account) -> Repo:
        """Mark a repository as one to use no more, for good; its files stay.

        Raises
        ------
        HubError
            ``hub.repo_missing``; ``hub.reason``: *reason* is not one line of 1 to 300 characters.
        """
        if not (0 < len(reason) <= MAX_REASON and reason.isprintable()):
            raise HubError(
                "hub.reason",
                f"a reason is one line of 1 to {MAX_REASON} characters.",
                "Say in a sentence why nobody should use it any more.",
            )
        known = self.get(repo)
        moment = micros(self._clock())
        with writing(self._engine) as connection:
            reading.hold(connection, known.key, repo)
            connection.execute(
                update(RepoRow).where(RepoRow.key == known.key).values(retired=reason, updated=moment)
            )
            connection.execute(
                update(TextsRow)
                .where(TextsRow.repo == known.key)
                .values(retired_by=by.name, retired_at=moment)
            )
        return self.get(repo)

    def card(self, repo: Repo) -> dict[str, Any]:
        """Return the front matter of ``main``'s README.md, {} where there is none that can be read."""
        with self._engine.connect() as connection:
            text = connection.execute(
                select(TextsRow.card).where(TextsRow.repo == repo.key)
            ).scalar_one_or_none()
        return dict(json.loads(text or "{}"))

    def count_download(self, repo: Repo) -> None:
        """Count a download: in memory, written with the first one after ten seconds, and by :meth:`close`."""
        with self._counting:
            self._counts[repo.key] = self._counts.get(repo.key, 0) + 1
            due = time.monotonic() - self._counted > _COUNT_EVERY_S
        if due:
            self.close()

    def close(self) -> None:
        """Write the downloads that were counted."""
        with self._counting:
            counts, self._counts, self._counted = self._counts, {}, time.monotonic()
        if counts:
            with writing(self._engine) as connection:
                for key, count in sorted(counts.items()):
                    more = RepoRow.downloads + count
                    connection.execute(update(RepoRow).where(RepoRow.key == key).values(downloads=more))

    # -- blobs -------------------------------------------------------------------------------------

    def keep(self, *blobs: Blob) -> None:
        """Record blobs that were just stored, so that commits may name them.

        Raises
        ------
        HubError
            ``hub.blob_missing``: one was collected meanwhile.
        """
        keep_blobs(self._engine, self._blobs, blobs, self._clock())

    def find_blob(self, sha256: str) -> Blob | None:
        """Return a blob if it is stored; it will be kept for a day even if nothing uses it."""
        return want_blob(self._engine, self._blobs, sha256, self._clock())
