"""One number for each row, within bounds that the recipe names.

Rules
-----
1. A target is clipped to the bounds and scaled to [-1, 1] by them, never by anything of a site's data. An
   untrained head, all zeros, says their middle.
2. The loss is the squared error of the scaled target. A clipped target is at most 2 from every answer within
   the bounds, so there are no outliers for Huber's loss to tame, and the squared error has the mean as its
   minimum, by which rmse and r2 judge.
3. An answer is in the label's unit and within the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from plasmid.bases.specs import Word
from plasmid.core.errors import DataError
from plasmid.tasks._base import Answers, Counts, Head, Numbers, Problem, Shape, Task, Tensor
from plasmid.tasks.covariates import AnyCovariate
from plasmid.tasks.metrics import score

Bounds = Annotated[tuple[float, float], Field(strict=False)]
COLUMN = "prediction"
"""Of a prediction file."""
_STRATA = 10


def _ordered(bounds: tuple[float, float]) -> None:
    if not (bounds[0] < bounds[1] and math.isfinite(bounds[1] - bounds[0])):
        raise ValueError("bounds are [low, high] with low < high")


class Regression(Task):
    """``unit`` is what the label is measured in (UCUM; ``1`` for a pure number)."""

    label_types = ("number",)

    kind: Literal["regression"]
    unit: Word
    bounds: Bounds
    metric: Literal["spearman", "rmse", "mae", "r2"]

    @model_validator(mode="after")
    def _check(self) -> Regression:
        _ordered(self.bounds)
        return self

    def head(self, covariates: Sequence[AnyCovariate], label: Any) -> RegressionHead:  # noqa: ARG002 - one signature
        """See :class:`Task`."""
        return RegressionHead(unit=self.unit, bounds=self.bounds, covariates=list(covariates))

    def misfits(self, *, label: Any, read: str, reads: str, covariates: Sequence[str]) -> Iterator[Problem]:  # noqa: ARG002 - one signature
        """Bounds and unit have to be possible ones of the label's column."""
        low, high = label.bounds
        if self.bounds[0] < low or self.bounds[1] > high:
            own = f"{self.bounds[0]:g} to {self.bounds[1]:g}"
            yield ("task", "bounds"), f"{own} lie outside the label column's, {low:g} to {high:g}"
        if label.unit is not None and label.unit != self.unit:
            yield ("task", "unit"), f"is {self.unit!r}, the label column's is {label.unit!r}"

    def strata(self, cells: Sequence[str]) -> list[str]:
        """Return the tenth in which each value is."""
        values = np.array([_number(cell) for cell in cells])
        edges = np.nanquantile(values, np.arange(1, _STRATA) / _STRATA)
        return [str(place) for place in np.searchsorted(edges, values, side="right").tolist()]


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


class RegressionHead(Head):
    """One output; see :class:`Regression`."""

    probabilistic: ClassVar = False
    metrics: ClassVar = ("spearman", "rmse", "mae", "r2")
    simple: ClassVar = "ridge"
    pipeline_tag: ClassVar = None

    kind: Literal["regression"] = "regression"
    unit: Annotated[str, Field(min_length=1, max_length=200)]
    bounds: Bounds

    @model_validator(mode="after")
    def _check(self) -> RegressionHead:
        _ordered(self.bounds)
        return self

    @property
    def width(self) -> int:
        """One."""
        return 1

    @property
    def _half(self) -> float:
        return (self.bounds[1] - self.bounds[0]) / 2

    def targets(
        self,
        cells: Sequence[object],
        own: Counts,  # noqa: ARG002 - one signature
    ) -> npt.NDArray[np.float32]:
        """Return the scaled cells, float32 [rows]. Raises DataError (``data.not_a_number``)."""
        clipped = np.clip(_values(cells), *self.bounds)
        return ((clipped - self.bounds[0]) / self._half - 1.0).astype(np.float32)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the squared error of each row."""
        return (outputs[:, 0] - targets).square()

    def answers(self, outputs: Tensor, temperature: float) -> Tensor:  # noqa: ARG002 - there are no probabilities
        """Return the number in its unit, [..., 1]."""
        return self.bounds[0] + (outputs.clamp(-1.0, 1.0) + 1.0) * self._half

    def score(self, metric: str, answers: Answers, cells: Sequence[object]) -> float:
        """See :class:`Head`; cells are taken as they are, not clipped."""
        return score(metric, answers.values[:, 0], _values(cells))

    def columns(self) -> dict[str, Shape]:
        """One column."""
        return {COLUMN: "number"}

    def table(self, answers: Answers) -> dict[str, Sequence[Any] | Numbers]:
        """See :class:`Head`."""
        return {COLUMN: answers.values[:, 0]}

    def told(self, answer: Numbers) -> dict[str, Any]:
        """Return the number."""
        return {"value": float(answer[0])}

    def brief(self, answer: Numbers) -> Any:
        """Return the number."""
        return float(answer[0])

    def facts(self) -> dict[str, Any]:
        """See :class:`Head`."""
        return {"unit": self.unit, "bounds": list(self.bounds)}

    def says(self) -> str:
        """See :class:`Head`."""
        low, high = self.bounds
        return f"predicts a number from {low:g} to {high:g} (unit: `{self.unit}`)"

    def code(self, logits: str) -> list[str]:
        """See :class:`Head`."""
        middle = (self.bounds[0] + self.bounds[1]) / 2
        return [f"values = ({logits})[:, 0].clamp(-1, 1) * {self._half!r} + {middle!r}"]


def _values(cells: Sequence[object]) -> npt.NDArray[np.float64]:
    strange = [
        row
        for row, cell in enumerate(cells)
        if isinstance(cell, bool) or not isinstance(cell, int | float) or not math.isfinite(cell)
    ]
    if strange:
        raise DataError(
            "data.not_a_number",
            f"{len(strange)} rows hold a label that is no number, first in row {strange[0] + 1}.",
            "Write decimal numbers, with a point and without units.",
        )
    return np.asarray(cells, np.float64)
