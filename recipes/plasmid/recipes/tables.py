"""The document of ``counts`` from a recipe's contract: which of its columns make the axes of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from plasmid.core.errors import UsageError
from plasmid.recipes.columns import CategoryColumn, LabelColumn, NumberColumn
from plasmid.recipes.counts import CountsDocument
from plasmid.recipes.protection import Limits, Protection
from plasmid.recipes.schema import Recipe
from plasmid.recipes.trees import TreesRecipe

_EXAMPLE = "For example: --by case,age --edges age=0,40,60,120"


def counts_from_recipe(
    recipe: Recipe | TreesRecipe,
    by: Sequence[str],
    *,
    edges: Mapping[str, Sequence[float]],
    sum_of: str | None = None,
    missing: str = "cell",
    privacy: Protection | None = None,
) -> CountsDocument:
    """Return the question how many records of *recipe*'s data are in each cell of a table.

    Parameters
    ----------
    by
        One to three columns: categories, the label, or numbers.
    edges
        Of each number column among them, its inner edges or all; the contract's bounds are added.
    sum_of
        A number column to be summed in every cell.

    Raises
    ------
    UsageError
        ``usage.query_invalid``: a column that is no axis, or edges that are none.
    """
    columns = recipe.data.columns
    axes = [_axis(recipe, name, edges.get(name)) for name in by]
    if sum_of is not None and not isinstance(columns.get(sum_of), NumberColumn):
        raise UsageError("usage.query_invalid", f"{sum_of!r} is no number column of {recipe.name}.", _EXAMPLE)
    limits = recipe.federation.model_dump(include=set(Limits.model_fields))
    if privacy is not None:
        limits["spare_attempts"] = 0  # a spare attempt costs noise, and a query is soon asked again
    summed: Any = columns.get(sum_of or "")
    try:
        return CountsDocument.model_validate(
            {
                "computation": "counts",
                "name": f"counts-{recipe.name}"[:63],
                "axes": axes,
                "missing": missing,
                "sum_of": summed
                and {
                    "column": sum_of,
                    "bounds": summed.bounds,
                    "missing_markers": summed.missing_markers,
                },
                "patient": getattr(recipe.data, "patient", None),
                "max_rows": recipe.data.max_rows,
                "federation": limits,
                "privacy": (privacy or Protection(protect=recipe.privacy.protect)).model_dump(mode="json"),
                "seed": recipe.seed,
            }
        )
    except ValidationError as error:
        problem = "; ".join(one["msg"] for one in error.errors(include_url=False, include_input=False)[:3])
    raise UsageError("usage.query_invalid", f"no table by {', '.join(by)[:200]}: {problem}.", _EXAMPLE)


def _axis(recipe: Recipe | TreesRecipe, name: str, edges: Sequence[float] | None) -> dict[str, Any]:
    found = recipe.data.columns.get(name)
    match found:
        case CategoryColumn():
            own: dict[str, Any] = {"type": "category", "vocabulary": found.vocabulary}
        case LabelColumn():
            own = {"type": "label", "labels": recipe.task.classes}
        case NumberColumn() if edges:
            own = {"type": "number", "edges": sorted({*found.bounds, *edges})}
        case _:
            raise UsageError(
                "usage.query_invalid",
                f"{name!r} is no category, label, or number column with --edges, of {recipe.name}.",
                _EXAMPLE,
            )
    return {"column": name, "missing_markers": found.missing_markers, **own}
