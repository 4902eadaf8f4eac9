"""The digest that sites approve.

It covers the resolved document (the seed is in it, data files are not), the version of the computation API,
the source of the computation and of every module beside it, or of its own package, that it imports, however
indirectly, and that of the kind of its task, which is the loss; not the release of the node, nor comments and
docstrings (:mod:`plasmid.recipes.code_text`). Imports are read from the source, not by running it.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasmid.computations.api import API_VERSION, module_of
from plasmid.core.canonical import digest_json, sha256_hex
from plasmid.core.errors import RecipeError
from plasmid.recipes.code_text import code_of
from plasmid.tasks import source_of

_PACKAGE = "plasmid.computations."
_INTERFACE = {"plasmid.computations.api"}


def recipe_digest(document: Mapping[str, Any], computation: str) -> str:
    """Return the digest of *document* under *computation*, as 64 hexadecimal digits.

    Raises
    ------
    RecipeError
        ``recipe.computation_unknown`` when there is no such computation here;
        ``recipe.malformed`` when *document* is not JSON in RFC 8785's sense.
    """
    sources = {name: sha256_hex(code_of(source)) for name, source in sorted(_sources(computation).items())}
    task = document.get("task")
    loss = source_of(str(task.get("kind"))) if isinstance(task, Mapping) else None
    try:
        return digest_json(
            {
                "document": dict(document),
                "computation_sources": sources,
                "computation_api": API_VERSION,
                **({} if loss is None else {"task_source": sha256_hex(code_of(loss.read_bytes()))}),
            }
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise RecipeError(
            "recipe.malformed",
            "the document cannot be written as canonical JSON.",
            "Resolve the recipe anew.",
        ) from error


def _sources(computation: str) -> dict[str, bytes]:
    """Return the source of *computation*, and of what it imports, by the module's name.

    Counted is what it imports from the computations' package, and from its own where another package brings
    it. Names of modules of the former are told without the package.
    """
    first = module_of(computation)
    if first is None:
        raise RecipeError(
            "recipe.computation_unknown",
            f"this installation has no computation {computation[:60]!r}.",
            "Install the release of Plasmid, or the package, that the recipe was written for.",
        )
    found = {first: _path(first).read_bytes()}
    waiting = [first]
    while waiting:
        module = waiting.pop()
        for name in _imported(module, found[module]) - found.keys():
            found[name] = _path(name).read_bytes()
            waiting.append(name)
    return {name.removeprefix(_PACKAGE): source for name, source in found.items()}


def _imported(module: str, source: bytes) -> set[str]:
    """Return the modules whose source counts that *source*, of *module*, imports; the interface left out."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, "it was found before"
    package = module if spec.submodule_search_locations else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = "." * node.level + (node.module or "")
            within = importlib.util.resolve_name(named, package) if node.level else named
            names += [within, *(f"{within}.{alias.name}" for alias in node.names)]
    ours = {name.removeprefix(_PACKAGE).partition(".")[0] for name in names if name.startswith(_PACKAGE)}
    counted = {_PACKAGE + name for name in ours if name} - _INTERFACE
    own = module.partition(".")[0]
    if own != "plasmid":
        counted |= {name for name in names if name.startswith(f"{own}.")}
    return {name for name in counted if _is_module(name)}


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what it is in is no package: a function of a module
        return False


def _path(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None, "it was found before"
    assert spec.origin is not None, "computations are files"
    return Path(spec.origin)
