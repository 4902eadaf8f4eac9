"""JSON from another party, bounded before it is parsed.

A parsed value takes up to a hundred times its text: ``[],`` is three bytes, and an empty list in a list 64.
"""

from __future__ import annotations

MAX_BODY_BYTES = 2 * 1024**3
"""Of one vector, on its way between processes and sites."""
MAX_JSON_VALUES = 300_000
"""More than any message of ours has, a bundle of 256 kB that is all commas included."""


def count_json(text: str | bytes) -> int:
    """Return a bound of how many values *text* holds: its commas and opening brackets."""
    if isinstance(text, str):
        return text.count(",") + text.count("[") + text.count("{")
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def check_json(data: bytes, *, max_values: int = MAX_JSON_VALUES) -> None:
    """Raise ValueError if *data* may hold more than *max_values* values."""
    values = count_json(data)
    if values > max_values:
        raise ValueError(f"{values} values are more than {max_values}")
