"""The document of ``trees``: gradient-boosted trees over a table of numbers, and no base model.

Rules
-----
1. A feature is a number column, cut at public ``edges``. Edges come from what is known beforehand, or from a
   ``plasmid query counts`` over the same sites; no quantile is taken of anybody's rows unseen.
2. A category has no order to be cut: as 0 and 1 in a column for each value it is a number.
3. Edges are compared as float32, as XGBoost compares them, so that both put every value on the same side.
4. One record's vector has a public length: under ``unit: record`` the noise is for that.
5. A round grows one level of one tree, so that there are ``count`` times ``depth`` rounds.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from plasmid.recipes.bundle import MAX_SIZE
from plasmid.recipes.columns import (
    DEFAULT_MAX_ROWS,
    Column,
    ColumnName,
    Contract,
    NumberColumn,
    Strict,
)
from plasmid.recipes.protection import Limits, Location, Protection, masked_limits, refuse, unit_limits
from plasmid.recipes.schema import FilesSplit, Name, Seed, Sentence
from plasmid.tasks import AnyTask

MAX_EDGES = 63
_UNNAMEABLE = frozenset("[]<")
"""What XGBoost has in no feature's name."""

Edges = Annotated[tuple[float, ...], Field(strict=False, min_length=1, max_length=MAX_EDGES)]


class Feature(Strict):
    """A column, and where it is cut: a value below an edge and one at it are told apart."""

    column: ColumnName
    edges: Edges


class Trees(Strict):
    """What is grown.

    Attributes
    ----------
    learning_rate
        What a leaf's weight is multiplied by.
    l2
        XGBoost's ``lambda``: added to the second derivatives of a leaf.
    min_child_weight
        The least sum of second derivatives on either side of a split.
    """

    count: Annotated[int, Field(ge=1, le=1000)]
    depth: Annotated[int, Field(ge=1, le=8)]
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.3
    l2: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    min_child_weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    features: Annotated[tuple[Feature, ...], Field(strict=False, min_length=1, max_length=1000)]


class TreesData(Strict):
    """The columns, and demonstration data if the recipe ships some."""

    label: ColumnName
    columns: Annotated[dict[ColumnName, Column], Field(min_length=2, max_length=1000)]
    split: FilesSplit | None = None
    max_rows: Annotated[int, Field(ge=1, le=100_000_000)] = DEFAULT_MAX_ROWS


@dataclass(frozen=True)
class Cells:
    """The cells of one feature in a histogram.

    Attributes
    ----------
    edges
        As float32 has them.
    missing
        Whether a value may be missing, which has a cell of its own, the last one.
    start
        The place of the first cell among those of all features.
    """

    column: str
    edges: tuple[float, ...]
    missing: bool
    start: int

    @property
    def bins(self) -> int:
        """The number of cells for values."""
        return len(self.edges) + 1

    @property
    def size(self) -> int:
        """The number of cells."""
        return self.bins + self.missing

    def of(self, value: float | None) -> int:
        """Return the cell of *value*, from 0."""
        return self.bins if value is None else bisect.bisect_right(self.edges, float(np.float32(value)))


class TreesRecipe(Strict):
    """A recipe for trees. Of two labels the second is the positive one."""

    computation: Literal["trees"]
    name: Name
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    description: Sentence = ""
    task: AnyTask
    data: TreesData
    trees: Trees
    federation: Limits = Field(default_factory=Limits)
    privacy: Protection = Field(default_factory=Protection)
    seed: Seed = 0

    @model_validator(mode="after")
    def _consistent(self) -> TreesRecipe:
        refuse(trees_contradictions(dict(self)))
        return self

    @property
    def rounds(self) -> int:
        """The number of rounds."""
        return self.trees.count * self.trees.depth

    @property
    def contract(self) -> Contract:
        """The data contract, as the reader of tables takes it."""
        return Contract(self.data.columns, self.task.classes, self.data.max_rows, self.data.label)

    @property
    def bounds(self) -> tuple[float, float]:
        """The public bounds of the numbers that are learned; 0 and 1 where labels are."""
        found: tuple[float, float] = getattr(self.task, "bounds", (0.0, 1.0))
        return found

    @cached_property
    def cells(self) -> tuple[Cells, ...]:
        """Where each feature is in a histogram, in order."""
        found: list[Cells] = []
        for feature in self.trees.features:
            start = found[-1].start + found[-1].size if found else 0
            column = self.data.columns[feature.column]
            missing = column.missing == "allowed" or not column.required
            found.append(Cells(feature.column, _singles(feature.edges), missing, start))
        return tuple(found)


