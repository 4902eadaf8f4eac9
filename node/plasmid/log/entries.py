"""The entries of a site's audit log, as bytes. No clock, no file.

Rules
-----
1. An entry is one line of canonical JSON (RFC 8785) with exactly the fields of :data:`FIELDS`; the Merkle
   leaf is the line without its newline, as it was written.
2. ``seq`` counts from 1 without gaps, so entry n is leaf n - 1; times never decrease.
3. A last line without a newline was never acknowledged: :func:`split` tells it apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from plasmid.core.canonical import canonical_json
from plasmid.core.clock import PATTERN

MAX_LINE_BYTES = 2**20
MAX_REASON = 4000
RESULTS = ("ok", "refused", "failed", "noted")
FIELDS = {
    "seq": int,
    "time": str,
    "actor": str,
    "action": str,
    "object": (str, type(None)),
    "run": (str, type(None)),
    "rule": (str, type(None)),
    "reason": (str, type(None)),
    "result": str,
    "facts": dict,
}
"""What each field of an entry may be; ``object`` is a digest, ``rule`` an error or policy code."""

Entry = dict[str, Any]


class BadEntryError(Exception):
    """A line is not the entry that it should be; the text says which."""


def entry_line(
    *,
    seq: int,
    time: str,
    action: str,
    facts: Mapping[str, Any],
    actor: str = "gateway",
    object: str | None = None,  # noqa: A002 - the field's name
    run: str | None = None,
    rule: str | None = None,
    reason: str | None = None,
    result: str = "ok",
) -> bytes:
    """Return an entry as its line, without the newline.

    ``reason`` is cut after ``MAX_REASON`` characters. Raises ValueError for what is not JSON, NaN included.
    """
    if result not in RESULTS:
        raise ValueError(f"a result is one of {', '.join(RESULTS)}")
    told = None if reason is None else reason[:MAX_REASON].encode(errors="backslashreplace").decode()
    entry = {
        "seq": seq,
        "time": time,
        "actor": actor,
        "action": action,
        "object": object,
        "run": run,
        "rule": rule,
        "reason": told,
        "result": result,
        "facts": dict(facts),
    }
    line = canonical_json(entry)
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"an entry has at most {MAX_LINE_BYTES} bytes")
    return line


def parse_entry(line: bytes, seq: int, after: str = "") -> Entry:
    """Return the entry in *line*, which must be number *seq* and not older than *after*.

    Raises
    ------
    BadEntryError
        It is not.
    """
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError
        entry = json.loads(line)
        if entry.keys() != FIELDS.keys():
            raise ValueError
        for name, kind in FIELDS.items():
            if not isinstance(entry[name], kind):  # type: ignore[arg-type]
                raise ValueError
        if entry["result"] not in RESULTS or type(entry["seq"]) is not int:
            raise ValueError
        if entry["time"] != after:
            _check_time(entry["time"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadEntryError(f"entry {seq} is not as it was written") from None
    if entry["seq"] != seq:
        raise BadEntryError(f"where entry {seq} should be, there is entry {entry['seq']}")
    if entry["time"] < after:
        raise BadEntryError(f"entry {seq} is older than the one before it")
    return dict(entry)


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole lines of *data*, and what follows the last newline."""
    *lines, torn = data.split(b"\n")
    return lines, torn


def parse_entries(lines: Sequence[bytes], *, first: int = 1, after: str = "") -> Iterator[Entry]:
    """Yield the entries of *lines*, the first of which is number *first*. Raises as :func:`parse_entry`."""
    for seq, line in enumerate(lines, first):
        entry = parse_entry(line, seq, after)
        after = entry["time"]
        yield entry


def _check_time(text: str) -> None:
    if not _TIME.fullmatch(text):
        raise ValueError("not a time")
    datetime.fromisoformat(text)


_TIME = re.compile(PATTERN)
