"""Checkpoints of a site's audit log, and cosignatures (C2SP: signed-note, tlog-checkpoint, tlog-cosignature).

Rules
-----
1. A checkpoint says "the log called *origin* has *size* entries and this Merkle root"; its note is the text
   that the site signs (Ed25519, type 0x01). A site never signs two that contradict each other.
2. A cosignature (type 0x04, with a POSIX time) says that the cosigner has seen that checkpoint, and that it
   continues every earlier one that the cosigner has seen of the origin.
3. An origin is ``plasmid-log/<site>/<fingerprint of its key>``, with ``/<generation>`` from the second log
   on. It names the key; no text that begins with one is a message or a statement of another kind.
4. There is one spelling of a checkpoint. Extension lines are refused, unknown signatures ignored.
5. Nothing here has a clock or a file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from plasmid.core.errors import ProtocolError
from plasmid.core.merkle import HASH_BYTES
from plasmid.protocol.identity import Signer, fingerprint, verify

MAX_NOTE_BYTES = 32 * 1024
MAX_SIZE = 2**53 - 1
_SIGNED, _COSIGNED = b"\x01", b"\x04"
_DASH = "\N{EM DASH} "
_NAME = r"plasmid-log/([a-z0-9][a-z0-9_-]{0,62})/((?:[A-Z2-7]{4}-){6}[A-Z2-7]{4})"
_ORIGIN = re.compile(rf"{_NAME}(?:/([1-9][0-9]{{0,8}}))?")
_LINE = re.compile(rf"{_DASH}([^\s+]{{1,200}}) ([A-Za-z0-9+/]{{8,400}}={{0,2}})")
_TIMED = struct.Struct(">Q")
_LAST_TIME = 253_402_300_799
"""The end of the year 9999: what a calendar can show."""


@dataclass(frozen=True)
class Checkpoint:
    """A tree head. ``root`` is 32 raw bytes."""

    origin: str
    size: int
    root: bytes

    @property
    def site(self) -> str:
        """The site's name, as the origin has it."""
        return _parts(self.origin)[0]

    @property
    def key_fingerprint(self) -> str:
        """The fingerprint of the site's key, as the origin has it."""
        return _parts(self.origin)[1]

    @property
    def generation(self) -> int:
        """1 for a site's first log."""
        return _parts(self.origin)[2]

    def text(self) -> str:
        """Return the note's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def key_name(name: str, public: str) -> str:
    """Return the name of a site's key in notes, which is also the origin of its first log."""
    return f"plasmid-log/{name}/{fingerprint(public)}"


def origin_of(name: str, public: str, generation: int = 1) -> str:
    """Return the origin of a site's log."""
    return key_name(name, public) + ("" if generation == 1 else f"/{generation}")


