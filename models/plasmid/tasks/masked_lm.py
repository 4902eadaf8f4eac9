"""A base model adapted to unlabelled sequences: it guesses tokens that were masked.

Rules
-----
1. Of a row's own tokens 15 % are chosen, at least one; four in five of these become the mask, one in ten
   another token, one in ten stays (Devlin et al. 2019, https://arxiv.org/abs/1810.04805). The choice follows
   from a seed and the row alone (:func:`masked`), so a row's loss depends on no other row.
2. A row's loss is the mean of the cross entropy over its chosen tokens. So a long sequence counts as much as
   a short one, and a row stays what privacy is counted by.
3. There is no label and no head of ours: the base's own answers, and stays as it is.
4. Metrics are means over rows, with the masks of seed 0: ``masked-loss``, its exponential
   ``pseudo-perplexity``, and ``masked-accuracy``, the share of chosen tokens whose likeliest guess is right.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from plasmid.bases.architectures import OwnHead
from plasmid.core.errors import DataError
from plasmid.tasks._base import (
    IGNORED,
    Answers,
    Counts,
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

Metric = Literal["masked-loss", "masked-accuracy", "pseudo-perplexity"]
COLUMNS = ("masked_loss", "masked_accuracy")
"""Of a prediction file, and of an answer."""


CHOSEN, MASKED, OTHER = 0.15, 0.8, 0.1
"""The share of a row's tokens that are chosen, and of these the shares that become the mask, or another."""


def masked(ids: Counts, seed: int, *, mask: int, others: Counts) -> tuple[Counts, Counts]:
    """Return a row's own tokens with some masked, and what is to be guessed: both int64 [tokens].

    Parameters
    ----------
    ids
        int64 [tokens].
    mask, others
        The mask, and the tokens that may stand in the place of another, int64 [m].
    """
    found, targets = ids.copy(), np.full_like(ids, IGNORED)
    if not len(ids):
        return found, targets
    key = hashlib.sha256(f"{seed} ".encode() + ids.astype("<i8").tobytes()).digest()
    source = np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "little")))
    chosen = source.permutation(len(ids))[: max(1, round(CHOSEN * len(ids)))]
    targets[chosen] = ids[chosen]
    kind = source.random(len(chosen))
    found[chosen[kind < MASKED]] = mask
    changed = chosen[(kind >= MASKED) & (kind < MASKED + OTHER)]
    found[changed] = source.choice(others, len(changed))
    return found, targets


class MaskedLM(Task):
    """Sequences alone; no column is the label."""

    label_types = ()
    own_head = "masked"

    kind: Literal["masked-lm"]
    metric: Metric

    def head(self, covariates: Sequence[AnyCovariate], label: Any) -> MaskedHead:  # noqa: ARG002 - one signature
        """See :class:`Task`."""
        return MaskedHead()

    def misfits(self, *, label: Any, read: str, reads: str, covariates: Sequence[str]) -> Iterator[Problem]:  # noqa: ARG002 - one signature
        """Nothing but the sequence reaches the model."""
        if covariates:
            yield ("adapter", "covariates"), f"masked tokens have none, and {len(covariates)} are named"


class MaskedHead(OwnHeadMixin, Head):
    """The base's own head; see :class:`MaskedLM`."""

    metrics: ClassVar = ("masked-loss", "masked-accuracy", "pseudo-perplexity")
    own_head: ClassVar[OwnHead] = "masked"
    simple: ClassVar[Simple] = "neighbours"
    pipeline_tag: ClassVar = "fill-mask"

    kind: Literal["masked-lm"] = "masked-lm"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy over each row's chosen tokens."""
        chosen = targets != IGNORED
        each = -outputs.log_softmax(-1).gather(1, targets[chosen][:, None])[:, 0]
        return _means(each, chosen)

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of each row's chosen tokens whose likeliest guess is right, float32 [n]."""
        chosen = targets != IGNORED
        return _means((outputs.argmax(-1) == targets[chosen]).float(), chosen)

    def score(self, metric: str, answers: Answers, cells: Sequence[object]) -> float:  # noqa: ARG002 - there are no labels
        """See :class:`Head`."""
        if not len(answers):
            raise DataError("data.empty", "there are no rows to score.", "Give a file with rows.")
        loss, right = (float(one) for one in answers.values.mean(0, dtype=np.float64))
        return {"masked-loss": loss, "masked-accuracy": right}.get(metric, math.exp(loss))

    def columns(self) -> dict[str, Shape]:
        """Loss and accuracy."""
        return dict.fromkeys(COLUMNS, "number")

    def table(self, answers: Answers) -> dict[str, Sequence[Any] | Numbers]:
        """See :class:`Head`."""
        return {name: answers.values[:, place] for place, name in enumerate(COLUMNS)}

    def told(self, answer: Numbers) -> dict[str, Any]:
        """Return loss and accuracy."""
        return dict(zip(COLUMNS, answer.tolist(), strict=True))

    def brief(self, answer: Numbers) -> Any:
        """Return the loss."""
        return float(answer[0])

    def facts(self) -> dict[str, Any]:
        """See :class:`Head`."""
        return {}

    def says(self) -> str:
        """See :class:`Head`."""
        return "guesses tokens that were masked: 15 in 100, the same ones each time"


def _means(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of *values* [chosen tokens] over each row, float32 [n], 0 where there is none."""
    summed = values.new_zeros(len(chosen)).index_add(0, chosen.nonzero()[:, 0], values)
    return summed / chosen.sum(1).clamp(min=1)
