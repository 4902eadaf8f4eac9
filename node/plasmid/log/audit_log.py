"""The site's audit log: every decision, on disk and under a Merkle root before it takes effect.

:mod:`plasmid.log.entries` has the form of an entry, :mod:`plasmid.protocol.checkpoint` that of a
checkpoint, :mod:`plasmid.log.files` the files.

Rules
-----
1. :meth:`AuditLog.write` returns after fsync. If it raises, the caller lets nothing out: what was refused its
   entry did not happen. An entry whose fsync failed may stay; the log may say too much, never too little.
2. An entry holds names, digests, counts and codes; never a value from a row, a secret or a vector.
3. Several processes append (the node, verbs, the page): each takes the lock and reads what others have added.
4. The site's key signs a checkpoint after every entry but the inner steps of a run (:data:`INNER`), so after
   each release. A process without the key appends, and the next one that has it signs.
5. Opening checks what follows the newest checkpoint; :meth:`AuditLog.verify`, which the node calls when it
   starts and before it admits a run, compares everything with what was signed;
   :meth:`AuditLog.check_unchanged`, before anything leaves, with one hash that grows with the log. Times of
   the file are not believed: they can be set back, and are as coarse as the kernel's clock. A log that is not
   what was signed, or what this very process wrote, refuses every entry. Damage is never repaired by
   forgetting: :meth:`AuditLog.restart` keeps the damaged files and begins a new *generation*, which the peers
   see.
6. The beginning of a line at the end is a crash's: it is cut off, and an entry ``recovered`` has its digest.
7. Time never runs backwards in the log. A clock more than ``MAX_SKEW_S`` behind the newest entry refuses
   every entry, so nothing leaves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import Clock, now, stamp
from plasmid.core.clock import parse as parse_time
from plasmid.core.errors import ProtocolError, SiteFailed, StorageError
from plasmid.core.files import storage_error, sync_folder, write_atomic
from plasmid.core.merkle import Frontier, leaf_hash, root_of
from plasmid.log.entries import BadEntryError, Entry, entry_line, parse_entries, parse_entry, split
from plasmid.log.files import RECOVER, AuditFiles, Newest
from plasmid.protocol.checkpoint import Checkpoint, Note, origin_of
from plasmid.protocol.identity import NamedSigner

MAX_SKEW_S = 60.0
INNER = frozenset(
    {
        *("ask", "admit", "view.opened", "accepted", "notice", "manifest", "consent", "shares"),
        *("epoch", "advert", "ready"),
        *("epsilon.reserved", "epsilon.spent", "epsilon.attempt", "epsilon.returned"),
        *("late", "dropped", "recovered"),
    }
)
"""Actions after which no checkpoint is signed: the next release, or the end of the run, covers them."""
SIGNERS = frozenset({"started", "released", "adopted", "restarted"})
"""Actions of processes that hold the site's key."""


@dataclass
class _Tail:
    """Where the log ends, and what is needed to go on. Nothing of it is believed from the disk alone."""

    tree: Frontier = field(default_factory=Frontier)
    offset: int = 0
    time: str = ""
    action: str = ""
    inode: int = 0
    signed: int = -1
    generation: int = 1
    hashed: Any = None
    """SHA-256 of the bytes before ``offset``; None before they were verified."""


