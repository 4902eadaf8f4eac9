"""The newest contribution that this site saw of each peer, in ``heads.json``, to remind it of.

What is kept and told is the peer's own statement, whole, with its signature: it names the peer's newest
charge by counter and digest. Nobody counts what others say of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from plasmid.core.canonical import canonical_json
from plasmid.core.errors import ProtocolError, StorageError
from plasmid.core.files import locked, write_atomic
from plasmid.protocol.messages import open_signed, parse_signed
from plasmid.secagg.statements import Consent, Contribution


def said_by(key: str, text: str) -> Contribution | Consent | None:
    """Return the statement whose wire form is *text*; None if it is no such one, or not signed with *key*."""
    try:
        said = open_signed(parse_signed(text.encode()), key)
    except ProtocolError:
        return None
    return said if isinstance(said, Contribution | Consent) else None


class Heads:
    """See the module's text. Every method may raise StorageError (``storage.heads_damaged``)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, contributions: Iterable[tuple[str, str]]) -> None:
        """Keep contributions, each as its author's key and its wire form, that are newer. Then durable."""
        with locked(self._path):
            known = self._read()
            newer = {}
            for key, text in contributions:
                said = said_by(key, text)
                if said and _counter(key, text) > _counter(key, known.get(said.site, "")):
                    newer[said.site] = text
            if newer:
                write_atomic(self._path, canonical_json(known | newer))

    def newest(self, site: str, key: str) -> str:
        """Return the wire form of what is kept of *site*, empty if nothing is that was signed with *key*."""
        text = self.all().get(site, "")
        return text if _counter(key, text) else ""

    def all(self) -> dict[str, str]:
        """Return the wire form of the newest contribution by site."""
        with locked(self._path):
            return self._read()

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._path.read_bytes()) if self._path.exists() else {}
        except ValueError:
            known = None
        if isinstance(known, dict) and all(isinstance(text, str) for text in known.values()):
            return known
        raise StorageError(
            "storage.heads_damaged",
            f"{self._path} does not hold the newest contributions of the peers any more.",
            "Restore it from a copy. Without one, remove it: they are learnt anew.",
        )


def _counter(key: str, text: str) -> int:
    """Return the ledger's counter in a contribution that *key* signed, 0 for anything else."""
    said = said_by(key, text)
    return said.ledger_counter if isinstance(said, Contribution) else 0
