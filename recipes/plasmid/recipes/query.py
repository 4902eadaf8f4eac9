"""Documents beside recipes: the mean of one column, a table of counts, and a sum of nothing for the path.

Rules
-----
1. A query is a document like a recipe: it has a digest, and a site's policy must allow that digest.
2. ``mean`` sums ``(x, x², 1)`` over the cells of one number column within public bounds; a missing
   cell is skipped, and one outside the bounds makes the site's table invalid.
3. ``max_rows`` is part of the document because the sum's range follows from it.
4. ``counts`` is in :mod:`plasmid.recipes.counts`, ``evaluate`` in :mod:`plasmid.recipes.evaluation`,
   ``gain`` in :mod:`plasmid.recipes.gain`, ``trees`` in :mod:`plasmid.recipes.trees`.
5. ``ping`` reads no data: every site contributes zeros of the given length.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from plasmid.computations.api import METHODS, brought, impossible, is_method
from plasmid.core.errors import RecipeError, UsageError
from plasmid.recipes.bundle import BundleRecipe
from plasmid.recipes.columns import (
    DEFAULT_MAX_ROWS,
    Bounds,
    ColumnName,
    Contract,
    NumberColumn,
    Words,
)
from plasmid.recipes.counts import CountsDocument
from plasmid.recipes.evaluation import EvaluationDocument
from plasmid.recipes.gain import GainDocument
from plasmid.recipes.protection import Limits, Protection
from plasmid.recipes.question import Question
from plasmid.recipes.schema import Name, Recipe
from plasmid.recipes.trees import TreesRecipe

MEAN_NORM = 3**0.5
"""L2 norm of the longest record of ``mean``, (1, 1, 1)."""


class QueryDocument(Question):
    """The mean and variance of ``column`` over all sites' rows."""

    computation: Literal["mean"] = "mean"
    name: Name
    column: ColumnName
    bounds: Bounds
    missing_markers: Words = ()
    max_rows: Annotated[int, Field(ge=1, le=100_000_000)] = DEFAULT_MAX_ROWS
    rounds: Literal[1] = 1

    @model_validator(mode="after")
    def _consistent(self) -> QueryDocument:
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError("bounds are [low, high] with low < high")
        self._check_limits()
        return self

    @property
    def contract(self) -> Contract:
        """The contract of the one column; every other column of a file stays unread."""
        column = NumberColumn(
            type="number", bounds=self.bounds, missing="allowed", missing_markers=self.missing_markers
        )
        return Contract({self.column: column}, (), self.max_rows)


class PingDocument(Question):
    """``rounds`` sums of ``length`` ones."""

    computation: Literal["ping"] = "ping"
    length: Annotated[int, Field(ge=1, le=2**28)]
    rounds: Annotated[int, Field(ge=1, le=100_000)] = 1

    @model_validator(mode="after")
    def _consistent(self) -> PingDocument:
        self._check_limits()
        return self


def noised(epsilon: float | None, delta: float | None, norm: float = MEAN_NORM) -> Protection | None:
    """Return the protection of a query with differential privacy for one record; None without *epsilon*.

    Parameters
    ----------
    norm
        The L2 norm of the longest record.

    Raises
    ------
    UsageError
        ``usage.query_privacy``: one of the two is missing, or out of its range.
    """
    if epsilon is None and delta is None:
        return None
    if epsilon is None or delta is None or not (0 < epsilon <= 1000 and 0 < delta < 1):
        raise UsageError(
            "usage.query_privacy",
            f"no query has epsilon {epsilon} and delta {delta}.",
            "Give both: --epsilon above 0, and --delta above 0 and well below one in the number of records.",
        )
    return Protection(unit="record", mechanism="dp-fedsgd", epsilon=epsilon, delta=delta, record_clip=norm)


def mean_from_recipe(
    recipe: Recipe | TreesRecipe, column: str, *, privacy: Protection | None = None
) -> QueryDocument:
    """Return the query for the mean of *column*, with the bounds and the federation of *recipe*.

    Raises
    ------
    UsageError
        ``usage.column_unknown``: the contract holds no such number column.
    """
    found = recipe.data.columns.get(column)
    if not isinstance(found, NumberColumn):
        numbers = [name for name, other in recipe.data.columns.items() if isinstance(other, NumberColumn)]
        raise UsageError(
            "usage.column_unknown",
            f"the contract of {recipe.name} has no number column {column!r}"
            f" (it has {', '.join(map(repr, numbers)) or 'none'}).",
            "Choose one of those, or give --sites DIR and --bounds LO,HI instead of a recipe.",
        )
    limits = recipe.federation.model_dump(include=set(Limits.model_fields))
    if privacy is not None:
        limits["spare_attempts"] = 0  # a spare attempt costs noise, and a query is soon asked again
    return QueryDocument(
        name=_query_name(recipe.name),
        column=column,
        bounds=found.bounds,
        missing_markers=found.missing_markers,
        max_rows=recipe.data.max_rows,
        federation=Limits(**limits),
        privacy=privacy or Protection(protect=recipe.privacy.protect),
        seed=recipe.seed,
    )


def mean_from_bounds(
    column: str,
    bounds: tuple[float, float],
    *,
    federation: Limits | None = None,
    privacy: Protection | None = None,
) -> QueryDocument:
    """Return the query for the mean of *column* within explicit *bounds*.

    Raises
    ------
    UsageError
        ``usage.query_invalid``: bounds that are not low < high, or a column name that cannot be one.
    """
    try:
        return QueryDocument(
            name="mean",
            column=column,
            bounds=bounds,
            federation=federation or Limits(spare_attempts=0),
            privacy=privacy or Protection(),
        )
    except ValueError as error:
        raise UsageError(
            "usage.query_invalid",
            f"no query for the mean of {column[:60]!r} within {bounds[0]}, {bounds[1]}.",
            "Give --bounds LOW,HIGH with LOW < HIGH, and the column's name as in the files' header.",
        ) from error


def _query_name(recipe_name: str) -> str:
    return f"mean-{recipe_name}"[:63]


Document = (
    Recipe
    | BundleRecipe
    | CountsDocument
    | EvaluationDocument
    | GainDocument
    | QueryDocument
    | PingDocument
    | TreesRecipe
)

_KINDS: dict[str, type[Document]] = {
    "bundle": BundleRecipe,
    "counts": CountsDocument,
    "evaluate": EvaluationDocument,
    "gain": GainDocument,
    **dict.fromkeys(METHODS, Recipe),
    "mean": QueryDocument,
    "ping": PingDocument,
    "trees": TreesRecipe,
}


def document_type(computation: object) -> type[Document]:
    """Return the schema of documents for *computation*.

    Raises
    ------
    RecipeError
        ``recipe.computation_unknown``: there is no such computation here.
    """
    kind = _KINDS.get(computation) if isinstance(computation, str) else None
    if kind is None and is_method(computation):
        kind = Recipe
    if kind is None:
        if why := impossible(computation):
            raise RecipeError("recipe.computation_impossible", f"{why}.", "Name that one as 'computation'.")
        known = ", ".join(sorted({*_KINDS, *brought()}))
        raise RecipeError(
            "recipe.computation_unknown",
            f"the document asks for a computation unknown here (known: {known}).",
            "Install the release of Plasmid that the document was written for.",
        )
    return kind
