"""An answer in words: a causal language model goes on with a prompt.

Rules
-----
1. The prompt is the input column's text as a user's turn, behind the task's ``instruction`` as the system's
   if there is one, in the base's chat template (:mod:`plasmid.language.prompts`); the label column's text is
   the answer, with the template's mark of an end behind it.
2. A row's loss is the mean of the cross entropy over the tokens of its answer, the end included, and over
   no token of its prompt. So a long answer counts as much as a short one, and a row stays what privacy is
   counted by.
3. There is no head: the base's own answers. Factors alone are trained, and stock PEFT loads them.
4. ``exact-match`` is the share of rows whose answer, written by taking the likeliest token each time, is the
   label's text but for blanks. ``token-loss`` is the mean of the rows' losses, ``perplexity`` its
   exponential.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, StringConstraints

from plasmid.bases.architectures import OwnHead
from plasmid.core.errors import DataError
from plasmid.tasks._base import (
    IGNORED,
    Answers,
    Head,
    Numbers,
    OwnHeadMixin,
    Problem,
    Shape,
    Simple,
    Task,
    Tensor,
)
from plasmid.tasks.covariates import AnyCovariate

Instruction = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f]*$")]
COLUMN = "answer"
"""Of a prediction file."""


class Causal(Task):
    """``instruction`` is said to the model before each prompt; "" says nothing."""

    label_types = ("text",)
    own_head = "causal"

    kind: Literal["causal"]
    instruction: Instruction = ""
    metric: Literal["exact-match", "token-loss", "perplexity"]

    def head(
        self,
        covariates: Sequence[AnyCovariate],  # noqa: ARG002 - :meth:`misfits` refuses them
        label: Any,
    ) -> CausalHead:
        """See :class:`Task`; an answer has at most as many tokens as the label's column says."""
        return CausalHead(instruction=self.instruction, most=label.max_length)

    def misfits(self, *, label: Any, read: str, reads: str, covariates: Sequence[str]) -> Iterator[Problem]:  # noqa: ARG002 - one signature
        """A prompt is a text, and nothing else reaches the model."""
        if reads != "text":
            yield ("data", "input"), f"is a {reads} column; a prompt is a text"
        if covariates:
            yield ("adapter", "covariates"), f"a causal model has none, and {len(covariates)} are named"


class CausalHead(OwnHeadMixin, Head):
    """The base's own head; see :class:`Causal`. *most* is in tokens, the end included."""

    metrics: ClassVar = ("exact-match", "token-loss", "perplexity")
    loss_metrics: ClassVar = ("token-loss", "perplexity")
    own_head: ClassVar[OwnHead] = "causal"
    simple: ClassVar[Simple] = "phrases"
    pipeline_tag: ClassVar = "text-generation"

    kind: Literal["causal"] = "causal"
    instruction: Instruction
    most: Annotated[int, Field(ge=2, le=8192)]

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy over each row's answer."""
        given = targets != IGNORED
        each = -outputs.log_softmax(-1).gather(1, targets[given][:, None])[:, 0]
        summed = each.new_zeros(len(targets)).index_add(0, given.nonzero()[:, 0], each)
        return summed / given.sum(1).clamp(min=1)

    def of_losses(self, metric: str, losses: Numbers) -> float:
        """See :class:`Head`."""
        if not len(losses):
            raise DataError("data.empty", "there are no rows to score.", "Give a file with labelled rows.")
        loss = float(losses.mean(dtype=np.float64))
        return math.exp(loss) if metric == "perplexity" else loss

    def score(self, metric: str, answers: Answers, cells: Sequence[object]) -> float:  # noqa: ARG002 - the one that is left
        """Return the share of answers that are the cells' text."""
        if not len(cells):
            raise DataError("data.empty", "there are no rows to score.", "Give a file with labelled rows.")
        pairs = zip(answers.values[:, 0], cells, strict=True)
        return sum(_words(one) == _words(other) for one, other in pairs) / len(cells)

    def columns(self) -> dict[str, Shape]:
        """One column."""
        return {COLUMN: "text"}

    def table(self, answers: Answers) -> dict[str, Sequence[Any] | Numbers]:
        """See :class:`Head`."""
        return {COLUMN: [str(one) for one in answers.values[:, 0]]}

    def told(self, answer: Numbers) -> dict[str, Any]:
        """Return the answer."""
        return {COLUMN: str(answer[0])}

    def brief(self, answer: Numbers) -> Any:
        """Return the answer."""
        return str(answer[0])

    def facts(self) -> dict[str, Any]:
        """See :class:`Head`."""
        return {"instruction": self.instruction, "most_tokens": self.most}

    def says(self) -> str:
        """See :class:`Head`."""
        told = f", told before: `{json_text(self.instruction)}`" if self.instruction else ""
        return f"answers in at most {self.most} tokens{told}"


def _words(cell: object) -> list[str]:
    return str(cell).split()


def json_text(text: str) -> str:
    """Return *text* on one line, without backquotes: for a card."""
    return " ".join(text.replace("`", "'").split())
