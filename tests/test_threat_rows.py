"""The report of the threat table counts what it says, and docs/threat-model.md says what the tests show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from marked import TESTS, marked
from threat_rows import FOLDER, MARKS, Rows, row_of

WORDS = {"limit": "limit", "detected_later": "detected later"}
"""Marker of a test, and the bold word before the same sentence in the row of the document."""


def documented() -> dict[int, str]:
    """Return the rows of the table of what holds, in docs/threat-model.md."""
    text = (TESTS.parent / "docs" / "threat-model.md").read_text(encoding="utf-8")
    section = text.partition("\n## What holds now\n")[2].partition("\n## ")[0]
    rows = [(int(row[1]), row[0]) for row in re.finditer(r"^\| (\d+) \|.*$", section, re.MULTILINE)]
    assert rows
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def files() -> dict[str, int | None]:
    return {path.stem: row_of(f"tests/{FOLDER}/{path.name}") for path in (TESTS / FOLDER).glob("test_*.py")}


def test_every_row_names_its_files_and_every_file_is_named_by_its_row() -> None:
    named = {
        (name, row) for row, line in documented().items() for name in re.findall(r"`(test_\d\d_\w+)`", line)
    }
    assert named == set(files().items())
    assert {row for _, row in named} == documented().keys()


def test_a_row_says_its_limits_and_what_is_detected_later_in_the_words_of_its_tests() -> None:
    shown: defaultdict[int, set[tuple[str, str]]] = defaultdict(set)
    for test in marked(MARKS, TESTS / FOLDER):
        row = row_of(f"{FOLDER}/{test.test}")
        assert row is not None, test.test
        shown[row] |= {(WORDS[test.mark], sentence) for sentence in test.said}
    said = {row: set(_said(line)) for row, line in documented().items() if set(_said(line))}
    assert said == dict(shown)


def test_only_tests_of_threats_show_limits() -> None:
    strays = [test.test for test in marked(MARKS) if not test.test.startswith(f"{FOLDER}/")]
    assert strays == []


def _said(line: str) -> list[tuple[str, str]]:
    """Return (word, sentence) of each ``**word**: sentence``, which the next one, or the cell, ends."""
    cell = re.split(r"(?<!\\)\|", line)[3]
    parts = re.split(rf"[;.]? \*\*({'|'.join(WORDS.values())})\*\*: ", cell)
    return [(word, sentence.strip()) for word, sentence in zip(parts[1::2], parts[2::2], strict=True)]


def test_a_row_is_held_if_all_its_tests_passed_and_none_shows_a_limit() -> None:
    rows = Rows()
    for path, outcome, marks in (
        ("tests/threats/test_01_a.py::test_x", "passed", []),
        ("tests/threats/test_01_b.py::test_x[1]", "passed", []),
        ("tests/threats/test_02_a.py::test_x", "passed", []),
        ("tests/threats/test_02_a.py::test_y", "failed", []),
        ("tests/threats/test_03_a.py::test_x", "passed", []),
        ("tests/threats/test_04_a.py::test_x", "skipped", []),
        ("tests/threats/test_05_a.py", "not collected", []),
        ("tests/threats/test_06_a.py::test_x", "passed", []),
        ("tests/threats/test_06_a.py::test_y", "passed", ["detected_later"]),
        ("tests/threats/test_07_a.py::test_x", "passed", ["limit"]),
        ("tests/threats/test_07_a.py::test_y", "passed", ["detected_later"]),
        ("tests/threats/test_08_a.py::test_x", "failed", ["limit"]),
        ("tests/gateway/test_09_a.py::test_x", "failed", []),
        ("tests/threats/test_x.py::test_x", "failed", []),
    ):
        rows.note(path, outcome, marks)
    rows.not_selected = 2
    assert rows.came_out("held") == [1, 3]
    assert rows.lines() == [
        "threat rows tried: 8; 2 held, 1 with a limit, 1 detected later, 4 failed",
        "held: 1, 3",
        "with a limit: 7",
        "detected later: 6",
        "failed: 2, 4-5, 8",
        "row 2: 1 failed, 1 passed",
        "row 4: 1 skipped",
        "row 5: 1 not collected",
        "row 8: 1 failed",
        "2 tests were not selected (make test-all runs all)",
    ]


def test_consecutive_rows_are_told_as_a_range() -> None:
    rows = Rows()
    for row in (1, 2, 3, 7, 9, 10):
        rows.note(f"tests/threats/test_{row:02}_a.py::test_x", "passed")
    assert rows.lines() == [
        "threat rows tried: 6; 6 held, 0 with a limit, 0 detected later, 0 failed",
        "held: 1-3, 7, 9-10",
    ]
    assert Rows().lines() == []


def test_a_session_counts_a_marked_test_as_a_limit(tmp_path: Path) -> None:
    """Through pytest itself and in two processes, whose reports alone reach the one that counts."""
    folder = tmp_path / "tests" / FOLDER
    folder.mkdir(parents=True)
    (folder / "test_01_a.py").write_text("def test_x() -> None: ...\n")
    (folder / "test_02_a.py").write_text(
        'import pytest\n\n\n@pytest.mark.limit("it works")\ndef test_x() -> None: ...\n\n\n'
        "def test_y() -> None: ...\n"
    )
    hooks = (TESTS / "conftest.py").read_text(encoding="utf-8")
    (tmp_path / "conftest.py").write_text(hooks)
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n2",
            "-p",
            "no:cacheprovider",
            "-o",
            "markers=limit(sentence)",
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "threat rows tried: 2; 1 held, 1 with a limit, 0 detected later, 0 failed" in told.stdout, (
        told.stdout
    )
