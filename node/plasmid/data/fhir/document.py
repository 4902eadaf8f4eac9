"""One JSON text: a resource, or a bundle whose entries are decoded one at a time.

Rules
-----
1. Decoding is strict: a repeated key, NaN, Infinity and anything after the end are damage. Nesting ends at
   the interpreter's recursion limit, so a text of brackets costs an error and no memory.
2. Of a bundle, only its text and one entry are in memory, whatever it holds.
3. Damage is told by a fixed sentence: the decoder's own errors hold the text and go no further.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any, NoReturn

_SPACE = re.compile(r"[ \t\n\r]*")
_NO_JSON = "no JSON"


class Damaged(Exception):
    """A text cannot be decoded; its only argument is a fixed sentence."""


class _Repeated(ValueError):
    pass


def _constant(_: str) -> NoReturn:
    raise ValueError


class Decoder:
    """Decodes JSON values, one after the other.

    Attributes
    ----------
    modified
        Whether the last value held a member ``modifierExtension`` or ``implicitRules``, at any depth.
    """

    def __init__(self) -> None:
        self.modified = False
        self._decode = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=_constant).raw_decode

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise _Repeated
        if "modifierExtension" in made or "implicitRules" in made:
            self.modified = True
        return made

    def value_at(self, text: str, at: int = 0) -> tuple[Any, int]:
        """Return the JSON value that begins at *at*, and where it ends. Raises Damaged."""
        self.modified = False
        try:
            return self._decode(text, at)
        except RecursionError:
            reason = "nested too deeply"
        except _Repeated:
            reason = "an object with a repeated key"
        except ValueError:
            reason = _NO_JSON
        raise Damaged(reason)

    def whole(self, text: str) -> Any:
        """Return the one JSON value that *text* is. Raises Damaged."""
        value, end = self.value_at(text, 0 if text.startswith("{") else _skip(text, 0))
        if text[end:].strip(" \t\r\n"):
            raise Damaged(_NO_JSON)
        return value


def text_of(content: bytes) -> str:
    """Return *content*, which may begin with a byte order mark, as text. Raises Damaged."""
    try:
        return content.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError:
        pass
    raise Damaged("not UTF-8")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


class _Cursor:
    """Walks over the members of an object; the caller takes each value, by ``value`` or ``items``."""

    def __init__(self, text: str, decoder: Decoder) -> None:
        self.text = text
        self.at = 0
        self.decoder = decoder

    def peek(self) -> str:
        self.at = _skip(self.text, self.at)
        return self.text[self.at : self.at + 1]

    def take(self, wanted: str) -> str:
        found = self.peek()
        if not found or found not in wanted:
            raise Damaged(_NO_JSON)
        self.at += 1
        return found

    def value(self) -> Any:
        self.peek()
        found, self.at = self.decoder.value_at(self.text, self.at)
        return found

    def members(self) -> Iterator[str]:
        self.take("{")
        if self.peek() == "}":
            self.at += 1
        else:
            more, seen = ",", set[str]()
            while more == ",":
                key = self.value() if self.peek() == '"' else None
                if key is None:
                    raise Damaged(_NO_JSON)
                if key in seen:
                    raise Damaged("an object with a repeated key")
                seen.add(key)
                self.take(":")
                yield key
                more = self.take(",}")
        if self.peek():
            raise Damaged(_NO_JSON)

    def items(self) -> Iterator[Any]:
        self.take("[")
        if self.peek() == "]":
            self.at += 1
            return
        more = ","
        while more == ",":
            yield self.value()
            more = self.take(",]")


class Document:
    """A resource, or a bundle; ``head`` is complete once :meth:`entries` has ended.

    Attributes
    ----------
    head
        The members of the object; of a bundle, without ``entry``.
    modified
        As :attr:`Decoder.modified`, of the entry just yielded; after the end, of the head.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = Decoder()
        self.head: dict[str, Any] = {}
        self.modified = False

    def entries(self) -> Iterator[Any]:
        """Yield the entries of a bundle; nothing of another resource. Raises Damaged."""
        cursor = _Cursor(self._text, self._decoder)
        if cursor.peek() != "{":
            self._decoder.whole(self._text)
            raise Damaged("no JSON object")
        modified = False
        for key in cursor.members():
            if key == "entry" and cursor.peek() == "[" and self._is_bundle():
                for entry in cursor.items():
                    self.modified = self._decoder.modified
                    yield entry
            else:
                self.head[key] = cursor.value()
                modified = modified or self._decoder.modified or key in ("modifierExtension", "implicitRules")
        self.modified = modified

    def _is_bundle(self) -> bool:
        if "resourceType" in self.head:
            return bool(self.head["resourceType"] == "Bundle")
        # Members come in any order: look ahead, and keep nothing.
        cursor = _Cursor(self._text, self._decoder)
        for key in cursor.members():
            if key == "entry" and cursor.peek() == "[":
                for _ in cursor.items():
                    pass
            elif cursor.value() == "Bundle" and key == "resourceType":
                return True
        return False
