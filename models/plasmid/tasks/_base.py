"""What every kind of task has to say; each kind is one file beside this one.

    Task    the ``task`` section of a recipe: what is learned, and by which metric it is judged
    Head    what the trained head needs to know, and all that is done with it, from cells to answers

Rules
-----
1. A head is one linear layer: on the mean of the encoder's output over a row's own tokens and the
   covariates, or, where it is *per token*, on the output at each of these tokens. Or it is the base's own,
   which stays as it is, and the factors alone are trained.
2. Nobody else asks which kind it is: what a cell becomes, the loss of a row, what logits answer and how that
   is written, judged and described follow from the head alone.
3. The loss is one number for each row, whatever the row holds: a row is what privacy is counted by.
4. No import of torch or scikit-learn, not even in a method: gateways read heads, and have neither. Tensors
   are handled by their own methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from plasmid.bases.architectures import OwnHead
from plasmid.bases.specs import Strict, distinct
from plasmid.tasks.covariates import AnyCovariate, Covariate
from plasmid.tasks.metrics import FEWER_IS_BETTER

Tensor = Any
"""Of torch, which is not imported here."""
Numbers = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Problem = tuple[tuple[str, ...], str]
"""Where in the recipe, and what."""
Simple = Literal["logistic", "ridge", "window", "phrases", "neighbours"]
"""A classical model."""
Shape = Literal["number", "text", "numbers"]
"""What a cell of a prediction file holds."""

IGNORED = -100
"""The target of a token that has none; torch's own word for it."""


@dataclass(frozen=True)
class Answers:
    """What a head says of rows.

    Attributes
    ----------
    values
        float32 [rows, width]; or of each own token of all rows, back to back, [tokens, width]. Texts are
        objects, [rows, 1].
    starts
        Row i is ``values[starts[i]:starts[i + 1]]``, int64 [rows + 1]; None where a row is one line.
    """

    values: Numbers
    starts: Counts | None = None

    def __len__(self) -> int:
        return len(self.values) if self.starts is None else len(self.starts) - 1

    def __iter__(self) -> Iterator[Numbers]:
        return (self.row(place) for place in range(len(self)))

    def row(self, place: int) -> Numbers:
        """Return one row's answer, [width] or [own tokens, width]."""
        if self.starts is None:
            found: Numbers = self.values[place]
            return found
        return self.values[int(self.starts[place]) : int(self.starts[place + 1])]


