"""``docs/errors.md`` is what the source gives: every code that it raises, and no other."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

import errors_doc
from error_codes import codes_of, codes_of_the_source, raised
from errors_doc import Line
from plasmid.gateway.sentences import SENTENCES


def documented() -> list[str]:
    """Return the codes of the reference, in order."""
    return [line.code for line in errors_doc.lines()]


def test_the_page_is_what_the_source_gives() -> None:
    assert errors_doc.PAGE.read_text(encoding="utf-8") == errors_doc.page(), "run 'make docs'"


def test_every_code_of_the_source_is_documented_and_every_documented_one_raised() -> None:
    assert codes_of_the_source() == set(documented())


def test_a_code_has_one_line() -> None:
    assert [code for code, times in Counter(documented()).items() if times > 1] == []


def test_every_line_stands_in_a_package_that_raises_its_code() -> None:
    lines = list(errors_doc.from_files())
    raised_in = {room: codes_of(room.rglob("*.py")) for room in {line.room for line in lines}}
    assert [line.code for line in lines if line.code not in raised_in[line.room]] == []


def test_the_codes_that_may_leave_a_site_are_marked() -> None:
    rows = [row for row in errors_doc.page().splitlines() if row.startswith("| `")]
    assert {code for code in documented() if code.startswith("policy.")} <= set(SENTENCES)
    assert {row.split("`")[1] for row in rows if "(*site*)" in row} == set(SENTENCES)


def test_an_object_with_a_code_of_its_own_gives_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line("policy.no_fridays", "it is a Friday", "wait for a day")
    monkeypatch.setattr(errors_doc, "PROVIDERS", [*errors_doc.PROVIDERS, lambda: [line]])
    assert "| `policy.no_fridays` | it is a Friday | wait for a day |" in errors_doc.page()


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
