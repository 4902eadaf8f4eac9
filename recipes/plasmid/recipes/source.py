"""The folder ``bundle`` beside a recipe: its files as text, and what can be said of them without running any.

Rules
-----
1. Every file is read once. What is checked, digested, sent and run is that text.
2. Only flat ``name.py`` files are carried. Anything else in the folder is a problem, so that nobody believes
   that it travels; hidden files and ``__pycache__`` are left out.
3. Nothing here runs the code: it is parsed, and its imports are looked up, not imported.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from plasmid.core.problems import did_you_mean
from plasmid.recipes.python import MAX_BYTES, MAX_FILES, PACKAGE, defined_by

FOLDER = "bundle"

_NAME = re.compile(r"_?[a-z][a-z0-9_]{0,61}\.py")


def read_bundle(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the text of ``folder/bundle/*.py`` by file name, and problems, each with its place."""
    bundle = folder / FOLDER
    files: dict[str, str] = {}
    problems = []
    try:
        found = sorted(path for path in bundle.iterdir() if not path.name.startswith((".", "__pycache__")))
    except OSError:
        return {}, [f"{bundle}: there is no such folder, and the recipe's Python lies in it"]
    for path in found[: MAX_FILES + 1]:
        what = _unfit(path, bundle)
        if what is None:
            try:
                files[path.name] = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                what = "is not UTF-8 text"
            except OSError as error:
                what = f"cannot be read ({error.strerror})"
        if what is not None:
            problems.append(f"{path}: {what}")
    if not found:
        problems.append(f"{bundle}: holds no Python file")
    if len(found) > MAX_FILES:
        problems.append(f"{bundle}: holds {len(found)} files, {MAX_FILES} are the most")
    return files, problems


def _unfit(path: Path, bundle: Path) -> str | None:
    if not _NAME.fullmatch(path.name):
        return "is not carried: a bundle is Python files named a-z, 0-9 and _, in no folder below"
    if not path.resolve().is_relative_to(bundle.resolve()) or not path.is_file():
        return "is no file of this folder"
    if path.stat().st_size > MAX_BYTES:
        return f"is longer than {MAX_BYTES} bytes, the most that a bundle takes in all"
    return None


def code_problems(files: Mapping[str, str], entry: object, half: object) -> list[str]:
    """Return what is wrong with the Python of *files*: ``name.py:line: what``.

    Parameters
    ----------
    entry, half
        The module that must define what a bundle with *half* gives; what is no text is not looked for.
    """
    problems = []
    for name, text in files.items():
        try:
            tree = _parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None) or 1
            problems.append(f"{name}:{line}: is not Python: {getattr(error, 'msg', None) or 'too complex'}")
            continue
        problems += [f"{name}:{line}: {what}" for line, what in _own_imports(tree, files)]
        wanted = defined_by(half)
        if name == f"{entry}.py" and isinstance(wanted, str):
            defined = set(_defined(tree))
            if wanted not in defined:
                problems.append(f"{name}:1: defines no {wanted}{did_you_mean(wanted, defined)}")
    return problems


def imports(files: Mapping[str, str], package: str = PACKAGE) -> list[str]:
    """Return the dotted names of what *files* import beside one another, sorted. Raises SyntaxError."""
    found = set()
    for text in files.values():
        for node in ast.walk(_parse(text)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module)
    return sorted(name for name in found if name.partition(".")[0] != package)


def not_installed(files: Mapping[str, str], package: str = PACKAGE) -> list[str]:
    """Return the top-level modules that *files* import and that this installation lacks, sorted."""
    tops = {name.partition(".")[0] for name in imports(files, package)}
    return [name for name in sorted(tops) if not _there(name)]


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a module without a specification, such as __main__
        return False


def _parse(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the code's author, who sees them when it runs
        return ast.parse(text)


def _own_imports(tree: ast.Module, files: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        names = [node.module] if node.module else [alias.name for alias in node.names]
        for name in names if node.level == 1 else ():
            if f"{name}.py" not in files:
                yield node.lineno, f"imports .{name}, but there is no {name}.py"
        if node.level > 1:
            yield node.lineno, "imports from above the bundle"


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name):
                yield name
            case ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name for alias in names)
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                yield name
