"""Which rows of the threat table were tried in a session of tests, and which of them held.

Rules
-----
1. The row is in the file's name: ``test_NN_what.py``; several files may share one.
2. A row holds if all of its tests passed: one that failed, was skipped or not collected speaks against it.
3. Tests that were not selected (``slow`` ones, by default) are counted and told, and decide nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath

FOLDER = "threats"
_FILE = re.compile(r"test_(\d\d)_\w+\.py")


def row_of(path: str) -> int | None:
    """Return the row that the file at *path* tests, None if it is no file of the folder."""
    file = PurePath(path.split("::", 1)[0])
    found = _FILE.fullmatch(file.name)
    return int(found[1]) if found and file.parent.name == FOLDER else None


@dataclass
class Rows:
    """What became of each row's tests: ``passed``, or why not."""

    seen: dict[int, Counter[str]] = field(default_factory=dict)
    not_selected: int = 0

    def note(self, path: str, outcome: str) -> None:
        """Count one test, or one file that was not collected."""
        row = row_of(path)
        if row is not None:
            self.seen.setdefault(row, Counter())[outcome] += 1

    @property
    def held(self) -> list[int]:
        """The rows all of whose tests passed."""
        return sorted(row for row, outcomes in self.seen.items() if set(outcomes) == {"passed"})

    def lines(self) -> list[str]:
        """Return the report."""
        if not self.seen:
            return []
        held = self.held
        told = [f"threat rows held: {len(held)} / tried: {len(self.seen)}", f"held: {_numbers(held)}"]
        for row, outcomes in sorted(self.seen.items()):
            if row not in held:
                counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
                told.append(f"row {row}: {counted}")
        if self.not_selected:
            told.append(f"{self.not_selected} tests were not selected (make test-all runs all)")
        return told


def _numbers(rows: list[int]) -> str:
    """Return rows as ``1-5, 7``."""
    parts: list[list[int]] = []
    for row in rows:
        if parts and row == parts[-1][-1] + 1:
            parts[-1].append(row)
        else:
            parts.append([row])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts) or "none"
