"""One label for each residue of a sequence.

Rules
-----
1. A cell of the label column is as long as the sequence: one letter for each residue, or the column's
   ``unlabelled`` character, which takes no part in loss and metric.
2. A sequence's tokens of its own are its residues, in order: that is what tokenizers of proteins are checked
   for. Where a sequence was cut, so are its labels.
3. A row's loss is the mean of the cross entropy over its labelled residues, 0 where there are none: a long
   sequence counts as much as a short one, and a row stays what privacy is counted by.
4. Metrics are over the labelled residues of all rows together.
5. There are no covariates: they say nothing of one residue that they do not say of the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StringConstraints, model_validator

from plasmid.bases.specs import distinct
from plasmid.core.errors import DataError
from plasmid.tasks._base import IGNORED, Answers, Counts, Head, Numbers, Problem, Shape, Task, Tensor
from plasmid.tasks.covariates import AnyCovariate
from plasmid.tasks.metrics import score

Letter = Annotated[str, StringConstraints(pattern=r"^[!-~]$")]
"""A label or the sign for none: one printable ASCII character."""
COLUMN = "prediction"
"""Of a prediction file: the most probable labels, a string as long as the sequence."""


class TokenClassification(Task):
    """``labels`` are one-character codes."""

    label_types = ("residue_labels",)

    kind: Literal["token-classification"]
    labels: Annotated[tuple[Letter, ...], Field(strict=False, min_length=2, max_length=90)]
    metric: Literal["accuracy", "macro-f1"]

    @property
    def classes(self) -> tuple[str, ...]:
        """See :class:`Task`."""
        return self.labels

    def head(
        self,
        covariates: Sequence[AnyCovariate],  # noqa: ARG002 - :meth:`misfits` refuses them
        label: Any,
    ) -> TokenHead:
        """See :class:`Task`."""
        return TokenHead(labels=list(self.labels), unlabelled=label.unlabelled)

    def contradictions(self) -> Iterator[Problem]:
        """See :class:`Task`."""
        if len(set(self.labels)) != len(self.labels):
            yield ("labels",), "a label is listed twice"

    def misfits(self, *, label: Any, read: str, reads: str, covariates: Sequence[str]) -> Iterator[Problem]:
        """Residues are those of the input, and nothing else reaches the head."""
        if reads != "protein":
            yield ("data", "input"), f"is a {reads} column; only a protein has one label for each residue"
        elif label.of != read:
            yield ("data", "label"), f"labels the residues of {label.of!r}, but data.input is {read!r}"
        if label.unlabelled in self.labels:
            yield ("task", "labels"), f"{label.unlabelled!r} says that a residue has no label"
        if covariates:
            what = f"a label for each residue has no covariates, and {len(covariates)} are named"
            yield ("adapter", "covariates"), f"{what}; leave them out"

    def strata(self, cells: Sequence[str]) -> list[str]:
        """Return the most frequent label of each row."""
        known = set(self.labels)
        counts = [Counter(letter for letter in cell if letter in known) for cell in cells]
        return [max(sorted(count), key=count.__getitem__, default="") for count in counts]


class TokenHead(Head):
    """The labels of a residue, in the order of the outputs; see :class:`TokenClassification`."""

    per_token: ClassVar = True
    metrics: ClassVar = ("accuracy", "macro-f1")
    simple: ClassVar = "window"
    pipeline_tag: ClassVar = "token-classification"

    kind: Literal["token-classification"] = "token-classification"
    labels: Annotated[list[Letter], Field(min_length=2, max_length=90)]
    unlabelled: Letter

    @model_validator(mode="after")
    def _check(self) -> TokenHead:
        distinct([*self.labels, self.unlabelled], "labels")
        if self.covariates:
            raise ValueError("a label for each residue has no covariates")
        return self

    @property
    def width(self) -> int:
        """One output a label."""
        return len(self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """See :class:`Head`."""
        return tuple(self.labels)

    def targets(self, cells: Sequence[object], own: Counts) -> npt.NDArray[np.int64]:
        """Return the place of each residue's label. Raises DataError (``data.residue_labels``)."""
        places = {ord(letter): place for place, letter in enumerate(self.labels)}
        known = np.full(128, IGNORED - 1, np.int64)
        known[ord(self.unlabelled)] = IGNORED
        known[list(places)] = list(places.values())
        found, strange = [np.empty(0, np.int64)], []
        for row, (cell, residues) in enumerate(zip(cells, own.tolist(), strict=True)):
            letters = cell.encode() if isinstance(cell, str) and cell.isascii() else b""
            targets = known[np.frombuffer(letters, np.uint8)[:residues]]
            if len(targets) < residues or (targets < IGNORED).any():
                strange.append(row)
            found.append(targets)
        if strange:
            raise DataError(
                "data.residue_labels",
                f"{len(strange)} rows have no label for each residue, first row {strange[0] + 1}.",
                f"One of {''.join(self.labels)} for each, or {self.unlabelled} where it has no label.",
            )
        return np.concatenate(found)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy of each row's labelled residues."""
        labelled = targets != IGNORED
        each = -outputs.log_softmax(-1).gather(2, targets.clamp(min=0)[:, :, None])[:, :, 0]
        return (each * labelled).sum(1) / labelled.sum(1).clamp(min=1)

    def answers(self, outputs: Tensor, temperature: float) -> Tensor:
        """Return the probability of each label at each residue."""
        return (outputs / temperature).softmax(-1)

    def score(self, metric: str, answers: Answers, cells: Sequence[object]) -> float:
        """See :class:`Head`."""
        assert answers.starts is not None, "one answer a residue"
        truth = self.targets(cells, np.diff(answers.starts))
        labelled = truth != IGNORED
        return score(metric, answers.values[labelled], truth[labelled])

    def columns(self) -> dict[str, Shape]:
        """The labels as a string, then the probabilities of each label, one for each residue."""
        return {COLUMN: "text", **dict.fromkeys(self.labels, "numbers")}

    def table(self, answers: Answers) -> dict[str, Sequence[Any] | Numbers]:
        """See :class:`Head`."""
        rows = list(answers)
        return {
            COLUMN: [self._string(row) for row in rows],
            **{label: [row[:, place] for row in rows] for place, label in enumerate(self.labels)},
        }

    def told(self, answer: Numbers) -> dict[str, Any]:
        """Return the labels as a string, and of each residue the probabilities in the order of the labels."""
        return {"label": self._string(answer), "probabilities": answer.tolist()}

    def brief(self, answer: Numbers) -> Any:
        """Return :meth:`told`."""
        return self.told(answer)

    def facts(self) -> dict[str, Any]:
        """See :class:`Head`."""
        return {"labels": self.labels}

    def says(self) -> str:
        """See :class:`Head`."""
        return f"gives each residue one of the labels `{'`, `'.join(self.labels)}`"

    def code(self, logits: str) -> list[str]:
        """See :class:`Head`."""
        return [
            f"pairs = zip({logits}, own[:, :, 0] == 1)",
            "probabilities = [row[residues].softmax(1) for row, residues in pairs]",
        ]

    def _string(self, answer: Numbers) -> str:
        return "".join(self.labels[place] for place in answer.argmax(-1).tolist())
