"""What an adapter is made of, as data: LoRA settings and covariates. Heads are :mod:`plasmid.models.tasks`.

Rules
-----
1. Every model is frozen and strict: an unknown key or a value of another type is an error.
2. A category becomes ``len(vocabulary) + 1`` slots, the last one "unseen"; missing is all zeros. The
   vocabulary is public (recipe or public list), never gathered from sites.
3. A number becomes 2 slots: the value clamped to its bounds and scaled to [0, 1] (0 when missing),
   and 1 when missing, else 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from plasmid.core.errors import DataError

Cell = str | float | None
"""One value of a table: text, a number, or None when missing."""
Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^\S(?:[^\x00-\x1f]*\S)?$")]
"""A label or a word of a vocabulary, as a cell may hold it."""


Quantization = Literal["none", "nf4"]
"""How a base's frozen weights are held in training: as float32, or in 4 bits (:mod:`plasmid.lora.nf4`)."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, NaN, infinities and values of another type."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def distinct(values: Sequence[str], what: str) -> None:
    """Raise ValueError if one of *values*, which are *what*, is there twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"{what} are listed twice")


def unless_default(found: dict[str, Any], key: str, default: Any) -> dict[str, Any]:
    """Return *found* without *key* where that is *default*: what was written before there was such a key."""
    return {name: value for name, value in found.items() if (name, value) != (key, default)}


_NO_DORA = (
    "DoRA scales each output of a layer by the length of its row of W + BA, which depends on all of B and A: "
    "the mean over sites of such layers follows from no sum of their tensors, a row's gradient is no product "
    "of what enters and leaves, and adapters in one batch no longer share W x. "
    "Use rslora: true with a larger rank, or targets: [all-linear]"
)


class LoraSpec(Strict):
    """Which linear layers carry LoRA factors, and of which rank.

    Attributes
    ----------
    rank
        Columns of A transposed and of B.
    alpha
        The update is ``scale * B @ A``, the scale ``alpha / rank``.
    rslora
        The scale is ``alpha / sqrt(rank)`` instead (Kalajdzievski 2023, arXiv 2312.03732): gradients keep
        their size as the rank grows.
    targets
        Ends of module paths inside a transformer layer (``"query"``, ``"output.dense"``), or
        ``"all-linear"``.
    layers
        Only the top so many transformer layers; None is all of them.
    """

    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(gt=0, le=65536)]
    targets: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=1, max_length=64)
    ]
    layers: Annotated[int, Field(ge=1, le=1000)] | None = None
    rslora: bool = False

    @model_validator(mode="before")
    @classmethod
    def _no_dora(cls, given: Any) -> Any:
        for key in ("dora", "use_dora"):
            if isinstance(given, Mapping) and given.get(key):
                raise ValueError(f"{key}: {_NO_DORA}")
        return given

    @model_validator(mode="after")
    def _check(self) -> LoraSpec:
        distinct(self.targets, "targets")
        return self

    @property
    def scale(self) -> float:
        """What the product B A is multiplied by."""
        return lora_scale(self.alpha, self.rank, rslora=self.rslora)


def lora_scale(alpha: float, rank: int, *, rslora: bool) -> float:
    """Return PEFT's scale of the product B A."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


class CategoryCovariate(Strict):
    """A column that holds one word of *vocabulary*; any other word is "unseen"."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    type: Literal["category"] = "category"
    vocabulary: Annotated[list[str], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _check(self) -> CategoryCovariate:
        distinct(self.vocabulary, "words of a vocabulary")
        return self

    @property
    def width(self) -> int:
        """The number of slots."""
        return len(self.vocabulary) + 1


class NumberCovariate(Strict):
    """A column that holds a number, clamped to *bounds* (low, high)."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    type: Literal["number"] = "number"
    bounds: Annotated[tuple[float, float], Field(strict=False)]

    @model_validator(mode="after")
    def _check(self) -> NumberCovariate:
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError("bounds are (low, high) with low < high")
        return self

    @property
    def width(self) -> int:
        """The number of slots."""
        return 2


Covariate = Annotated[CategoryCovariate | NumberCovariate, Field(discriminator="type")]


def encode_covariates(
    covariates: Sequence[CategoryCovariate | NumberCovariate],
    columns: Mapping[str, Sequence[Cell]],
    rows: int,
) -> npt.NDArray[np.float32]:
    """Return the head's covariate slots.

    Parameters
    ----------
    covariates
        In the order of their slots.
    columns
        Values by column name, each of length *rows*; None (or NaN) is missing.

    Returns
    -------
    float32 [rows, sum of the covariates' widths]

    Raises
    ------
    DataError
        ``data.column_missing``: *columns* lacks a covariate; ``data.rows_differ``: a column's length
        is not *rows*; ``data.not_a_number``: a number column holds something else.
    """
    absent = [covariate.name for covariate in covariates if covariate.name not in columns]
    if absent:
        raise DataError(
            "data.column_missing",
            f"no column {', '.join(absent)}: the head needs it as a covariate.",
            "Add the column; its cells may be empty.",
        )
    encoded = np.zeros((rows, sum(covariate.width for covariate in covariates)), np.float32)
    start = 0
    for covariate in covariates:
        values = columns[covariate.name]
        if len(values) != rows:
            raise DataError(
                "data.rows_differ",
                f"column {covariate.name} holds {len(values)} values, the table {rows} rows.",
                "Give every column one value per row, None where it is missing.",
            )
        slots = encoded[:, start : start + covariate.width]
        if isinstance(covariate, CategoryCovariate):
            _one_hot(covariate, values, slots)
        else:
            _scaled(covariate, values, slots)
        start += covariate.width
    return encoded


def _one_hot(covariate: CategoryCovariate, values: Sequence[Cell], slots: npt.NDArray[np.float32]) -> None:
    unseen = len(covariate.vocabulary)
    place = {word: slot for slot, word in enumerate(covariate.vocabulary)}
    for row, value in enumerate(values):
        if value is not None:
            slots[row, place.get(value, unseen) if isinstance(value, str) else unseen] = 1.0


def _scaled(covariate: NumberCovariate, values: Sequence[Cell], slots: npt.NDArray[np.float32]) -> None:
    low, high = covariate.bounds
    strange = [row for row, value in enumerate(values) if isinstance(value, str)]
    if strange:
        raise DataError(
            "data.not_a_number",
            f"column {covariate.name} holds text in {len(strange)} rows, first in row {strange[0] + 1}.",
            "A number column holds numbers or empty cells.",
        )
    for row, value in enumerate(values):
        if value is None or math.isnan(float(value)):
            slots[row, 1] = 1.0
        else:
            slots[row, 0] = (min(max(float(value), low), high) - low) / (high - low)
