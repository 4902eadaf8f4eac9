"""The report of the threat table counts what it says, and every row that is to be tested has a file."""

from __future__ import annotations

import re
from pathlib import Path

from threat_rows import Rows, row_of

REPOSITORY = Path(__file__).parents[1]
TESTED = {*range(1, 21), *range(22, 40), 45}
"""Row 21 is of what does not exist yet; row 40 is a claim."""


def files() -> dict[str, int | None]:
    folder = REPOSITORY / "tests" / "threats"
    return {path.name: row_of(f"tests/threats/{path.name}") for path in sorted(folder.glob("test_*.py"))}


def test_every_row_that_can_be_tested_has_a_file_and_every_file_a_row() -> None:
    assert set(files().values()) == TESTED


def test_the_threat_model_names_every_file_and_no_other() -> None:
    text = (REPOSITORY / "docs" / "threat-model.md").read_text(encoding="utf-8")
    assert set(re.findall(r"test_\d\d_\w+", text)) == {name.removesuffix(".py") for name in files()}


def test_a_row_holds_if_all_its_tests_passed() -> None:
    rows = Rows()
    for path, outcome in (
        ("tests/threats/test_01_a.py::test_x", "passed"),
        ("tests/threats/test_01_b.py::test_x[1]", "passed"),
        ("tests/threats/test_02_a.py::test_x", "passed"),
        ("tests/threats/test_02_a.py::test_y", "failed"),
        ("tests/threats/test_03_a.py::test_x", "passed"),
        ("tests/threats/test_04_a.py::test_x", "skipped"),
        ("tests/threats/test_05_a.py", "not collected"),
        ("tests/gateway/test_06_a.py::test_x", "failed"),
        ("tests/threats/test_x.py::test_x", "failed"),
    ):
        rows.note(path, outcome)
    rows.not_selected = 2
    assert rows.held == [1, 3]
    assert rows.lines() == [
        "threat rows held: 2 / tried: 5",
        "held: 1, 3",
        "row 2: 1 failed, 1 passed",
        "row 4: 1 skipped",
        "row 5: 1 not collected",
        "2 tests were not selected (make test-all runs all)",
    ]


def test_consecutive_rows_are_told_as_a_range() -> None:
    rows = Rows()
    for row in (1, 2, 3, 7, 9, 10):
        rows.note(f"tests/threats/test_{row:02}_a.py::test_x", "passed")
    assert rows.lines() == ["threat rows held: 6 / tried: 6", "held: 1-3, 7, 9-10"]
    assert Rows().lines() == []