def record_norm(kind: str, features: int) -> float:
    """Return the L2 norm of the longest record: it is in one cell of each feature.

    There it has (g, 3h), at most 1 long, for labels, and (g / 2, 1) for numbers: see
    :mod:`plasmid.computations.trees`.
    """
    return math.sqrt(features) * (1.0 if kind == "classification" else math.sqrt(2.0))


def trees_contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield ``(path, what)`` for each contradiction between those *sections* that are given."""
    task, data, trees = sections.get("task"), sections.get("data"), sections.get("trees")
    federation, privacy = sections.get("federation"), sections.get("privacy")
    if task:
        yield from ((("task", *path), what) for path, what in task.contradictions())
        if task.kind == "token-classification":
            yield ("task", "kind"), "trees answer for a row, not for its residues"
        elif task.kind == "classification" and len(task.classes) != 2:
            yield ("task", "labels"), f"trees tell two labels apart, not {len(task.classes)}"
    if task and data:
        yield from _label(task, data)
    if trees:
        yield from _edges(trees)
    if trees and data:
        yield from _features(trees, data)
    if federation and privacy:
        yield from masked_limits(federation, privacy)
    if privacy:
        yield from unit_limits(privacy)
        if privacy.unit not in ("none", "record"):
            yield ("privacy", "unit"), f"a histogram protects a record, not a {privacy.unit}"
        if privacy.mechanism not in (None, "dp-fedsgd"):
            yield (
                ("privacy", "mechanism"),
                f"histograms are a sum of records: dp-fedsgd, not {privacy.mechanism}",
            )
    if task and trees and privacy and privacy.record_clip is not None:
        longest = record_norm(task.kind, len(trees.features))
        if privacy.record_clip > 1.001 * longest:
            what = f"no record is longer than {longest:.6g}: {privacy.record_clip:g} would add noise alone"
            yield ("privacy", "record_clip"), what


def _label(task: Any, data: TreesData) -> Iterator[tuple[Location, str]]:
    column = data.columns.get(data.label)
    if column is None:
        yield ("data", "label"), f"names the column {data.label!r}, which data.columns does not hold"
    elif column.type not in task.label_types:
        what = (
            f"the column {data.label!r} is of type {column.type}, label needs {' or '.join(task.label_types)}"
        )
        yield ("data", "label"), what
    elif column.missing == "allowed" or not column.required:
        yield ("data", "columns", data.label), "the label column must be required, with missing: refused"
    else:
        found = task.misfits(label=column, read="", reads="number", covariates=())
        yield from ((path, what) for path, what in found)


def _features(trees: Trees, data: TreesData) -> Iterator[tuple[Location, str]]:
    for place, feature in enumerate(trees.features):
        path: Location = ("trees", "features", place, "column")
        column = data.columns.get(feature.column)
        if column is None:
            yield path, f"names the column {feature.column!r}, which data.columns does not hold"
        elif not isinstance(column, NumberColumn):
            yield path, f"the column {feature.column!r} is of type {column.type}, a feature is a number"
        elif feature.column == data.label:
            yield path, f"the column {feature.column!r} is what is predicted"
        elif _UNNAMEABLE & set(feature.column):
            yield path, "XGBoost has none of [ ] < in a feature's name"


def _edges(trees: Trees) -> Iterator[tuple[Location, str]]:
    named = [feature.column for feature in trees.features]
    width = 0
    for place, feature in enumerate(trees.features):
        if feature.column in named[:place]:
            yield ("trees", "features", place, "column"), f"the column {feature.column!r} is listed twice"
        singles = _singles(feature.edges)
        if not (all(map(math.isfinite, singles)) and all(low < high for low, high in pairwise(singles))):
            yield ("trees", "features", place, "edges"), "edges rise, by more than float32 rounds away"
        width += len(singles) + 2
    size = 2 * width * 2 ** (trees.depth - 1)
    if size > MAX_SIZE:
        yield ("trees", "depth"), f"a level's histograms would hold {size} values, {MAX_SIZE} are the most"


def _singles(edges: tuple[float, ...]) -> tuple[float, ...]:
    with np.errstate(over="ignore"):
        return tuple(float(edge) for edge in np.asarray(edges, np.float32))