class Head(Strict, ABC):
    """A head: one kind's settings and its covariates. It is ``head`` in an adapter's ``head.json``.

    Attributes
    ----------
    per_token
        It answers for each token of a row, not for the row.
    probabilistic
        Its answers are probabilities, which a temperature can calibrate.
    metrics
        What it can be judged by.
    loss_metrics
        Those of them that follow from the rows' losses (:meth:`of_losses`), not from answers.
    own_head
        Which head of the base's own answers; ``none``: the one that is trained.
    simple
        Which classical model it is compared with (:mod:`plasmid.experiments.simple`).
    pipeline_tag
        What the Hugging Face hub calls such a model; None where it has no word.
    """

    per_token: ClassVar[bool] = False
    probabilistic: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]]
    loss_metrics: ClassVar[tuple[str, ...]] = ()
    own_head: ClassVar[OwnHead] = "none"
    simple: ClassVar[Simple] = "logistic"
    pipeline_tag: ClassVar[str | None]

    kind: str
    covariates: Annotated[list[Covariate], Field(max_length=1000)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_covariates(self) -> Head:
        distinct([covariate.name for covariate in self.covariates], "covariates")
        if self.covariates and self.own_head != "none":
            raise ValueError("the base's own head reads no covariates")
        return self

    @model_serializer(mode="wrap")
    def _covariates_last(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        covariates = {name: found.pop(name) for name in ("covariates",) if name in found}
        return found | covariates

    @property
    def needs(self) -> tuple[str, ...]:
        """The modules of extras that its covariates need."""
        return tuple(sorted({module for one in self.covariates for module in one.needs}))

    @property
    def covariate_width(self) -> int:
        """The number of slots that all covariates take."""
        return sum(covariate.width for covariate in self.covariates)

    @property
    @abstractmethod
    def width(self) -> int:
        """The number of the head's outputs; 0 where it is the base's own."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels in the order of the outputs; none where the answer is no label."""
        return ()

    # -- training ----------------------------------------------------------------------------------

    @abstractmethod
    def targets(self, cells: Sequence[object], own: Counts) -> npt.NDArray[Any]:
        """Return what is to be learned from the label column.

        Parameters
        ----------
        cells
            [rows].
        own
            How many tokens of its own each row has, int64 [rows].

        Returns
        -------
        int64 or float32 [rows]; where the head is per token, int64 [sum of *own*], back to back, with
        :data:`IGNORED` for what has no label.

        Raises
        ------
        DataError
            Cells that are no labels of this head: how many, and the first row.
        """

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, float32 [n].

        Parameters
        ----------
        outputs
            float32 [n, width], or [n, tokens, width]; of a head of the base's own, at the tokens that have a
            target alone, row after row, [tokens with a target, vocabulary].
        targets
            As :meth:`targets`: [n], or [n, tokens] padded with :data:`IGNORED`.
        """

    # -- answers -----------------------------------------------------------------------------------

    @abstractmethod
    def answers(self, outputs: Tensor, temperature: float) -> Tensor:
        """Return what *outputs* [..., width] say, float32 [..., width]; they are divided by *temperature*."""

    @abstractmethod
    def score(self, metric: str, answers: Answers, cells: Sequence[object]) -> float:
        """Return *metric* of *answers* against the label column.

        Raises
        ------
        UsageError
            ``usage.metric_unknown``.
        DataError
            As :meth:`targets` and :mod:`plasmid.tasks.metrics`.
        """

    def of_losses(self, metric: str, losses: Numbers) -> float:
        """Return *metric*, one of :attr:`loss_metrics`, from the loss of each row, float32 [rows]."""
        raise NotImplementedError(metric, len(losses))

    @abstractmethod
    def columns(self) -> dict[str, Shape]:
        """Return the columns of a prediction file, in order."""

    @abstractmethod
    def table(self, answers: Answers) -> dict[str, Sequence[Any] | Numbers]:
        """Return the cells of :meth:`columns` for *answers*, each [rows]."""

    @abstractmethod
    def told(self, answer: Numbers) -> dict[str, Any]:
        """Return one row's answer as ``/v1/predict`` gives it, JSON values."""

    @abstractmethod
    def brief(self, answer: Numbers) -> Any:
        """Return one row's answer as ``plasmid predict`` without a file gives it, a JSON value."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what a caller has to know to read an answer, JSON values."""

    # -- words -------------------------------------------------------------------------------------

    @abstractmethod
    def says(self) -> str:
        """Return what the head does with a row, for "It reads X and ..."."""

    @abstractmethod
    def code(self, logits: str) -> list[str]:
        """Return lines of Python from the expression *logits* to the answer.

        Where the head is per token, *logits* is [rows, tokens, width] and ``own`` [rows, tokens, 1] is 1 for
        a row's own tokens.
        """


class OwnHeadMixin:
    """What all heads have in common that are the base's own."""

    per_token: ClassVar = True
    probabilistic: ClassVar = False

    @property
    def width(self) -> int:
        """None of ours."""
        return 0

    def targets(self, cells: Sequence[object], own: Counts) -> npt.NDArray[Any]:  # noqa: ARG002 - one signature
        """Return nothing: which token is a target at which place is the model's to say."""
        return np.empty(0, np.int64)

    def answers(self, outputs: Tensor, temperature: float) -> Tensor:
        """Return the probability of each token of the vocabulary."""
        return (outputs / temperature).softmax(-1)

    def code(self, logits: str) -> list[str]:
        """Return *logits*: :mod:`plasmid.adapters.language_card` has the lines around it."""
        return [logits]


class Task(Strict, ABC):
    """The ``task`` section of a recipe.

    Attributes
    ----------
    label_types
        The types that the label's column may have; none: the task has no label.
    own_head
        As the head's: which base models it is for.
    """

    label_types: ClassVar[tuple[str, ...]]
    own_head: ClassVar[OwnHead] = "none"

    kind: str
    metric: str
    description: Annotated[str, StringConstraints(max_length=4000)] = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, in order; none where what is learned is no label."""
        return ()

    @property
    def fewer_is_better(self) -> bool:
        """Whether a smaller value of the metric is the better one."""
        return self.metric in FEWER_IS_BETTER

    @abstractmethod
    def head(self, covariates: Sequence[AnyCovariate], label: Any) -> Head:
        """Return the head.

        Parameters
        ----------
        label
            The contract of the label's column; None where the task has none.
        """

    def contradictions(self) -> Iterator[Problem]:
        """Yield what is wrong within the section, by the path in it."""
        yield from ()

    def misfits(self, *, label: Any, read: str, reads: str, covariates: Sequence[str]) -> Iterator[Problem]:  # noqa: ARG002 - nothing to say
        """Yield what does not fit the data, by the path in the recipe.

        Parameters
        ----------
        label
            The contract of the label's column, of one of :attr:`label_types`; None where there are none.
        read, reads
            The input column's name and type.
        covariates
            Names of the adapter's covariates.
        """
        yield from ()

    def strata(self, cells: Sequence[str]) -> list[str]:
        """Return the groups by which demonstration data are dealt to sites, [rows]: like labels together."""
        return list(cells)
