"""Which rows of the threat table were tried in a session of tests, and how each of them came out.

Rules
-----
1. The row is in the file's name: ``test_NN_what.py``; several files may share one.
2. A test shows that an attack is refused, unless it is marked: ``limit("...")`` where the attack works on
   what is shipped, ``detected_later("...")`` where it goes through and is noticed at the time that is said. A
   control, where the test itself switches the defence off, is no limit.
3. A row is held if all its tests passed and none is marked. A marked test makes it a row with a limit, or one
   that is detected later; the limit first. It failed if a test failed, was skipped or was not collected.
4. Tests that were not selected (``slow`` ones, by default) are counted and told, and decide nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

FOLDER = "threats"
MARKS = {"limit": "with a limit", "detected_later": "detected later"}
"""Marker of a test, and what it makes of the row; the graver first."""
_FILE = re.compile(r"test_(\d\d)_\w+\.py")


def row_of(path: str) -> int | None:
    """Return the row that the file at *path* tests, None if it is no file of the folder."""
    file = PurePath(path.split("::", 1)[0])
    found = _FILE.fullmatch(file.name)
    return int(found[1]) if found and file.parent.name == FOLDER else None


@dataclass
class Rows:
    """What became of each row's tests: ``passed``, a word of :data:`MARKS`, or why it failed."""

    seen: dict[int, Counter[str]] = field(default_factory=dict)
    not_selected: int = 0

    def note(self, path: str, outcome: str, marks: Iterable[str] = ()) -> None:
        """Count one test with its *marks*, or one file that was not collected."""
        row = row_of(path)
        if row is not None:
            marked = next((word for mark, word in MARKS.items() if mark in marks), outcome)
            self.seen.setdefault(row, Counter())[marked if outcome == "passed" else outcome] += 1

    def came_out(self, word: str) -> list[int]:
        """Return the rows that are *word*: ``held``, ``failed`` or one of :data:`MARKS`."""
        return sorted(row for row, outcomes in self.seen.items() if _of(set(outcomes)) == word)

    def lines(self) -> list[str]:
        """Return the report."""
        if not self.seen:
            return []
        words = ("held", *MARKS.values(), "failed")
        rows = {word: self.came_out(word) for word in words}
        told = [
            f"threat rows tried: {len(self.seen)}; " + ", ".join(f"{len(rows[one])} {one}" for one in words)
        ]
        told += [f"{word}: {_numbers(rows[word])}" for word in words if rows[word]]
        for row in rows["failed"]:
            counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.seen[row].items()))
            told.append(f"row {row}: {counted}")
        if self.not_selected:
            told.append(f"{self.not_selected} tests were not selected (make test-all runs all)")
        return told


def _of(outcomes: set[str]) -> str:
    if outcomes - {"passed", *MARKS.values()}:
        return "failed"
    return next((word for word in MARKS.values() if word in outcomes), "held")


def _numbers(rows: list[int]) -> str:
    """Return rows as ``1-5, 7``."""
    parts: list[list[int]] = []
    for row in rows:
        if parts and row == parts[-1][-1] + 1:
            parts[-1].append(row)
        else:
            parts.append([row])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)
