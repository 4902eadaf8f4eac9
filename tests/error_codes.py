"""The error codes of the source, read from its syntax: for tests that compare them with something."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from plasmid.core.errors import PlasmidError

REPOSITORY = Path(__file__).parents[1]
ROOTS = ("models", "recipes", "node", "platform")
FAMILIES = {kind.family for kind in PlasmidError.__subclasses__()} | {"site"}
"""``site`` is no class: a code of a site's own, which arrives as a run's failure."""
CODE = re.compile(rf"(?:{'|'.join(sorted(FAMILIES))})\.[a-z0-9_]+")


def raised(tree: ast.AST) -> Iterator[str]:
    """Yield the codes that *tree* gives away.

    A code is the first argument of a call (an exception's, or of a helper that makes one), the first of a
    tuple, the value of ``"code"`` in a dictionary, what a variable ``code`` is set to, a key under which
    something is kept, or a member of an enumeration. What an audit log writes first is an action, no code.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="write")):
                pass
            case ast.Call(func=ast.Name(id="_Form"), args=[_, ast.Constant(value=str(text)), *_]):
                yield text
            case ast.Call(args=[ast.Constant(value=str(text)), *_]):
                yield text
            case ast.Tuple(elts=[ast.Constant(value=str(text)), *_]) if text.startswith("data."):
                yield text
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "code":
                        yield from (part.value for part in ast.walk(value) if _is_text(part))
            case ast.Assign(targets=[ast.Name(id="code" | "_CODE")], value=value):
                yield from (part.value for part in ast.walk(value) if _is_text(part))
            case ast.Assign(targets=[ast.Subscript(slice=ast.Constant(value=str(text)))]):
                yield text
            case ast.ClassDef(body=body):
                for statement in body:
                    if isinstance(statement, ast.Assign) and _is_text(statement.value):
                        yield statement.value.value  # type: ignore[attr-defined]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def codes_of(files: Iterable[Path]) -> set[str]:
    """Return every error code that *files* can raise."""
    texts = {text for path in files for text in raised(ast.parse(path.read_text(encoding="utf-8")))}
    return {text for text in texts if CODE.fullmatch(text)}


@cache
def codes_of_the_source() -> frozenset[str]:
    """Return every error code that the four roots can raise."""
    return frozenset(codes_of(path for root in ROOTS for path in (REPOSITORY / root).rglob("*.py")))
