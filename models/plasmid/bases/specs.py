"""What an adapter is made of, as data: LoRA settings, and what all such models have in common.

Heads are :mod:`plasmid.tasks`, what they read beside the encoding :mod:`plasmid.tasks.covariates`.
Every model is frozen and strict: an unknown key or a value of another type is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

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
