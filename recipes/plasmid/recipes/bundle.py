"""Recipes that compute what their own Python says, and train no base model.

Rules
-----
1. What the code returns (tensors, bound) and what becomes of the sum (``advance``) are declared, so that no
   Python of a recipe runs at a gateway or at the coordinator.
2. ``per_record`` is bounded per record by the node and summed. Under a privacy unit every record is computed
   apart from all others (:mod:`plasmid.worker.per_record`), so that one record moves one vector.
3. ``vector`` is opaque: under a privacy unit it is noised for its whole bound (``mechanism: output``). So is
   what a Flower ``ClientApp`` (``flower``) makes of the state: its vector is the change, and rows are a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from plasmid.core.problems import did_you_mean
from plasmid.recipes.columns import (
    DEFAULT_MAX_ROWS,
    Column,
    ColumnName,
    Contract,
    IdentifierColumn,
    LabelColumn,
    Strict,
)
from plasmid.recipes.protection import Clip, Limits, Location, Protection, masked_limits, refuse, unit_limits
from plasmid.recipes.python import Code
from plasmid.recipes.schema import FilesSplit, Name, Seed, Sentence
from plasmid.recipes.server import Server, server_contradictions

MAX_SIZE = 2**24
"""The most values that a bundle's vector holds."""
MAX_TURNS = 10**6

TensorShape = Annotated[
    tuple[Annotated[int, Field(ge=1, le=MAX_SIZE)], ...], Field(strict=False, min_length=1, max_length=8)
]
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=200)]
Finite = Annotated[float, Field(ge=-1e9, le=1e9)]


class Drawn(Strict):
    """Normal numbers around zero that follow from the recipe's seed and the tensor's name."""

    std: Annotated[float, Field(gt=0, le=1e9)]


class Bundle(Code):
    """``per_record(state, row, settings)``, ``vector(state, view, settings)``, or a ``ClientApp``.

    Attributes
    ----------
    tensors
        What one vector consists of: shapes by name; :attr:`ordered` is their order.
    initial
        The first state, by tensor: one number for all its elements, each of them in C order, or
        :class:`Drawn`. Zero where it is not given.
    dtype
        Of the arrays that a ``ClientApp`` is given.
    bound
        Largest absolute value of a coordinate of one record's vector, or of the site's (``vector``).
    advance
        What the next state is: the ``total``, the ``mean`` over the sites, or an ``update``: the state plus
        that mean.
    record_ms
        Under a privacy unit: how long each of ``data.max_rows`` turns of ``per_record`` takes, whatever it
        holds. A record that needs longer counts as zero.
    """

    half: Literal["per_record", "vector", "flower"]
    tensors: Annotated[dict[TensorName, TensorShape], Field(min_length=1, max_length=1000)]
    initial: Annotated[
        dict[
            TensorName, Finite | Annotated[tuple[Finite, ...], Field(strict=False, max_length=10_000)] | Drawn
        ],
        Field(max_length=1000),
    ] = Field(default_factory=dict)
    dtype: Literal["float32", "float64"] = "float32"
    bound: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    advance: Literal["total", "mean", "update"] = "total"
    record_ms: Annotated[int, Field(ge=1, le=60_000)] = 50

    @property
    def size(self) -> int:
        """The number of values of one vector."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    @property
    def ordered(self) -> list[tuple[str, tuple[int, ...]]]:
        """Name and shape of each tensor, by name; numbers in names count as such, so that 10 follows 9."""

        def place(name: str) -> list[tuple[bool, int, str]]:
            parts = name.split(".")
            return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]

        return [(name, tuple(self.tensors[name])) for name in sorted(self.tensors, key=place)]

    @model_validator(mode="after")
    def _fits(self) -> Bundle:
        problems = []
        if self.size > MAX_SIZE:
            problems.append(f"its tensors hold {self.size} values, {MAX_SIZE} are the most")
        for name, first in self.initial.items():
            size = math.prod(self.tensors.get(name, ()))
            if name not in self.tensors:
                near = did_you_mean(name, self.tensors)
                problems.append(f"initial names {name}{near}, which is no tensor")
            elif isinstance(first, tuple) and len(first) != size:
                problems.append(f"initial gives {name} {len(first)} values, its shape has {size}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class BundleData(Strict):
    """The columns that the code may see, and demonstration data if the recipe ships some."""

    columns: Annotated[dict[ColumnName, Column], Field(min_length=1, max_length=1000)]
    split: FilesSplit | None = None
    max_rows: Annotated[int, Field(ge=1, le=100_000_000)] = DEFAULT_MAX_ROWS


class BundleLimits(Limits):
    """The rounds, who must take part, and the optimiser that steps along the mean update, if there is one."""

    rounds: Annotated[int, Field(ge=1, le=100_000)] = 1
    server: Server | None = None


class BundlePrivacy(Protection):
    """``update_clip``: the largest L2 norm of one site's vector in one round; a longer one is scaled down."""

    update_clip: Clip | None = None


