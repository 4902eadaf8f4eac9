"""A commit as clients send it: one JSON object a line, small files inside it as base64; read as it arrives.

Rules
-----
1. Memory is bounded: of a line at most :data:`LINE_BYTES` are held. What a longer one has beyond that must be
   the base64 text of a file's ``content``, which goes decoded to the blob store while it arrives.
2. The rest of such a line is then read like a short one, with its content left out: there is one JSON parser.
3. base64 is read strictly: nothing but its alphabet, padding at the end alone.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from plasmid.core.bounds import parse_json
from plasmid.core.errors import HubError
from plasmid.hub.store.blobs import BlobWriter
from plasmid.hub.store.records import Blob

LINE_BYTES = 128 * 1024
_CONTENT = re.compile(rb'"content"\s*:\s*"')
_TAIL_BYTES = 16 * 1024

Writing = Callable[[], AbstractContextManager[BlobWriter]]
"""Opens the blob store for one file, with the cap on its size."""


@dataclass(frozen=True)
class Item:
    """A line: its *key*, its *value*, and the *blob* that its content was stored as, if it had one."""

    key: str
    value: dict[str, Any]
    blob: Blob | None


class Lines:
    """Takes lines apart; *chunks* are the pieces of the body."""

    def __init__(self, chunks: Iterator[bytes], writing: Writing) -> None:
        self._chunks, self._writing = chunks, writing
        self._held = b""
        self._ended = False

    def __iter__(self) -> Iterator[Item]:
        """Yield each line.

        Raises
        ------
        HubError
            ``hub.malformed``: a line is no such object, or too long; and whatever the blob store raises.
        """
        number = 0
        while (line := self._line()) is not None:
            number += 1
            text, blob = line
            if text.strip():
                yield _item(text, blob, number)

    def _more(self) -> bool:
        """Hold one more piece; return whether there was one."""
        for piece in self._chunks:
            if piece:
                self._held += piece
                return True
        self._ended = True
        return False

    def _line(self) -> tuple[bytes, Blob | None] | None:
        """Return the next line, and the blob of a content that was too long to be held; None at the end."""
        while (end := self._held.find(b"\n")) < 0 and len(self._held) < LINE_BYTES and not self._ended:
            self._more()
        if end >= 0 or self._ended:
            line, _, self._held = self._held.partition(b"\n")
            return (line, None) if line or end >= 0 else None
        start = _CONTENT.search(self._held)
        if start is None:
            raise HubError("hub.malformed", f"a line of the commit is longer than {LINE_BYTES} bytes.")
        head, self._held = self._held[: start.end()], self._held[start.end() :]
        blob = self._store(iter(self._content, b""))
        tail = b""
        while b"\n" not in self._held and not self._ended and len(self._held) < _TAIL_BYTES:
            self._more()
        tail, newline, self._held = self._held.partition(b"\n")
        if not newline and not self._ended:
            raise HubError("hub.malformed", "a line of the commit does not end after its content.")
        return head + tail, blob

    def _content(self) -> bytes:
        """Return the next piece of a content's text, b"" at its closing quote, which stays held."""
        if not self._held and not self._more():
            raise HubError("hub.malformed", "the commit ends inside a file's content.")
        end = self._held.find(b'"')
        piece, self._held = (self._held, b"") if end < 0 else (self._held[:end], self._held[end:])
        return piece

    def _store(self, pieces: Iterator[bytes]) -> Blob:
        with self._writing() as writer:
            for decoded in decode(pieces):
                writer.write(decoded)
        return writer.blob

    def store_short(self, value: dict[str, Any]) -> Blob:
        """Store the content of a line that was held whole. Raises HubError (``hub.malformed``)."""
        content, encoding = value.get("content"), value.get("encoding", "utf-8")
        if not isinstance(content, str) or encoding not in ("base64", "utf-8"):
            raise HubError("hub.malformed", "a file of the commit has no content in base64 or utf-8.")
        data = content.encode("utf-8", "surrogatepass")
        if encoding == "base64":
            return self._store(iter([data]))
        with self._writing() as writer:
            writer.write(data)
        return writer.blob


def _item(text: bytes, blob: Blob | None, number: int) -> Item:
    try:
        said = parse_json(text)
    except ValueError:
        said = None
    match said:
        case {"key": str(key), "value": dict(value)}:
            if blob is not None and (key != "file" or value.get("encoding") != "base64"):
                raise HubError(
                    "hub.malformed", f"line {number} of the commit has a long content, but no file."
                )
            return Item(key, value, blob)
    raise HubError("hub.malformed", f"line {number} of the commit is no object of key and value.")


def decode(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the bytes of base64 text in *pieces*. Raises HubError (``hub.malformed``)."""
    left, padded = b"", False
    for piece in pieces:
        text = left + piece
        cut = len(text) - len(text) % 4
        left = text[cut:]
        if not cut:
            continue
        yield _decoded(text[:cut], padded)
        padded = text[cut - 1 : cut] == b"="
    if left:
        raise _not_base64()


def _decoded(text: bytes, padded: bool) -> bytes:
    if padded:
        raise _not_base64()
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise _not_base64() from None


def _not_base64() -> HubError:
    return HubError("hub.malformed", "a file of the commit is not base64.", "Send it again.")
