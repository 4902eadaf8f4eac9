"""What is wrong with resources, and what was left out: counted by kind, with the place of the first one.

Rules
-----
1. A kind is a code and a fixed sentence about a type and a path; it never holds a value.
2. Problems are told together; the error's code is that of the first problem listed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from plasmid.core.errors import DataError
from plasmid.data.source import Trouble

MAX_KINDS = 1000
"""Kinds that are kept apart; more are counted as one, so that damage cannot fill the memory."""
MAX_TOLD = 30

HINTS = {
    "data.fhir_damaged": "Export those files again; each line or file is one JSON text in UTF-8.",
    "data.fhir_bundle": "Give bundles of type collection, searchset, history, document or transaction.",
    "data.fhir_invalid": "Correct those resources at their source, or leave them out of the export.",
    "data.fhir_profile": "List those profiles under 'profiles' of the connection if they may be ignored.",
    "data.fhir_identity": "Use one connection for each server.",
    "data.fhir_empty": "Export at least the Patient resources.",
}

Tell = Callable[[str, str], None]
"""``tell(code, what)`` about the resource at hand."""


class Place(NamedTuple):
    """Where a resource stands: ``unit`` (line, entry) number ``number`` (from 1) of ``file``."""

    file: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}" if self.unit else self.file


class Tally:
    """Counts by (code, what), with the place of the first.

    Attributes
    ----------
    persons
        Patients read.
    """

    def __init__(self) -> None:
        self.persons = 0
        self._found: dict[tuple[str, str], tuple[int, Place | None]] = {}

    def add(self, code: str, what: str, place: Place | None = None, count: int = 1) -> None:
        """Count *count* more of a kind."""
        if (code, what) not in self._found and len(self._found) >= MAX_KINDS:
            what = "of other kinds"
        before, first = self._found.get((code, what), (0, place))
        self._found[code, what] = (before + count, first)

    @property
    def refuses(self) -> bool:
        """Whether anything found so far is an error."""
        return any(code.startswith("data.") for code, _ in self._found)

    def raise_if_errors(self, what: str) -> None:
        """Raise DataError with every problem found in *what*."""
        problems = {key: value for key, value in self._found.items() if key[0].startswith("data.")}
        if not problems:
            return
        lines = [self._line(key) for key in problems]
        if len(lines) > MAX_TOLD:
            lines[MAX_TOLD:] = [f"and {len(lines) - MAX_TOLD} more kinds of problems"]
        codes = list(dict.fromkeys(code for code, _ in problems))
        raise DataError(
            codes[0],
            "\n  ".join([f"{what} cannot be used as it is:", *lines]),
            " ".join(HINTS[code] for code in codes),
        )

    def troubles(self, *, errors: bool) -> list[Trouble]:
        """Return what the owner should know; with *errors* the problems, too."""
        kinds = ("notice.", "data.") if errors else ("notice.",)
        return [Trouble(key[0], self._line(key)) for key in self._found if key[0].startswith(kinds)]

    def _line(self, key: tuple[str, str]) -> str:
        count, first = self._found[key]
        return f"{key[1]}: {count}" + (f" (first at {first})" if first else "")
