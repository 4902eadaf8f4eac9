"""The document of ``counts``: a contingency table over one to three axes.

Rules
-----
1. An axis has a public list of cells, fixed by the document and never gathered from the sites: a category's
   vocabulary, the labels, or a number column cut at public edges or on a regular grid.
2. A category outside its vocabulary counts in the axis's cell ``(unseen)``. A missing cell counts in
   ``(missing)``, or the record is left out (``missing: skip``).
3. A number outside an axis's outermost edges makes the site's table invalid, as everywhere.
4. With ``sum_of`` each cell has a sum beside its count; a record in which that number is missing is left
   out of both, so that the two belong together.
5. ``patient`` names the column that says whose a record is. Records are counted, whoever's they are; the
   rules against disclosure count people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from plasmid.recipes.columns import (
    DEFAULT_MAX_ROWS,
    AnyColumn,
    Bounds,
    CategoryColumn,
    ColumnName,
    Contract,
    IdentifierColumn,
    LabelColumn,
    NumberColumn,
    Strict,
    Word,
    Words,
)
from plasmid.recipes.question import Question
from plasmid.recipes.schema import Name

MAX_CELLS = 4096
"""The most cells of one table."""
UNSEEN, MISSING = "(unseen)", "(missing)"

Edges = Annotated[tuple[float, ...], Field(strict=False, min_length=2, max_length=MAX_CELLS)]


class _Axis(Strict):
    column: ColumnName
    missing_markers: Words = ()

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """The names of the cells, in order; without the one for missing values."""
        raise NotImplementedError

    @cached_property
    def edges_of_cells(self) -> tuple[float, ...]:
        """The edges of the cells of a number axis; none of another."""
        return ()

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """The position of each cell by its name."""
        return {name: position for position, name in enumerate(self.cells)}


class CategoryAxis(_Axis):
    """One cell for each value of a public ``vocabulary``, and one for what is outside it."""

    type: Literal["category"]
    vocabulary: Annotated[tuple[Word, ...], Field(strict=False, min_length=1, max_length=MAX_CELLS)]

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """The names of the cells, in order."""
        return (*self.vocabulary, UNSEEN)

    @property
    def reads(self) -> AnyColumn:
        """The column that the axis reads."""
        return CategoryColumn(
            type="category",
            vocabulary=self.vocabulary,
            missing="allowed",
            missing_markers=self.missing_markers,
        )


class LabelAxis(_Axis):
    """One cell for each of the ``labels``; another label makes the site's table invalid."""

    type: Literal["label"]
    labels: Annotated[tuple[Word, ...], Field(strict=False, min_length=1, max_length=MAX_CELLS)]

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """The names of the cells, in order."""
        return self.labels

    @property
    def reads(self) -> AnyColumn:
        """The column that the axis reads."""
        return LabelColumn(type="label", missing="allowed", missing_markers=self.missing_markers)


class _Cut(_Axis):
    @cached_property
    def cells(self) -> tuple[str, ...]:
        """The names of the cells, in order: each without its upper edge, but for the last."""
        named = [f"[{low:.12g}, {high:.12g})" for low, high in pairwise(self.edges_of_cells)]
        return (*named[:-1], f"{named[-1][:-1]}]")

    @property
    def reads(self) -> AnyColumn:
        """The column that the axis reads."""
        edges = self.edges_of_cells
        return NumberColumn(
            type="number",
            bounds=(edges[0], edges[-1]),
            missing="allowed",
            missing_markers=self.missing_markers,
        )


class NumberAxis(_Cut):
    """A number column cut at public ``edges``, the outermost included."""

    type: Literal["number"]
    edges: Edges

    @cached_property
    def edges_of_cells(self) -> tuple[float, ...]:
        """The edges of the cells."""
        return self.edges


class GridAxis(_Cut):
    """A number column, such as days since a day, cut into ``steps`` cells of width ``step`` each."""

    type: Literal["grid"]
    start: float
    step: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=1, le=MAX_CELLS)]

    @cached_property
    def edges_of_cells(self) -> tuple[float, ...]:
        """The edges of the cells."""
        return tuple(self.start + self.step * index for index in range(self.steps + 1))


Axis = Annotated[CategoryAxis | LabelAxis | NumberAxis | GridAxis, Field(discriminator="type")]


class SumOf(Strict):
    """The number column that is summed in every cell, within public bounds."""

    column: ColumnName
    bounds: Bounds
    missing_markers: Words = ()


class CountsDocument(Question):
    """How many records are in each cell of a table, and what a column of them adds up to."""

    computation: Literal["counts"]
    name: Name
    axes: Annotated[tuple[Axis, ...], Field(strict=False, min_length=1, max_length=3)]
    missing: Literal["cell", "skip"] = "cell"
    sum_of: SumOf | None = None
    patient: ColumnName | None = None
    max_rows: Annotated[int, Field(ge=1, le=100_000_000)] = DEFAULT_MAX_ROWS
    rounds: Literal[1] = 1

    @model_validator(mode="after")
    def _consistent(self) -> CountsDocument:
        names = [axis.column for axis in self.axes]
        names += [self.sum_of.column] if self.sum_of else []
        names += [self.patient] if self.patient else []
        if len(set(names)) != len(names):
            raise ValueError("a column has one part: an axis, sum_of or patient")
        if sum(isinstance(axis, LabelAxis) for axis in self.axes) > 1:
            raise ValueError("a table has at most one label axis")
        for axis in self.axes:
            edges = axis.edges_of_cells
            if edges and not (math.isfinite(edges[-1]) and all(low < high for low, high in pairwise(edges))):
                raise ValueError("edges rise, and a grid's step is large enough to tell its edges apart")
            if len({*axis.cells, MISSING}) <= len(axis.cells):
                raise ValueError(f"an axis lists a cell once, and {UNSEEN} and {MISSING} are no values")
        if self.sum_of and not self.sum_of.bounds[0] < self.sum_of.bounds[1]:
            raise ValueError("bounds are [low, high] with low < high")
        if math.prod(self.shape) > MAX_CELLS:
            raise ValueError(f"a table has at most {MAX_CELLS} cells, (unseen) and (missing) ones included")
        self._check_limits()
        return self

    def cells(self, axis: Axis) -> tuple[str, ...]:
        """Return the names of the cells of *axis*, the one for missing values included."""
        return (*axis.cells, MISSING) if self.missing == "cell" else tuple(axis.cells)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The number of cells along each axis."""
        return tuple(len(self.cells(axis)) for axis in self.axes)

    @property
    def contract(self) -> Contract:
        """The contract of the columns that are asked about; every other column of a file stays unread."""
        columns: dict[str, AnyColumn] = {axis.column: axis.reads for axis in self.axes}
        if self.sum_of:
            columns[self.sum_of.column] = NumberColumn(
                type="number",
                bounds=self.sum_of.bounds,
                missing="allowed",
                missing_markers=self.sum_of.missing_markers,
            )
        if self.patient:
            columns[self.patient] = IdentifierColumn(type="identifier", missing="allowed")
        labels = next((axis.labels for axis in self.axes if isinstance(axis, LabelAxis)), ())
        return Contract(columns, labels, self.max_rows)