class BundleRecipe(Strict):
    """A recipe of one half in Python over a table."""

    computation: Literal["bundle"]
    name: Name
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    description: Sentence = ""
    data: BundleData
    bundle: Bundle
    federation: BundleLimits = Field(default_factory=BundleLimits)
    privacy: BundlePrivacy = Field(default_factory=BundlePrivacy)
    seed: Seed = 0

    @model_validator(mode="after")
    def _consistent(self) -> BundleRecipe:
        refuse(bundle_contradictions(dict(self)))
        return self

    @property
    def rounds(self) -> int:
        """The number of rounds."""
        return self.federation.rounds

    @property
    def contract(self) -> Contract:
        """The data contract, as the reader of tables takes it."""
        return Contract(self.data.columns, (), self.data.max_rows)


def bundle_contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield ``(path, what)`` for each contradiction between those *sections* that are given."""
    data, bundle = sections.get("data"), sections.get("bundle")
    federation, privacy = sections.get("federation"), sections.get("privacy")
    for name, column in data.columns.items() if data else ():
        if isinstance(column, LabelColumn | IdentifierColumn):
            what = f"code sees no {column.type} column; make it a category, a number or a text"
            yield ("data", "columns", name), what
    if federation and privacy:
        yield from masked_limits(federation, privacy)
    if privacy:
        yield from unit_limits(privacy)
        yield from _figures(privacy)
    if bundle:
        yield from _stepped(bundle, federation)
    yield from server_contradictions(sections)
    if not (privacy and bundle and privacy.record_clip is not None):
        return
    if bundle.half != "per_record":
        whole = "a finished vector" if bundle.half == "vector" else "what a ClientApp has trained on all rows"
        yield ("privacy", "mechanism"), f"nobody can clip a record inside {whole}; use output"
    elif data and data.max_rows > MAX_TURNS:
        yield ("data", "max_rows"), f"{data.max_rows} turns are too many, {MAX_TURNS} are the most"
    elif data and federation and data.max_rows * bundle.record_ms > 900 * federation.round_timeout_s:
        turns = f"{data.max_rows} turns of bundle.record_ms: {bundle.record_ms}"
        what = (
            f"{turns} do not fit into nine tenths of federation.round_timeout_s: {federation.round_timeout_s}"
        )
        yield ("data", "max_rows"), what


def _stepped(bundle: Bundle, federation: BundleLimits | None) -> Iterator[tuple[Location, str]]:
    if bundle.half == "flower":
        if bundle.advance != "update":
            what = f"the vector of a ClientApp is what it changed; {bundle.advance} of that is no state of it"
            yield ("bundle", "advance"), f"{what}, use update"
        for name, value in bundle.settings.items():
            if isinstance(value, tuple):
                yield ("bundle", "settings", name), "Flower's configuration has no lists"
    if federation and federation.server and bundle.advance != "update":
        yield ("federation", "server"), f"steps along the mean update; bundle.advance is {bundle.advance}"


def _figures(privacy: BundlePrivacy) -> Iterator[tuple[Location, str]]:
    if privacy.mechanism == "dp-sgd":
        yield ("privacy", "mechanism"), "dp-sgd is for training; a bundle's sums share their noise"
    if privacy.unit == "patient":
        yield ("privacy", "unit"), "a bundle's sum protects a record or a site, it has no patients"
    if privacy.mechanism == "output" and privacy.update_clip is None:
        yield ("privacy", "update_clip"), "is needed with mechanism: output, whose noise is for it"
