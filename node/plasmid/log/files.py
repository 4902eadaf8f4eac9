"""The files of a site's audit log, below ``audit/`` in its folder.

log.jsonl         one entry a line                 checkpoint.json   the newest checkpoint, and where it ends
cosigned.json     the newest checkpoint that each peer cosigned
peers.json        the newest checkpoint that this site holds of each peer, with its own cosignature
shown.note        a checkpoint of this site that the log does not contain: it was rolled back
kept-<time>/      what a restart kept

Rules
-----
1. Nothing is believed from a file alone: a checkpoint must be signed, and its root be that of the entries.
2. These functions take no lock; their callers do.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from plasmid.core.canonical import canonical_json, sha256_hex
from plasmid.core.errors import ProtocolError, StorageError
from plasmid.core.files import locked, storage_error, write_atomic
from plasmid.core.merkle import Frontier, leaf_hash
from plasmid.log.entries import MAX_LINE_BYTES, BadEntryError, Entry, parse_entries, split
from plasmid.protocol.checkpoint import Note, parse_note

Key = tuple[str, str]
"""A site's name and its public key."""
Read = TypeVar("Read")


@dataclass(frozen=True)
class Newest:
    """The newest checkpoint, the offset where what it covers ends, the tree there, and the signer's key."""

    note: Note
    offset: int
    tree: Frontier
    key: str