class AuditLog:
    """The audit log of one site. Safe to use from several threads and processes.

    Parameters
    ----------
    folder
        ``audit/`` in the site's folder; it need not exist.
    identity
        The site's key; None for a process that does not hold it, which appends and signs nothing.

    Every method may raise StorageError: ``storage.log_damaged``, ``storage.log_rolled_back``, or the disk's
    own problems; :meth:`write` also SiteFailed (``site.clock``).
    """

    def __init__(self, folder: Path, identity: NamedSigner | None = None, *, clock: Clock = now) -> None:
        self.files = AuditFiles(folder)
        self._identity, self._clock = identity, clock
        self._tail: _Tail | None = None
        self._false: StorageError | None = None

    def write(
        self,
        action: str,
        *,
        actor: str = "gateway",
        object: str | None = None,  # noqa: A002 - the field's name
        run: str | None = None,
        rule: str | None = None,
        reason: str | None = None,
        result: str = "ok",
        **facts: Any,
    ) -> int:
        """Append an entry and return its number.

        Parameters
        ----------
        actor
            ``gateway``, ``coordinator``, ``worker``, ``owner``, ``site:<name>`` or ``person:<name>``.
        object
            The digest of what it is about.
        rule, reason
            The code of what decided, and its text, which stays at home.
        result
            ``ok``, ``refused``, ``failed`` or ``noted``.
        """
        if self._false is not None:
            raise StorageError(self._false.code, self._false.message, self._false.hint)
        with self._locked():
            tail = self._current()
            self._check_clock(tail)
            about = {"object": object, "run": run, "rule": rule, "reason": reason}
            seq = self._append(tail, action, facts, actor=actor, result=result, **about)
            if action not in INNER:
                self._sign(tail)
            return seq

    def checkpoint(self) -> Note:
        """Return a signed checkpoint of the whole log, newly signed if need be. Needs the site's key."""
        self._signer()
        with self._locked():
            tail = self._current()
            if tail.signed != tail.tree.size:
                self._sign(tail)
            newest = self.files.newest()
            assert newest is not None, "it was signed"
            return newest.note

    def verify(self) -> Note | None:
        """Hash the whole log, compare every root that this site ever signed and holds, and return the newest.

        An entry of a crash is cut off as when opening. None before the first checkpoint. A log that was
        found damaged takes no entry of this process until it is found sound.
        """
        seen = self._tail  # this process knows what it wrote, signed or not
        try:
            with self._locked():
                self._tail = None
                tail = self._current()
                same = tail.generation == (seen or _Tail()).generation
                tail.hashed = self.files.check(self._own(), seen.tree if seen is not None and same else None)
                newest = self.files.newest()
        except StorageError as error:
            self._tail = seen
            self._false = error if error.code == "storage.log_damaged" else self._false
            raise
        self._false = None
        return None if newest is None else newest.note

    def check_unchanged(self) -> None:
        """Refuse to go on if a byte of the log is not what this process verified or wrote; reads all of it.

        Where it differs, or was not verified yet, :meth:`verify` says what is wrong.
        """
        with self._locked():
            tail = self._current()
            same = tail.hashed and tail.offset and tail.hashed.digest() == self.files.hashed()
        if not same:
            self.verify()

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first, as they are on disk; :meth:`verify` says if they are sound."""
        return list(self.files.entries())

    def log_time(self) -> datetime:
        """Return the time by which to judge what expires: the clock's, never before the newest entry's."""
        with self._locked():
            newest = self._current().time
        return max(self._clock(), parse_time(newest)) if newest else self._clock()

    def shown(self, note: Note) -> None:
        """Take a checkpoint of this very log, signed by this site, that somebody else has kept.

        Raises
        ------
        StorageError
            ``storage.log_rolled_back``: the log does not contain it. Nothing is written from now on.
        """
        with self._locked():
            tail = self._current()
            if self._contains(tail, note):
                return
            write_atomic(self.files.shown, note.text().encode())
            self._tail = None
            raise self._rolled_back(note)

    def restart(self, *, actor: str, reason: str) -> Path | None:
        """Keep what is there under another name, which is returned, and begin a log of the next generation.

        Its first entry says what was kept, and why. Needs the site's key.
        """
        with self._locked():
            identity = self._signer()
            kept, facts = self.files.keep(stamp(self._clock()))
            facts["generation"] = self.files.generations(self._own()) + 1
            line = entry_line(
                seq=1,
                time=stamp(self._clock()),
                actor=actor,
                action="restarted",
                object=facts.pop("log"),
                reason=reason,
                result="noted",
                facts=facts,
            )
            write_atomic(self.files.log, line + b"\n", mode=0o600)
            tree = Frontier()
            tree.append(leaf_hash(line))
            origin = origin_of(identity.name, identity.public, facts["generation"])
            note = Note(Checkpoint(origin, 1, tree.root())).signed(identity, identity.name)
            self.files.write_newest(Newest(note, len(line) + 1, tree, identity.public))
            self.files.forget_old()
            self._tail = self._false = None
            return kept

    # -- the end of the log ------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.files.locked(self.files.log):
            try:
                yield
            except OSError as error:
                raise storage_error(error, self.files.log) from error
            except BadEntryError as error:
                raise self._damaged(str(error)) from None

    def _current(self) -> _Tail:
        """Return the end of the log, with what other processes have added."""
        if self._tail is None:
            self._tail = self._open()
            return self._tail
        tail = self._tail
        try:
            stat = self.files.log.stat()
        except FileNotFoundError:
            if tail.tree.size == 0:
                return tail
            self._tail = None
            raise self._damaged("its file is gone") from None
        if (tail.inode and stat.st_ino != tail.inode) or stat.st_size < tail.offset:
            self._tail = None
            raise self._damaged("it was cut or replaced while this process used it")
        tail.inode = stat.st_ino
        if stat.st_size > tail.offset:
            self._extend(tail)
        return tail

    def _open(self) -> _Tail:
        newest = self.files.newest()
        if newest is None and self.files.log.exists() and self._identity is not None:
            return self._adopt()
        tail = _Tail()
        if newest is None and self._identity is not None:
            self._sign(tail)  # so that a log that has begun always has a checkpoint
        if newest is not None:
            self.files.check_newest(newest, self._own())
            checkpoint = newest.note.checkpoint
            tail.tree, tail.offset = newest.tree.copy(), newest.offset
            tail.signed, tail.generation = checkpoint.size, checkpoint.generation
            tail.time, tail.action = self._last_signed(newest)
        self._extend(tail)
        if self.files.shown.exists():
            note = self.files.shown_note()
            if not self._contains(tail, note):
                raise self._rolled_back(note)
            self.files.shown.unlink()
        return tail

    def _adopt(self) -> _Tail:
        """Take over a log without a checkpoint, which was begun by a process without the key.

        A process with the key signs before its first entry. So a log with an entry that only such a process
        writes has lost its checkpoint.
        """
        if self.files.cosigned.exists() or any(one["action"] in SIGNERS for one in self.files.entries()):
            raise self._damaged("its checkpoint is gone")
        tail = _Tail()
        self._extend(tail)
        self._append(tail, "adopted", {"entries": tail.tree.size}, result="noted")
        self._sign(tail)
        return tail

    def _last_signed(self, newest: Newest) -> tuple[str, str]:
        """Return time and action of the last entry that *newest* covers, which must end where it says."""
        size = newest.note.checkpoint.size
        if size == 0:
            return "", ""
        line = self.files.line_before(newest.offset)
        if line is None:
            raise self._damaged(f"its checkpoint covers {size} entries, which are not all there")
        entry = parse_entry(line, size)
        return entry["time"], entry["action"]

    def _extend(self, tail: _Tail) -> None:
        """Read what follows *tail*; cut off what a crash left."""
        if not self.files.log.exists():
            return
        with self.files.log.open("rb") as file:
            tail.inode = os.fstat(file.fileno()).st_ino
            file.seek(tail.offset)
            data = file.read()
        lines, torn = split(data)
        for line, entry in zip(
            lines, parse_entries(lines, first=tail.tree.size + 1, after=tail.time), strict=True
        ):
            tail.tree.append(leaf_hash(line))
            tail.time, tail.action = entry["time"], entry["action"]
        if tail.hashed:
            tail.hashed.update(data[: len(data) - len(torn)])
        tail.offset += len(data) - len(torn)
        if torn:
            with self.files.log.open("r+b") as file:
                file.truncate(tail.offset)
                os.fsync(file.fileno())
            facts = {"bytes": len(torn), "digest": sha256_hex(torn)}
            self._append(tail, "recovered", facts, result="noted")

    def _append(self, tail: _Tail, action: str, facts: dict[str, Any], **about: Any) -> int:
        seq = tail.tree.size + 1
        time = max(stamp(self._clock()), tail.time)
        line = entry_line(seq=seq, time=time, action=action, facts=facts, **about)
        new = not self.files.log.exists()
        self._durable(line + b"\n")
        if new:
            sync_folder(self.files.folder)
            tail.inode = self.files.log.stat().st_ino
        tail.tree.append(leaf_hash(line))
        if tail.hashed:
            tail.hashed.update(line + b"\n")
        tail.offset += len(line) + 1
        tail.time, tail.action = time, action
        return seq

    def _durable(self, data: bytes) -> None:
        descriptor = os.open(self.files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    # -- checkpoints -------------------------------------------------------------------------------

    def _sign(self, tail: _Tail) -> None:
        identity = self._identity
        if identity is None:
            return
        origin = origin_of(identity.name, identity.public, tail.generation)
        checkpoint = Checkpoint(origin, tail.tree.size, tail.tree.root())
        note = Note(checkpoint).signed(identity, identity.name)
        self.files.write_newest(Newest(note, tail.offset, tail.tree, identity.public))
        tail.signed = tail.tree.size

    def _contains(self, tail: _Tail, note: Note) -> bool:
        """Return whether this log contains what *note* says; one of an older generation is no matter."""
        said = note.checkpoint
        if said.generation != tail.generation:
            return said.generation < tail.generation
        return said.size <= tail.tree.size and root_of(self.files.leaves(said.size)) == said.root

    def _own(self) -> tuple[str, str] | None:
        return None if self._identity is None else (self._identity.name, self._identity.public)

    def _signer(self) -> NamedSigner:
        if self._identity is None:
            raise ProtocolError("protocol.identity", "this needs the site's own key.", "Unlock it.")
        return self._identity

    # -- refusals ----------------------------------------------------------------------------------

    def _check_clock(self, tail: _Tail) -> None:
        if not tail.time:
            return
        clock = self._clock()
        if clock >= parse_time(tail.time) - timedelta(seconds=MAX_SKEW_S):
            return
        if tail.action != "clock":  # said once, then refused
            said = {"rule": "site.clock", "reason": f"the clock says {stamp(clock)}", "result": "failed"}
            self._append(tail, "clock", {"clock": stamp(clock)}, **said)
            self._sign(tail)
        raise SiteFailed(
            "site.clock",
            f"the clock says {stamp(clock)}, the newest entry of the audit log is of {tail.time}: the clock "
            "was set back, or was ahead before. Nothing leaves.",
            "Set the clock right. If it was ahead when the log was written, begin a new one with "
            "'plasmid audit restart'.",
        )

    def _damaged(self, what: str) -> StorageError:
        return self.files.damaged(what)

    def _rolled_back(self, note: Note) -> StorageError:
        return StorageError(
            "storage.log_rolled_back",
            f"the audit log {self.files.log} does not contain the checkpoint of {note.checkpoint.size} "
            "entries that this site has signed and a peer has kept: it was rolled back, by a restored disk "
            "perhaps. Nothing leaves.",
            RECOVER,
        )