@dataclass(frozen=True)
class Note:
    """A checkpoint with signature lines (without their newlines)."""

    checkpoint: Checkpoint
    lines: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the signed note."""
        return "\n".join([self.checkpoint.text(), *self.lines, ""])

    def signed(self, signer: Signer, name: str) -> Note:
        """Return this note with the log's own signature by *signer*, whose site is *name*."""
        signature = bytes.fromhex(signer.sign(self.checkpoint.text().encode()))
        return self.with_lines([_line(key_name(name, signer.public), _SIGNED, signer.public, signature)])

    def with_lines(self, lines: Iterable[str]) -> Note:
        """Return this note with *lines* added, each once."""
        return Note(self.checkpoint, tuple(dict.fromkeys([*self.lines, *lines])))

    def own(self, name: str, public: str) -> Note:
        """Return this note with the log's own signature alone, of the site *name* with the key *public*."""
        wanted = key_name(name, public)
        parts = [(line, _split_line(line)) for line in self.lines]
        key = (wanted, _key_id(wanted, _SIGNED, public))
        return Note(self.checkpoint, tuple(line for line, part in parts if part[:2] == key))

    def check(self, name: str, public: str) -> None:
        """Check that the site *name* with the key *public* signed this checkpoint of its own log.

        Raises
        ------
        ProtocolError
            ``protocol.signature``: another's origin, no signature of that key, or a wrong one.
        """
        wanted = key_name(name, public)
        own = (self.checkpoint.site, self.checkpoint.key_fingerprint) == (name, fingerprint(public))
        found = [data for data in self._by(wanted, _SIGNED, public) if len(data) == 64]
        if not own or not found:
            raise ProtocolError("protocol.signature", f"a checkpoint is not signed by {name}.")
        for data in found:
            verify(public, self.checkpoint.text().encode(), data.hex())

    def cosigned(self, name: str, public: str) -> int | None:
        """Return when *name*, whose key is *public*, cosigned (seconds since 1970); None if it did not.

        Raises
        ------
        ProtocolError
            ``protocol.signature``: a cosignature of that key is wrong.
        """
        times = []
        for data in self._by(key_name(name, public), _COSIGNED, public):
            if len(data) != _TIMED.size + 64:
                raise ProtocolError("protocol.signature", f"a cosignature by {name} does not have its form.")
            (when,) = _TIMED.unpack(data[: _TIMED.size])
            if when > _LAST_TIME:
                raise ProtocolError("protocol.signature", f"a cosignature by {name} has no possible time.")
            verify(public, _cosigned_text(self.checkpoint, when), data[_TIMED.size :].hex())
            times.append(when)
        return max(times, default=None)

    def _by(self, wanted: str, kind: bytes, public: str) -> list[bytes]:
        found = []
        for line in self.lines:
            name, key_id, data = _split_line(line)
            if name == wanted and key_id == _key_id(wanted, kind, public):
                found.append(data)
        return found


def cosign(checkpoint: Checkpoint, signer: Signer, name: str, when: int) -> str:
    """Return the signature line of *signer*'s cosignature at *when* (seconds since 1970)."""
    signature = bytes.fromhex(signer.sign(_cosigned_text(checkpoint, when)))
    data = _TIMED.pack(when) + signature
    return _line(key_name(name, signer.public), _COSIGNED, signer.public, data)


def parse_note(text: str | bytes) -> Note:
    """Parse a signed note. Raises ProtocolError (``protocol.malformed``)."""
    try:
        if len(text) > MAX_NOTE_BYTES:
            raise ValueError
        whole = text.decode("utf-8") if isinstance(text, bytes) else text
        body, _, rest = whole.partition("\n\n")
        origin, size, root = body.split("\n")
        *lines, last = rest.split("\n")
        checkpoint = Checkpoint(origin, _number(size), base64.b64decode(root, validate=True))
        _parts(origin)
        if last or not lines or len(checkpoint.root) != HASH_BYTES or checkpoint.text() != body + "\n":
            raise ValueError
        for line in lines:
            _split_line(line)
        return Note(checkpoint, tuple(lines))
    except (ValueError, binascii.Error) as error:
        raise ProtocolError("protocol.malformed", "this is not a checkpoint of an audit log.") from error


def _parts(origin: str) -> tuple[str, str, int]:
    found = _ORIGIN.fullmatch(origin)
    if found is None or found[3] == "1":
        raise ValueError("not an origin")
    return found[1], found[2], int(found[3] or 1)


def _number(text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,15}", text) or int(text) > MAX_SIZE:
        raise ValueError("not a size")
    return int(text)


def _cosigned_text(checkpoint: Checkpoint, when: int) -> bytes:
    return f"cosignature/v1\ntime {when}\n{checkpoint.text()}".encode()


def _key_id(name: str, kind: bytes, public: str) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind + bytes.fromhex(public)).digest()[:4]


def _line(name: str, kind: bytes, public: str, data: bytes) -> str:
    return f"{_DASH}{name} {base64.b64encode(_key_id(name, kind, public) + data).decode()}"


def _split_line(line: str) -> tuple[str, bytes, bytes]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("not a signature line")
    data = base64.b64decode(found[2], validate=True)
    return found[1], data[:4], data[4:]
