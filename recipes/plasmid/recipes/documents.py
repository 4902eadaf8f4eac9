"""What a gateway calls on a document that arrives from the network.

Rules
-----
1. Size and depth are checked before anything else looks at the document, without recursion.
2. A document must be resolved: equal, key by key, to what its schema writes back. So the digest of
   what arrived is the digest of what was understood, whatever the defaults of this release are.
3. Errors name paths and counts, never values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from plasmid.core.errors import RecipeError
from plasmid.recipes.protection import Unit
from plasmid.recipes.query import Document, document_type


@dataclass(frozen=True)
class DocumentLimits:
    """How large a document may be: nodes are values of any kind, keys included."""

    depth: int = 16
    nodes: int = 50_000
    text_characters: int = 1_000_000


LIMITS = DocumentLimits()


def patient_of(document: Any) -> str | None:
    """Return the column that says whose a row of a parsed *document* is; None where no column does."""
    named = getattr(document, "patient", None) or getattr(getattr(document, "data", None), "patient", None)
    return str(named) if named else None


def unit_of(document: Any) -> Unit:
    """Return the privacy unit of a parsed *document*, ``none`` where it says nothing of privacy."""
    unit: Unit = getattr(getattr(document, "privacy", None), "unit", "none")
    return unit


def parse_document(document: Mapping[str, Any], *, limits: DocumentLimits = LIMITS) -> Document:
    """Return *document* (the decoded JSON object of a resolved recipe, query or ping) as its model.

    Raises
    ------
    RecipeError
        ``recipe.malformed``: not an object, too large or too deep, not JSON, or not of its schema;
        ``recipe.computation_unknown``: no such computation here;
        ``recipe.not_resolved``: a default is left out, so that its digest would be another's.
    """
    _check_size(document, limits)
    kind = document_type(document.get("computation"))
    try:
        parsed: Document = kind.model_validate(dict(document))
    except (ValidationError, RecursionError) as error:
        raise _malformed(_summary(error)) from None
    if parsed.model_dump(mode="json") != document:
        raise RecipeError(
            "recipe.not_resolved",
            "the document leaves out values that its schema fills in.",
            "Resolve it with this release before it is sent, and approve the resolved document's digest.",
        )
    return parsed


def _malformed(what: str) -> RecipeError:
    return RecipeError("recipe.malformed", f"the document is malformed: {what}.", "Resolve the recipe anew.")


def _summary(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    places = [
        ".".join(str(part)[:40] for part in problem["loc"][:8]) or "(the whole)" for problem in problems[:5]
    ]
    return f"{len(problems)} problem(s), at {', '.join(places)}"


def _check_size(document: object, limits: DocumentLimits) -> None:
    if not isinstance(document, Mapping):
        raise _malformed("it is not a JSON object")
    nodes = characters = 0
    level: list[object] = [document]
    for _ in range(limits.depth):
        below: list[object] = []
        nodes += len(level)
        for value in level:
            if isinstance(value, Mapping):
                below.extend(value.keys())
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str):
                characters += len(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise _malformed("it holds a number that is not finite")
            elif isinstance(value, int) and abs(value) > 2**53 - 1:
                raise _malformed("it holds a whole number outside ±(2**53 - 1)")
            elif value is not None and not isinstance(value, bool | int | float):
                raise _malformed("it holds a value that is not JSON")
        if nodes + len(below) > limits.nodes or characters > limits.text_characters:
            raise _malformed(f"it has more than {limits.nodes} values or {limits.text_characters} characters")
        if not below:
            return
        level = below
    raise _malformed(f"it is nested more than {limits.depth} levels deep")
