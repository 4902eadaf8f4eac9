"""The digest that sites approve.

It covers the resolved document (the seed is in it, data files are not), the source of the
computation and of the kind of its task, which is the loss, and the version of the computation API; not the
release of the node.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasmid.computations.api import API_VERSION
from plasmid.core.canonical import digest_json, sha256_hex
from plasmid.core.errors import RecipeError
from plasmid.models.tasks import source_of


def recipe_digest(document: Mapping[str, Any], computation: str) -> str:
    """Return the digest of *document* under *computation*, as 64 hexadecimal digits.

    Raises
    ------
    RecipeError
        ``recipe.computation_unknown`` when there is no such computation here;
        ``recipe.malformed`` when *document* is not JSON in RFC 8785's sense.
    """
    source, task = _source(computation), document.get("task")
    loss = source_of(str(task.get("kind"))) if isinstance(task, Mapping) else None
    try:
        return digest_json(
            {
                "document": dict(document),
                "computation_source": sha256_hex(source.read_bytes()),
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


def _source(computation: str) -> Path:
    known = re.fullmatch(r"[a-z][a-z0-9_]*", computation) and computation != "api"
    spec = importlib.util.find_spec(f"plasmid.computations.{computation}") if known else None
    if spec is None or spec.origin is None:
        raise RecipeError(
            "recipe.computation_unknown",
            f"this installation has no computation {computation[:60]!r}.",
            "Install the release of Plasmid that the recipe was written for.",
        )
    return Path(spec.origin)
