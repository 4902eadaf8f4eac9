"""The digest that sites approve.

It covers the resolved document (the seed is in it, data files are not), the version of the computation API,
the source of the computation and of every module beside it that it imports, however indirectly, and that of
the kind of its task, which is the loss; not the release of the node. Imports are read from the source, not by
running it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasmid.computations.api import API_VERSION
from plasmid.core.canonical import digest_json, sha256_hex
from plasmid.core.errors import RecipeError
from plasmid.models.tasks import source_of

_PACKAGE = "plasmid.computations."


def recipe_digest(document: Mapping[str, Any], computation: str) -> str:
    """Return the digest of *document* under *computation*, as 64 hexadecimal digits.

    Raises
    ------
    RecipeError
        ``recipe.computation_unknown`` when there is no such computation here;
        ``recipe.malformed`` when *document* is not JSON in RFC 8785's sense.
    """
    sources = {name: sha256_hex(source) for name, source in sorted(_sources(computation).items())}
    task = document.get("task")
    loss = source_of(str(task.get("kind"))) if isinstance(task, Mapping) else None
    try:
        return digest_json(
            {
                "document": dict(document),
                "computation_sources": sources,
                "computation_api": API_VERSION,
                **({} if loss is None else {"task_source": sha256_hex(loss.read_bytes())}),
            }
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise RecipeError(
            "recipe.malformed",
            "the document cannot be written as canonical JSON.",
            "Resolve the recipe anew.",
        ) from error


def _sources(computation: str) -> dict[str, bytes]:
    """Return the source of *computation*, and of what it imports from its package, by the module's name."""
    found = {computation: _source(computation).read_bytes()}
    waiting = [computation]
    while waiting:
        for name in _imported(found[waiting.pop()]) - found.keys():
            found[name] = _path(name).read_bytes()
            waiting.append(name)
    return found


def _imported(source: bytes) -> set[str]:
    """Return the modules of the computations' package that *source* imports, the interface left out."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = (_PACKAGE if node.level else "") + (node.module or "")
            names += [module, *(f"{module.rstrip('.')}.{alias.name}" for alias in node.names)]
    inside = (name.removeprefix(_PACKAGE).split(".")[0] for name in names if name.startswith(_PACKAGE))
    return {name for name in inside if name not in ("", "api") and importlib.util.find_spec(_PACKAGE + name)}


def _source(computation: str) -> Path:
    known = re.fullmatch(r"[a-z][a-z0-9_]*", computation) and computation != "api"
    if not known or importlib.util.find_spec(_PACKAGE + computation) is None:
        raise RecipeError(
            "recipe.computation_unknown",
            f"this installation has no computation {computation[:60]!r}.",
            "Install the release of Plasmid that the recipe was written for.",
        )
    return _path(computation)


def _path(name: str) -> Path:
    spec = importlib.util.find_spec(_PACKAGE + name)
    assert spec is not None, "it was found before"
    assert spec.origin is not None, "computations are files"
    return Path(spec.origin)
