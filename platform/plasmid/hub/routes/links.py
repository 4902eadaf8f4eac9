"""Links to upload to, and who has shown that they have the bytes.

Rules
-----
1. A link names one repository, one SHA-256, one size and an hour after which it is void, under the hub's key
   (HMAC-SHA-256). Whoever holds it may store exactly those bytes; clients send no token to it.
2. A commit may name a large file by its SHA-256 only if its repository has it, or its bytes came over such a
   link for that repository. Else whoever learns the digest of a private file could commit it, and read it.
3. What came over links is kept in memory: after a restart of the hub a client uploads once more.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Engine, select

from plasmid.core.errors import HubError
from plasmid.hub.records import Repo
from plasmid.hub.tables import CommitRow, FileRow

SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN = 100_000


@dataclass
class Links:
    """Signs links, checks them, and remembers what came over them. *clock* tells seconds since 1970."""

    key: bytes
    life_s: float
    engine: Engine
    clock: Callable[[], float] = time.time
    _shown: OrderedDict[tuple[int, str], float] = field(default_factory=OrderedDict)

    def path(self, repo: Repo, sha256: str, size: int) -> str:
        """Return the path and query of a link for *size* bytes with this digest."""
        until = int(self.clock() + self.life_s)
        signature = self._sign(repo.key, sha256, size, until)
        return f"/api/uploads/{repo.key}/{sha256}?size={size}&until={until}&signature={signature}"

    def check(self, repo_key: int, sha256: str, size: int, until: int, signature: str) -> None:
        """Raise HubError (``hub.link``) if the hub did not make this link, or it is void by now."""
        expected = self._sign(repo_key, sha256, size, until)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise HubError("hub.link", "this link to upload to was not made by this hub.", "Start again.")
        if until < self.clock():
            raise HubError("hub.link", "this link to upload to has expired.", "Start the upload again.")

    def _sign(self, repo_key: int, sha256: str, size: int, until: int) -> str:
        text = f"plasmid.hub.upload/1\n{repo_key}\n{sha256}\n{size}\n{until}"
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def came(self, repo_key: int, sha256: str) -> None:
        """Note that these bytes came over a link for this repository."""
        self._shown[repo_key, sha256] = self.clock() + self.life_s
        while len(self._shown) > _SHOWN:
            self._shown.popitem(last=False)

    def may_name(self, repo: Repo, sha256: str) -> bool:
        """Return whether a commit to *repo* may name the blob by its digest alone."""
        return self._shown.get((repo.key, sha256), 0.0) > self.clock() or self.holds(repo, sha256)

    def holds(self, repo: Repo, sha256: str) -> bool:
        """Return whether some revision of *repo* has the blob."""
        rows = select(FileRow.path).join(CommitRow, CommitRow.key == FileRow.commit)
        with self.engine.connect() as connection:
            found = connection.execute(
                rows.where(CommitRow.repo == repo.key, FileRow.blob == sha256).limit(1)
            )
            return found.first() is not None
