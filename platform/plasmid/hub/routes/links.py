"""Links to upload to, and who has shown that they have the bytes.

Rules
-----
1. A link names one repository, one SHA-256, one size and an hour after which it is void, under the hub's key
   (HMAC-SHA-256). Whoever holds it may store exactly those bytes; clients send no token to it.
2. A commit may name a large file by its SHA-256 only if its repository has it, or its bytes came over such a
   link for that repository. Else whoever learns the digest of a private file could commit it, and read it.
3. What came over links is in the database until the link would be void: the upload may come to one process of
   a hub, and the commit to another.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from plasmid.core.errors import HubError
from plasmid.hub.accounts.keys import sign, signed
from plasmid.hub.store.database import writing
from plasmid.hub.store.records import Repo
from plasmid.hub.store.tables import ArrivalRow, CommitRow, FileRow

SHA256 = re.compile(r"[0-9a-f]{64}")
_USE = "upload"


@dataclass
class Links:
    """Signs links, checks them, and remembers what came over them. *clock* tells seconds since 1970."""

    key: bytes
    life_s: float
    engine: Engine
    clock: Callable[[], float] = time.time

    def path(self, repo: Repo, sha256: str, size: int) -> str:
        """Return the path and query of a link for *size* bytes with this digest."""
        until = int(self.clock() + self.life_s)
        signature = sign(self.key, _USE, repo.key, sha256, size, until)
        return f"/api/uploads/{repo.key}/{sha256}?size={size}&until={until}&signature={signature}"

    def check(self, repo_key: int, sha256: str, size: int, until: int, signature: str) -> None:
        """Raise HubError (``hub.link``) if the hub did not make this link, or it is void by now."""
        if not signed(self.key, signature, _USE, repo_key, sha256, size, until):
            raise HubError("hub.link", "this link to upload to was not made by this hub.", "Start again.")
        if until < self.clock():
            raise HubError("hub.link", "this link to upload to has expired.", "Start the upload again.")

    def came(self, repo_key: int, sha256: str) -> None:
        """Note that these bytes came over a link for this repository.

        Raises HubError (``hub.link``): it was deleted meanwhile.
        """
        now = self.clock()
        here = (ArrivalRow.repo == repo_key) & (ArrivalRow.sha256 == sha256)
        values = {"repo": repo_key, "sha256": sha256, "until": int(now + self.life_s)}
        try:
            with writing(self.engine) as connection:
                connection.execute(delete(ArrivalRow).where(here | (ArrivalRow.until < int(now))))
                connection.execute(insert(ArrivalRow).values(**values))
        except IntegrityError:
            if self._found(select(ArrivalRow.until).where(here)):
                return  # the same bytes came twice, at the same time
        else:
            return
        raise HubError("hub.link", "the repository of this link was deleted.", "Start the upload again.")

    def may_name(self, repo: Repo, sha256: str) -> bool:
        """Return whether a commit to *repo* may name the blob by its digest alone."""
        came = select(ArrivalRow.until).where(
            ArrivalRow.repo == repo.key, ArrivalRow.sha256 == sha256, ArrivalRow.until > int(self.clock())
        )
        return self._found(came) or self.holds(repo, sha256)

    def holds(self, repo: Repo, sha256: str) -> bool:
        """Return whether some revision of *repo* has the blob."""
        rows = select(FileRow.path).join(CommitRow, CommitRow.key == FileRow.commit)
        return self._found(rows.where(CommitRow.repo == repo.key, FileRow.blob == sha256).limit(1))

    def _found(self, rows: Any) -> bool:
        with self.engine.connect() as connection:
            return connection.execute(rows).first() is not None
