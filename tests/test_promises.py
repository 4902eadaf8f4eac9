"""Each promise of the documents is held by a test; and what the comparison finds, it finds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import promises
from marked import TESTS, Marked, marked

SOUND = {
    "README.md": "# Plasmid\n\nIt is good.\n\n## What is promised\n- No row leaves. <!-- promise: rows -->\n"
    "\n<!-- no promise -->\nNot yet:\n\n- no end\n- to it\n\n## Install\nNothing is promised.\n",
    "SECURITY.md": "# Security\n\n## Now\n| what | by |\n|---|---|\n"
    "| rows stay | all <!-- promise: rows --> |\n",
    "docs/gateway.md": "# Gateway\n\n## Out\nOne vector, <!-- promise: one-vector -->\nand two lines. "
    "<!-- no promise -->\n\n```\n## code\nis none\n```\n",
}
HELD = [
    Marked("a/test_a.py::test_a", "promise", ("rows",), frozenset({"promise"})),
    Marked("a/test_a.py::test_b", "promise", ("one-vector", "rows"), frozenset({"promise", "slow"})),
    Marked("a/test_a.py::test_c", "promise", ("one-vector",), frozenset({"promise"})),
]


def test_each_promise_of_the_documents_is_held_by_a_test() -> None:
    assert promises.main() == 0


def test_documents_whose_promises_are_held_have_no_problem() -> None:
    assert promises.problems(SOUND, HELD) == []


@pytest.mark.parametrize(
    ("document", "old", "new", "problem"),
    [
        ("README.md", " <!-- promise: rows -->", "", "README.md promises nothing"),
        ("README.md", "Not yet", "Text.\n\n## More promises\nNot yet", "'Not yet:' does not end in"),
        ("README.md", "\n<!-- no promise -->\nNot", "\nNot", "'- to it' does not end in"),
        ("README.md", "promised\n", "promised\n- It keeps its word\n", "'- It keeps its word' does not end"),
        ("README.md", "promise: rows", "promise: Rows!", "the anchor of"),
        ("SECURITY.md", "| all <", "| all |\n| rows go | <", "'| rows stay | all |' does not end in"),
        ("SECURITY.md", "promise: rows", "promise: rows, masks", "no test of 'make test' holds 'masks'"),
        (
            "docs/gateway.md",
            "# Gateway\n",
            "# Gateway\n\n## New\nIt is safe.\n",
            "'It is safe.' does not end",
        ),
        ("docs/gateway.md", "one-vector", "vector", "test_b holds 'one-vector', which no document promises"),
    ],
)
def test_a_promise_without_a_test_or_an_anchor_is_found(
    document: str, old: str, new: str, problem: str
) -> None:
    assert old in SOUND[document]
    texts = SOUND | {document: SOUND[document].replace(old, new)}
    assert any(problem in one for one in promises.problems(texts, HELD)), promises.problems(texts, HELD)


def test_neither_a_slow_test_nor_one_of_a_limit_holds_a_promise() -> None:
    assert promises.problems(SOUND, HELD[:2]) == [
        "docs/gateway.md: no test of 'make test' holds 'one-vector'."
    ]
    limit = Marked("a/test_a.py::test_d", "promise", ("rows",), frozenset({"promise", "limit"}))
    assert promises.problems(SOUND, [*HELD, limit]) == [
        "a/test_a.py::test_d shows a limit and cannot hold 'rows'."
    ]


def test_a_block_of_code_ends() -> None:
    with pytest.raises(ValueError, match="does not end"):
        list(promises.blocks("README.md", "```\n- a\n", ""))


def test_markers_are_read_from_the_source(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    file = tmp_path / "below" / "test_x.py"
    file.write_text(
        '@pytest.mark.slow\n@pytest.mark.promise("a", "b")\ndef test_x() -> None: ...\n\n\n'
        '@pytest.mark.promise("c")\ndef helper() -> None: ...\n'
    )
    with pytest.raises(ValueError, match="decorates no test"):
        list(marked({"promise"}, tmp_path))
    file.write_text(file.read_text().replace("helper", "test_y"))
    assert list(marked({"promise"}, tmp_path)) == [
        Marked("below/test_x.py::test_x", "promise", ("a", "b"), frozenset({"slow", "promise"})),
        Marked("below/test_x.py::test_y", "promise", ("c",), frozenset({"promise"})),
    ]
    assert list(marked({"limit"}, tmp_path)) == []


@pytest.mark.parametrize("said", ["()", "(NAME)", '("a", NAME)', '(name="a")', '("")', ""])
def test_a_marker_says_literal_strings(tmp_path: Path, said: str) -> None:
    (tmp_path / "test_x.py").write_text(f"@pytest.mark.promise{said}\ndef test_x() -> None: ...\n")
    with pytest.raises(ValueError, match="literal strings"):
        list(marked({"promise"}, tmp_path))


def test_a_document_that_lost_its_anchors_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the words of lint: the exit status is 1, and it says where."""
    for document in promises.DOCUMENTS:
        (tmp_path / document).parent.mkdir(exist_ok=True)
        shutil.copy(TESTS.parent / document, tmp_path / document)
    (tmp_path / "tests").symlink_to(TESTS)
    monkeypatch.setattr(promises, "TESTS", tmp_path / "tests")
    assert promises.main() == 0
    text = (tmp_path / "SECURITY.md").read_text().replace("<!-- promise:", "<!-- was:")
    (tmp_path / "SECURITY.md").write_text(text)
    capsys.readouterr()
    assert promises.main() == 1
    assert "SECURITY.md promises nothing" in capsys.readouterr().out
