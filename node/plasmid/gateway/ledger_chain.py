"""The lines of a ledger: canonical JSON, each chained to the one before by its digest. No clock, no file.

Rules
-----
1. A line is the canonical JSON (RFC 8785) of an entry: ``counter``, ``previous`` (digest of the entry
   before), ``time``, ``event`` and its figures, ``digest`` (SHA-256 of the rest). Any other byte is damage.
2. Counters rise by one; only a ``carry`` entry may leap.
3. A last line without its newline was never acknowledged. A whole entry is kept, which can only charge too
   much; the beginning of one is cut off; anything else is damage.
"""

from __future__ import annotations

import json
from typing import Any

from plasmid.core.canonical import canonical_json, sha256_hex

GENESIS = "0" * 64
"""What the first entry names as the digest before it."""

Head = tuple[int, str]
"""Counter and digest of the newest entry; (0, GENESIS) before the first."""


class DamagedError(Exception):
    """The lines are not what was written; the text says where."""


def split(content: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines of *content*, and what the file should hold: without a torn end, with every newline.

    Raises
    ------
    DamagedError
        The end is neither an entry nor the beginning of one.
    """
    *lines, last = content.split(b"\n")
    whole = content[: len(content) - len(last)]
    if not last:
        return lines, whole
    try:
        text = last.decode("utf-8")
        _, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        if last.startswith(b'{"') and last.isascii() and last.decode("ascii").isprintable():
            return lines, whole
        raise DamagedError("its end is no entry") from None
    if end != len(text):
        raise DamagedError("its last line goes on after the entry")
    return [*lines, last], content + b"\n"


def verify(line: bytes, head: Head) -> dict[str, Any]:
    """Return the entry in *line*, which follows *head*.

    Raises
    ------
    DamagedError
        It is not, byte for byte, an entry that follows *head*.
    """
    try:
        entry = json.loads(line)
        sound = isinstance(entry, dict) and canonical_json(entry) == line and entry == _sealed(entry)
        step = entry["counter"] - head[0] if sound else 0
        if sound and entry["previous"] == head[1] and (step == 1 or (step > 1 and entry["event"] == "carry")):
            return dict(entry)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DamagedError(f"the line after entry {head[0]} is not as it was written")


def follow(head: Head, event: dict[str, Any], *, time: str, least: int = 1) -> dict[str, Any]:
    """Return the entry for *event* after *head*, with a counter of at least *least*."""
    counter = max(head[0] + 1, least)
    return _sealed({"counter": counter, "previous": head[1], "time": time, **event})


def line(entry: dict[str, Any]) -> bytes:
    """Return *entry* as its line, newline included."""
    return canonical_json(entry) + b"\n"


def _sealed(entry: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in entry.items() if name != "digest"}
    return {**rest, "digest": sha256_hex(canonical_json(rest))}
