"""One of a list of labels for each row: cross entropy, probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from plasmid.bases.specs import Word, distinct
from plasmid.tasks._base import Answers, Counts, Head, Numbers, Problem, Shape, Task, Tensor
from plasmid.tasks.covariates import AnyCovariate
from plasmid.tasks.metrics import label_indices, score


class Classification(Task):
    """With two labels the second one is the positive class of ``auc`` and of a prediction's score."""

    label_types = ("label",)

    kind: Literal["classification"]
    labels: Annotated[tuple[Word, ...], Field(strict=False, min_length=2, max_length=1000)]
    metric: Literal["auc", "accuracy"]

    @property
    def classes(self) -> tuple[str, ...]:
        """See :class:`Task`."""
        return self.labels

    def head(
        self,
        covariates: Sequence[AnyCovariate],
        label: Any,  # noqa: ARG002 - one signature
    ) -> ClassificationHead:
        """See :class:`Task`."""
        return ClassificationHead(labels=list(self.labels), covariates=list(covariates))

    def contradictions(self) -> Iterator[Problem]:
        """See :class:`Task`."""
        if len(set(self.labels)) != len(self.labels):
            yield ("labels",), "a label is listed twice"
        if self.metric == "auc" and len(self.labels) != 2:
            yield ("metric",), f"auc needs exactly 2 labels, the task has {len(self.labels)}; use accuracy"


class ClassificationHead(Head):
    """The labels that the head tells apart, in the order of its outputs.

    ``head.json`` does not name its kind: it is that of adapters from before there were others.
    """

    metrics: ClassVar = ("auc", "accuracy")
    pipeline_tag: ClassVar = "text-classification"

    kind: Literal["classification"] = Field(default="classification", exclude=True)
    labels: Annotated[list[str], Field(min_length=2, max_length=10_000)]

    @model_validator(mode="after")
    def _check(self) -> ClassificationHead:
        distinct(self.labels, "labels")
        return self

    @property
    def width(self) -> int:
        """One output a label."""
        return len(self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """See :class:`Head`."""
        return tuple(self.labels)

    def targets(
        self,
        cells: Sequence[object],
        own: Counts,  # noqa: ARG002 - one signature
    ) -> npt.NDArray[np.int64]:
        """Return the place of each cell among the labels. Raises DataError (``data.label_unknown``)."""
        return label_indices(self.labels, cells)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross entropy of each row."""
        return -outputs.log_softmax(-1).gather(1, targets[:, None])[:, 0]

    def answers(self, outputs: Tensor, temperature: float) -> Tensor:
        """Return the probability of each label."""
        return (outputs / temperature).softmax(-1)

    def score(self, metric: str, answers: Answers, cells: Sequence[object]) -> float:
        """See :class:`Head`."""
        return score(metric, answers.values, label_indices(self.labels, cells))

    def columns(self) -> dict[str, Shape]:
        """One column a label."""
        return dict.fromkeys(self.labels, "number")

    def table(self, answers: Answers) -> dict[str, Sequence[Any] | Numbers]:
        """See :class:`Head`."""
        return {label: answers.values[:, place] for place, label in enumerate(self.labels)}

    def told(self, answer: Numbers) -> dict[str, Any]:
        """Return the most probable label, and all probabilities by label."""
        return {
            "label": self.labels[int(answer.argmax())],
            "probabilities": dict(zip(self.labels, answer.tolist(), strict=True)),
        }

    def brief(self, answer: Numbers) -> Any:
        """Return the probability of label 1 of two; with more labels, all."""
        return float(answer[1]) if len(self.labels) == 2 else answer.tolist()

    def facts(self) -> dict[str, Any]:
        """See :class:`Head`."""
        return {"labels": self.labels}

    def says(self) -> str:
        """See :class:`Head`."""
        return f"tells apart: `{'`, `'.join(self.labels)}`"

    def code(self, logits: str) -> list[str]:
        """See :class:`Head`."""
        return [f"probabilities = ({logits}).softmax(1)"]
