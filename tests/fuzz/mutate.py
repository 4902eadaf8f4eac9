"""Mutations of valid inputs: of bytes, and of JSON by its structure.

Rules
-----
1. A seed and a count give the same inputs on every machine.
2. JSON is changed as values and written in a random spelling; base64 and hexadecimal inside it are changed as
   what they hold, and JSON in base64 as JSON again.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

MAX_BYTES = 64 * 1024
MAX_VALUES = 3000
"""Of a list that is repeated: repeats of repeats would fill the memory before the parser sees them."""
STRANGE_TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\n",
        "a\n",
        "../x",
        "/etc/passwd",
        "NaN",
        "1e999",
        "true",
        "null",
        "__class__",
        "%00",
        "{{x}}",
    ),
    *("\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{PILE OF POO}", "\N{RIGHT-TO-LEFT OVERRIDE}", "\ud800"),
    *("0" * 64, "f" * 64, "A" * 64, "9" * 400, "x" * 5000, "=" * 8),
    *("2026-02-30T00:00:00Z", "0000-00-00", "9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z"),
)
STRANGE_NUMBERS = (
    *(0, 1, -1, 2, 63, 64, 65, 255, 256, 2**31, 2**32, 2**40, 2**53 - 1, 2**53, 2**53 + 1, 2**63, 2**64),
    *(-(2**63), 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, 1e16),
    *(float("nan"), float("inf"), float("-inf")),
)
STRANGE_BYTES = (
    *(b"", b"\0", b"\xff", b"\xff\xfe", b"\x80", b"\r\n", b"0" * 64),
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 500),
)


def _count(value: Any) -> int:
    """Return how many values *value* holds, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count, inner))


class Mutator:
    """Makes inputs from *seeds*; each is a valid one."""

    def __init__(self, seeds: Sequence[bytes], random: Random, *, structured: bool) -> None:
        assert seeds
        self._seeds, self._random = list(seeds), random
        self._values = [json.loads(seed) for seed in seeds] if structured else []

    def next(self) -> bytes:
        """Return another input of at most ``MAX_BYTES``."""
        random = self._random
        index = random.randrange(len(self._seeds))
        if self._values and random.random() < 0.75:
            data = self._spelled(self._changed(self._values[index], random.choice((1, 1, 1, 2, 4))))
        else:
            data = self._seeds[index]
        if not self._values or random.random() < 0.3:
            for _ in range(random.choice((1, 1, 2, 5))):
                data = self._bytes(data)
        return data[:MAX_BYTES]

    # -- bytes -------------------------------------------------------------------------------------

    def _bytes(self, data: bytes) -> bytes:
        random = self._random
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((1, 1, 2, 4, 8, 64, 1000)))
        choice = random.randrange(8)
        if choice == 0 and data:
            at = min(at, len(data) - 1)
            return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]
        if choice == 1:
            return data[:at] + data[end:]
        if choice == 2:
            return data[:at] + random.choice(STRANGE_BYTES) + data[end:]
        if choice == 3:
            return data[:end] + data[at:]
        if choice == 4:
            return data[:at]
        if choice == 5:
            return data[:at] + random.randbytes(random.randrange(16)) + data[at:]
        if choice == 6:
            other = random.choice(self._seeds)
            return data[:at] + other[random.randrange(len(other) + 1) :]
        return data[:at] + data[at:end] * random.choice((2, 10, 100)) + data[end:]

    # -- JSON --------------------------------------------------------------------------------------

    def _changed(self, value: Any, times: int) -> Any:
        for _ in range(times):
            value = self._change(value, self._random.randrange(6))
        return value

    def _change(self, value: Any, depth: int) -> Any:
        """Change one place at most *depth* levels down."""
        random = self._random
        if depth and isinstance(value, dict) and value:
            key = random.choice(list(value))
            return {
                name: self._change(inner, depth - 1) if name == key else inner
                for name, inner in value.items()
            }
        if depth and isinstance(value, list) and value:
            at = random.randrange(len(value))
            return [
                self._change(inner, depth - 1) if index == at else inner for index, inner in enumerate(value)
            ]
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, list):
            return self._list(value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and random.random() < 0.5:
            return value + random.choice((-1, 1, 2**32)) if abs(value) < 1e300 else -value
        return self._strange()

    def _dict(self, value: dict[str, Any]) -> Any:
        random, choice = self._random, self._random.randrange(5)
        key = random.choice(list(value)) if value else "a"
        if choice == 0:
            return {name: inner for name, inner in value.items() if name != key}
        if choice == 1:
            return value | {random.choice(STRANGE_TEXTS): self._strange()}
        if choice == 2:
            return value | {key: self._strange()}
        if choice == 3 and value:
            return value | {key: value[random.choice(list(value))]}
        return random.choice(([value], value | {f"k{index}": index for index in range(300)}, self._strange()))

    def _list(self, value: list[Any]) -> Any:
        random, choice = self._random, self._random.randrange(5)
        if choice == 0:
            return value[: random.randrange(len(value) + 1)]
        if choice == 1:
            return [*value, self._strange()]
        if choice == 2:
            return value * min(random.choice((2, 65, 300)), 1 + MAX_VALUES // _count(value))
        if choice == 3:
            return random.sample(value, len(value))
        return random.choice(({"0": value}, self._strange()))

    def _text(self, value: str) -> Any:
        random, choice = self._random, self._random.randrange(6)
        if choice == 0:
            return random.choice(STRANGE_TEXTS)
        if choice == 1:
            return random.choice(
                (value.upper(), value + "\n", " " + value, value * 2, value[:-1], value + "=")
            )
        if choice == 2:
            return self._strange()
        if choice in (3, 4) and (inner := self._in_base64(value)) is not None:
            return inner
        if not value:
            return "a"
        at = random.randrange(len(value))
        return value[:at] + random.choice("0aAzZ9+/=-_. \0\u20ac") + value[at + 1 :]

    def _in_base64(self, value: str) -> str | None:
        """Change what a base64 text holds; None if it is none."""
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
        try:
            held = json.loads(data)
        except (ValueError, RecursionError):
            data = self._bytes(data)
        else:
            data = self._spelled(self._changed(held, 1))
        return base64.b64encode(data).decode()

    def _strange(self) -> Any:
        random, choice = self._random, self._random.randrange(6)
        if choice == 0:
            return random.choice(STRANGE_TEXTS)
        if choice in (1, 2):
            return random.choice(STRANGE_NUMBERS)
        if choice == 3:
            return random.choice((None, True, False))
        if choice == 4:
            return random.choice(([], {}, [[]], {"": None}, [1, "a", None]))
        nested: Any = random.choice(([], 0))
        for _ in range(random.choice((3, 50, 400))):
            nested = [nested] if random.random() < 0.5 else {"a": nested}
        return nested

    def _spelled(self, value: Any) -> bytes:
        random = self._random
        separators = random.choice(((",", ":"), (", ", ": "), (" ,", ":\n")))
        as_ascii = random.random() < 0.7
        text = json.dumps(value, separators=separators, ensure_ascii=as_ascii)
        return text.encode("utf-8", "surrogatepass" if random.random() < 0.5 else "replace")


Run = Callable[[bytes], object]