class AuditFiles:
    """See the module's text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.checkpoint = folder / "log.jsonl", folder / "checkpoint.json"
        self.cosigned, self.peers = folder / "cosigned.json", folder / "peers.json"
        self.shown = folder / "shown.note"

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Hold the lock that belongs to *path*, one of these files; the folder is made if need be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise storage_error(error, self.folder) from error
        with locked(path):
            yield

    # -- entries -----------------------------------------------------------------------------------

    def lines(self) -> list[bytes]:
        """Return the whole lines of the log, without their newlines."""
        return split(self.log.read_bytes())[0] if self.log.exists() else []

    def leaves(self, count: int | None = None) -> list[bytes]:
        """Return the leaf hashes of the first *count* entries, None: of all."""
        return [leaf_hash(line) for line in self.lines()[:count]]

    def entries(self) -> Iterator[Entry]:
        """Yield all entries. Raises StorageError (``storage.log_damaged``)."""
        try:
            yield from parse_entries(self.lines())
        except BadEntryError as error:
            raise self.damaged(str(error)) from None

    def line_before(self, offset: int) -> bytes | None:
        """Return the line that ends, with its newline, at *offset*; None where there is none."""
        if not self.log.exists() or self.log.stat().st_size < offset:
            return None
        with self.log.open("rb") as file:
            start = max(0, offset - MAX_LINE_BYTES - 2)
            file.seek(start)
            data = file.read(offset - start)
        if not data.endswith(b"\n"):
            return None
        return data[:-1].rsplit(b"\n", 1)[-1]

    # -- the newest checkpoint -----------------------------------------------------------------------

    def newest(self) -> Newest | None:
        """Return the newest checkpoint as it is on disk. Raises StorageError (``storage.log_damaged``)."""
        values = self._read(self.checkpoint)
        if values is None:
            return None
        try:
            note = parse_note(values["note"])
            tree = Frontier(note.checkpoint.size, map(bytes.fromhex, values["peaks"]))
            return Newest(note, int(values["offset"]), tree, str(values["key"]))
        except (ProtocolError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.damaged("its checkpoint cannot be read") from error

    def write_newest(self, newest: Newest) -> None:
        """Write the newest checkpoint. After a loss of power an older one may be there, which does as well:
        the entries are durable."""
        values = {
            "note": newest.note.text(),
            "offset": newest.offset,
            "peaks": [peak.hex() for peak in newest.tree.peaks],
            "key": newest.key,
        }
        write_atomic(self.checkpoint, canonical_json(values), mode=0o600, lasting=False)

    def check_newest(self, newest: Newest, own: Key | None) -> None:
        """Check that *newest* is this site's own word about the tree that lies beside it.

        *own* None, in a process without the site's key: the key is the one that the file names.
        """
        name, key = own or (newest.note.checkpoint.site, newest.key)
        try:
            newest.note.check(name, key)
        except (ProtocolError, ValueError) as error:
            raise self.damaged("its checkpoint is not signed by this site") from error
        if newest.tree.root() != newest.note.checkpoint.root:
            raise self.damaged("its checkpoint does not fit the tree beside it")

    def hashed(self) -> bytes:
        """Return the SHA-256 of the log."""
        with self.log.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    def check(self, own: Key | None, seen: Frontier | None = None) -> Any:
        """Compare every root that this site signed and holds with the entries; see that all files are read.

        *seen* is a tree that the caller has read or written before, signed or not. Returns the SHA-256, as it
        grows, of the entries that were compared.
        """
        self.held()
        newest = self.newest()
        wanted: dict[int, bytes] = {} if seen is None else {seen.size: seen.root()}
        notes = [] if newest is None else [newest.note, *self.cosigned_notes().values()]
        for note in notes:
            if newest is None or note.checkpoint.origin != newest.note.checkpoint.origin:
                continue
            self.check_own(note, own or (newest.note.checkpoint.site, newest.key))
            said = note.checkpoint
            if wanted.setdefault(said.size, said.root) != said.root:
                raise self.damaged(f"this site has signed two roots of {said.size} entries")
        tree, made = Frontier(), hashlib.sha256()
        for line in [None, *self.lines()]:
            if line is not None:
                tree.append(leaf_hash(line))
                made.update(line + b"\n")
            if wanted.pop(tree.size, None) not in (None, tree.root()):
                raise self.damaged(f"the first {tree.size} entries are not those that this site signed")
        if wanted:
            raise self.damaged(f"it has {tree.size} entries, and this site has signed {max(wanted)}")
        return made

    def check_own(self, note: Note, own: Key) -> None:
        """Check that *note* is signed by this site. Raises StorageError (``storage.log_damaged``)."""
        try:
            note.check(*own)
        except (ProtocolError, ValueError) as error:
            raise self.damaged("a cosigned checkpoint is not signed by this site") from error

    # -- cosigned checkpoints --------------------------------------------------------------------------

    def cosigned_notes(self) -> dict[str, Note]:
        """Return the newest checkpoint of this log that each peer cosigned, by peer."""
        return self._notes(self.cosigned)

    def write_cosigned(self, peer: str, note: Note) -> None:
        """Keep what *peer* cosigned."""
        self._write_note(self.cosigned, peer, note)

    def held(self) -> dict[str, Note]:
        """Return the newest checkpoint that this site holds of each peer, with its own cosignature."""
        return self._notes(self.peers)

    def write_held(self, peer: str, note: Note) -> None:
        """Keep what this site cosigned for *peer*."""
        self._write_note(self.peers, peer, note)

    def shown_note(self) -> Note:
        """Return the checkpoint in ``shown.note``."""
        try:
            return parse_note(self.shown.read_bytes())
        except ProtocolError as error:
            raise self.damaged(f"{self.shown.name} cannot be read") from error

    # -- a restart -----------------------------------------------------------------------------------

    def keep(self, when: str) -> tuple[Path | None, dict[str, Any]]:
        """Copy the present files into a folder of their own; return it, and what the new log says of them."""
        known = (self.log, self.checkpoint, self.cosigned, self.peers, self.shown)
        files = [path for path in known if path.exists()]
        facts: dict[str, Any] = {"log": None, "entries": 0, "checkpoint": None, "kept": None}
        if not files:
            return None, facts
        kept = self.folder / f"kept-{when.replace(':', '')}"
        while kept.exists():
            kept = kept.with_name(kept.name + "x")
        kept.mkdir(mode=0o700)
        for path in files:
            shutil.copy2(path, kept / path.name)
        if self.log.exists():
            facts["log"], facts["entries"] = sha256_hex(self.log.read_bytes()), len(self.lines())
        newest = self._readable(self.newest)
        facts["checkpoint"] = None if newest is None else newest.note.text()
        facts["kept"] = kept.name
        return kept, facts

    def generations(self, own: Key | None) -> int:
        """Return the highest generation of this site's log of which any trace is here, at least 1."""
        newest = self._readable(self.newest)
        shown = self._readable(self.shown_note) if self.shown.exists() else None
        notes = [*(self._readable(self.cosigned_notes) or {}).values()]
        notes += [] if newest is None else [newest.note]
        notes += [] if shown is None else [shown]
        mine = [note.checkpoint for note in notes if own is None or note.checkpoint.site == own[0]]
        return max([1, len(list(self.folder.glob("kept-*"))), *(said.generation for said in mine)])

    def forget_old(self) -> None:
        """Remove what belonged to the log of the generation before, and what cannot be read."""
        self.cosigned.unlink(missing_ok=True)
        self.shown.unlink(missing_ok=True)
        if self._readable(self.held) is None:
            self.peers.unlink(missing_ok=True)

    def _readable(self, read: Callable[[], Read]) -> Read | None:
        """Return what *read* returns, None where the file is damaged."""
        try:
            return read()
        except StorageError:
            return None

    # -- small files -----------------------------------------------------------------------------------

    def damaged(self, what: str) -> StorageError:
        """Return the error for a log that is not what was signed; *what* says where."""
        return StorageError(
            "storage.log_damaged", f"the audit log {self.log} is damaged: {what}. Nothing leaves.", RECOVER
        )

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_bytes())
            if isinstance(values, dict):
                return values
        except (ValueError, RecursionError):
            pass
        raise self.damaged(f"{path.name} cannot be read")

    def _notes(self, path: Path) -> dict[str, Note]:
        try:
            return {name: parse_note(text) for name, text in (self._read(path) or {}).items()}
        except (ProtocolError, TypeError, AttributeError) as error:
            raise self.damaged(f"{path.name} cannot be read") from error

    def _write_note(self, path: Path, name: str, note: Note) -> None:
        known = {peer: held.text() for peer, held in self._notes(path).items()}
        write_atomic(path, canonical_json(known | {name: note.text()}), mode=0o600)


RECOVER = (
    "Restore the newest copy of its folder. Without one, 'plasmid audit restart' keeps the damaged files and "
    "begins a new log that names them; the other sites see that it is a new one."
)
