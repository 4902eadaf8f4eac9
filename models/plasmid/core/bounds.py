"""JSON from another party, bounded before it is parsed, and read in one way only.

Rules
-----
1. A parsed value takes up to a hundred times its text (``[],`` is three bytes, an empty list in a list 64):
   values are counted first.
2. An object that names a key twice is no JSON here (RFC 8259, section 4, leaves its meaning open): what one
   reader checks under such a key need not be what another one uses.
"""

from __future__ import annotations

import json
from typing import Any

MAX_BODY_BYTES = 2 * 1024**3
"""Of one vector, on its way between processes and sites."""
MAX_JSON_VALUES = 300_000
"""More than any message of ours has, a bundle of 256 kB that is all commas included."""


def count_json(text: str | bytes) -> int:
    """Return a bound of how many values *text* holds: its commas and opening brackets."""
    if isinstance(text, str):
        return text.count(",") + text.count("[") + text.count("{")
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def check_json(data: str | bytes, *, max_values: int = MAX_JSON_VALUES) -> None:
    """Raise ValueError if *data* may hold more than *max_values* values."""
    values = count_json(data)
    if values > max_values:
        raise ValueError(f"{values} values are more than {max_values}")


def parse_json(data: str | bytes, *, max_values: int = MAX_JSON_VALUES) -> Any:
    """Return the value in *data*, text or UTF-8.

    Raises
    ------
    ValueError
        It is not JSON, is nested too deeply, holds more than *max_values* values, or has a key twice.
    """
    check_json(data, max_values=max_values)
    try:
        return json.loads(data if isinstance(data, str) else data.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found
