"""``docs/errors.md`` lists the error codes of the source: all of them, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from error_codes import codes_of_the_source, raised
from plasmid.gateway.disclosure import SENTENCES

REPOSITORY = Path(__file__).parents[1]
LINE = re.compile(r"^\| `([a-z]+\.[a-z0-9_]+)`")
MAY_LEAVE = "(*site*)"


def lines_of_the_document(marked: str = "") -> list[str]:
    """Return the codes that the document's tables list with *marked* beside them, in order."""
    text = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    return [match[1] for line in text.splitlines() if (match := LINE.match(line)) and marked in line]


def test_every_code_of_the_source_is_documented() -> None:
    assert codes_of_the_source() - set(lines_of_the_document()) == set()


def test_every_documented_code_is_in_the_source() -> None:
    assert set(lines_of_the_document()) - codes_of_the_source() == set()


def test_a_code_has_one_line() -> None:
    lines = lines_of_the_document()
    assert [code for code in dict.fromkeys(lines) if lines.count(code) > 1] == []


def test_the_codes_that_may_leave_a_site_are_marked() -> None:
    policy = {code for code in SENTENCES if code.startswith("policy.")}  # marked in a sentence above them
    assert set(lines_of_the_document(MAY_LEAVE)) == set(SENTENCES) - policy
    assert policy == {code for code in lines_of_the_document() if code.startswith("policy.")}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise DataError("data.empty", "it is empty.")', ["data.empty"]),
        ('tally.problem("data.ragged_row", "rows")', ["data.ragged_row"]),
        ('error = {"code": "run.internal", "message": "no"}', ["run.internal"]),
        ('class Finding(StrEnum):\n    cut = "notice.cut"', ["notice.cut"]),
        ('code = error.code if known else "site.failed"', ["site.failed"]),
        ('path = folder / "recipe.yaml"', []),
        ('audit.write("project.signed", actor="owner")', []),
        ('"""``data.empty`` in a docstring."""', []),
        ('if error.code == "data.empty": pass', []),
    ],
)
def test_what_counts_as_a_code(source: str, found: list[str]) -> None:
    assert list(raised(ast.parse(source))) == found
