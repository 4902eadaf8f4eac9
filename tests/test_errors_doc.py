"""``docs/errors.md`` lists the error codes of the source: all of them, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from plasmid.core.errors import PlasmidError
from plasmid.gateway.disclosure import SENTENCES

REPOSITORY = Path(__file__).parents[1]
ROOTS = ("models", "recipes", "node", "platform")
FAMILIES = {kind.family for kind in PlasmidError.__subclasses__()} | {"site"}
"""``site`` is no class: a code of a site's own, which arrives as a run's failure."""
CODE = re.compile(rf"(?:{'|'.join(sorted(FAMILIES))})\.[a-z0-9_]+")
LINE = re.compile(r"^\| `([a-z]+\.[a-z0-9_]+)`")
MAY_LEAVE = "(*site*)"


def raised(tree: ast.AST) -> Iterator[str]:
    """Yield the codes that *tree* gives away.

    A code is the first argument of a call (an exception's, or of a helper that makes one), the value of
    ``"code"`` in a dictionary, what a variable ``code`` is set to, or a member of an enumeration.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Call(args=[ast.Constant(value=str(text)), *_]):
                yield text
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "code":
                        yield from (part.value for part in ast.walk(value) if _is_text(part))
            case ast.Assign(targets=[ast.Name(id="code")], value=value):
                yield from (part.value for part in ast.walk(value) if _is_text(part))
            case ast.ClassDef(body=body):
                for statement in body:
                    if isinstance(statement, ast.Assign) and _is_text(statement.value):
                        yield statement.value.value  # type: ignore[attr-defined]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def codes_of_the_source() -> set[str]:
    """Return every error code that the four roots can raise."""
    files = [path for root in ROOTS for path in (REPOSITORY / root).rglob("*.py")]
    texts = {text for path in files for text in raised(ast.parse(path.read_text(encoding="utf-8")))}
    return {text for text in texts if CODE.fullmatch(text)}


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
        ('"""``data.empty`` in a docstring."""', []),
        ('if error.code == "data.empty": pass', []),
    ],
)
def test_what_counts_as_a_code(source: str, found: list[str]) -> None:
    assert list(raised(ast.parse(source))) == found
