"""Markers of tests, read from the source without importing it.

Rules
-----
1. A marker is a decorator ``@pytest.mark.NAME("...", ...)`` of a test function, and its arguments are literal
   strings. A marker elsewhere, or with a computed argument, is an error.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Marked:
    """A test and one of its markers.

    Attributes
    ----------
    test
        ``FILE::NAME``, the file relative to the folder of tests.
    others
        The names of all markers of this test.
    """

    test: str
    mark: str
    said: tuple[str, ...]
    others: frozenset[str]


def marked(names: Collection[str], folder: Path = TESTS) -> Iterator[Marked]:
    """Yield the markers *names* of all tests below *folder*.

    Raises
    ------
    ValueError
        A marker is no decorator of a test, or says something else than literal strings.
    """
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if any(f"mark.{name}" in text for name in names):
            yield from _in_file(ast.parse(text), path.relative_to(folder).as_posix(), names)


def _in_file(tree: ast.Module, file: str, names: Collection[str]) -> Iterator[Marked]:
    decorated: set[ast.AST] = set()
    for test in ast.walk(tree):
        if not isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) or not test.name.startswith("test_"):
            continue
        marks = {one: _mark(one) for one in test.decorator_list}
        others = frozenset(name for name in marks.values() if name is not None)
        for one, name in marks.items():
            if name in names:
                decorated |= set(ast.walk(one))
                yield Marked(f"{file}::{test.name}", name, _said(one, file), others)
    for node in ast.walk(tree):
        if _mark(node) in names and node not in decorated:
            raise ValueError(f"{file}: a marker {_mark(node)} decorates no test.")


def _mark(node: ast.AST) -> str | None:
    """Return NAME of ``pytest.mark.NAME`` or of a call of it, None where *node* is something else."""
    match node.func if isinstance(node, ast.Call) else node:
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="pytest"), attr="mark"), attr=name):
            return name
    return None


def _said(node: ast.AST, file: str) -> tuple[str, ...]:
    said = [
        one.value if isinstance(one, ast.Constant) else None
        for one in (node.args if isinstance(node, ast.Call) and not node.keywords else [])
    ]
    words = tuple(one for one in said if isinstance(one, str) and one)
    if not words or len(words) < len(said):
        raise ValueError(f"{file}: the marker {_mark(node)} needs literal strings.")
    return words
