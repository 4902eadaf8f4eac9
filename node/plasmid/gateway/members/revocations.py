"""The keys that may not take part any more: ``revoked.json``.

Rules
-----
1. An entry is the coordinator's signed statement itself; nothing is ever taken out.
2. A file that cannot be read means that nobody's statement is accepted.
3. It is read anew when it has changed, so that what one process notes holds in every other.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from plasmid.core.errors import ProtocolError, StorageError
from plasmid.core.files import locked, storage_error, write_atomic
from plasmid.protocol.envelope import Envelope, parse_envelope
from plasmid.protocol.revocation import Revocation, open_revocation


class Revoked:
    """The revocations that a site knows, in the file *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, envelope: Envelope, coordinator: str) -> Revocation | None:
        """Keep the revocation in *envelope*; return it, or None if its key was revoked here before.

        Raises
        ------
        ProtocolError
            As :func:`plasmid.protocol.revocation.open_revocation`.
        StorageError
            It cannot be written, or what is there cannot be read.
        """
        statement = open_revocation(envelope, coordinator)
        with locked(self._path):
            known = self._envelopes()
            if statement.key in {said.key for said in map(_opened, known)}:
                return None
            everything = [said.model_dump(mode="json") for said in [*known, envelope]]
            write_atomic(self._path, json.dumps(everything, indent=1).encode(), mode=0o600)
        return statement

    def all(self) -> tuple[Revocation, ...]:
        """Return every revocation. Raises StorageError (``storage.revoked_damaged``)."""
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise storage_error(error, self._path) from error
        return _parsed(self._path, now.st_mtime_ns, now.st_size, now.st_ino)

    def has(self, key: str) -> bool:
        """Whether *key* is revoked. Raises as :meth:`all`."""
        return any(said.key == key for said in self.all())

    def check(self, *keys: str) -> None:
        """Refuse revoked keys.

        Raises
        ------
        ProtocolError
            ``protocol.revoked``: one of *keys* is revoked.
        StorageError
            As :meth:`all`.
        """
        for said in self.all():
            if said.key in keys:
                raise ProtocolError(
                    "protocol.revoked",
                    f"the key of {said.name} was revoked on {said.revoked}: {said.reason}.",
                    "A run needs another member in its place.",
                )

    def _envelopes(self) -> list[Envelope]:
        return _read(self._path) if self._path.exists() else []


def _read(path: Path) -> list[Envelope]:
    try:
        known = json.loads(path.read_bytes())
        if not isinstance(known, list):
            raise TypeError
        return [parse_envelope(said) for said in known]
    except OSError as error:
        raise storage_error(error, path) from error
    except (ValueError, TypeError, ProtocolError, RecursionError) as error:
        raise StorageError(
            "storage.revoked_damaged",
            f"{path} cannot be read, so it is not known who was revoked.",
            "Restore it from your backup; until then no statement of another party is accepted.",
        ) from error


@lru_cache(maxsize=64)
def _parsed(path: Path, changed_ns: int, size: int, inode: int) -> tuple[Revocation, ...]:  # noqa: ARG001 - the cache's key
    return tuple(map(_opened, _read(path)))


def _opened(envelope: Envelope) -> Revocation:
    return envelope.open(Revocation)
