"""The only training loop: one site's (or one baseline's) steps from a given adapter state.

Rules
-----
1. The base model and the encoded table are kept between calls (rows that are no table in memory are encoded
   as they are drawn, and forgotten); every call starts from the state it is
   given with a fresh optimiser. The same state, steps and seed give the same result on the same machine.
2. Three groups of parameters with a learning rate each: LoRA factors (B's may be a multiple of A's), head,
   covariate weights; all of them times the factor of the step, which whoever calls knows. Factors with a rate
   of 0 are frozen: they stay as they are given, have no part in clip and noise, and the encoder runs
   once a row. What does not learn in a call (the method says what does) is frozen for that call.
3. Batches come from seeded permutations (:mod:`plasmid.worker.order`). Under a privacy unit they are
   Poisson samples, and gradients are clipped and noised (:mod:`plasmid.worker.dp`). What a task draws, such
   as masks, follows from the call's seed, the step and each row alone.
4. The computation, or the document's own Python, says what is minimised (the mean of its losses by row), and
   nothing else.
5. With LoRA on the top layers only, the activations below are computed once and kept, up to
   :data:`MAX_CACHE_BYTES`.
6. A result that isn't finite never leaves. Nothing from a row is logged or put into an error.
7. A trainable tensor that two calls could have moved, and that no gradient reached, ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy

import numpy as np
import torch
from accelerate import Accelerator

from plasmid.adapters.adapter import AdapterSchema, Vector
from plasmid.bases.specs import Cell
from plasmid.bases.store import BaseModel
from plasmid.computations import finetune
from plasmid.computations._factors import UP
from plasmid.computations.api import Part
from plasmid.core.errors import DataError, RunFailed
from plasmid.data.table import Drawn, Table
from plasmid.dp.noise import Source
from plasmid.encoders.batches import Batch, Rows
from plasmid.encoders.encoder import AdaptedModel
from plasmid.recipes.schema import Recipe
from plasmid.tasks import Answers
from plasmid.worker.dp import ClippedSum, Gathered, Health, Indices, UnitSampling, draw
from plasmid.worker.order import order
from plasmid.worker.precision import chosen_precision

MAX_CACHE_BYTES = 2 * 2**30
"""A table whose lower activations take more is run through the whole encoder at every step."""

EVERYTHING: frozenset[Part] = frozenset({"A", "B", "core", "head", "covariates"})

_STEPS = 2**32
"""More than a call has: what one call draws, no other does."""
MICRO_ROWS = 64
MAX_GATHERED_BYTES = 512 * 2**20
"""How many rows, and how much of their gradients, exist at a time."""


class Engine:
    """A base model with an adapter, and one table to train it on.

    Parameters
    ----------
    table
        Holds the recipe's input, label and covariate columns. Anything but a :class:`Table` is larger than
        memory: of it, only the rows of the present step are looked at.
    device
        ``"auto"`` is a GPU if there is one, else the CPU; or ``"cpu"``.
    progress
        Called after each step with (steps done, steps in all).
    should_stop
        Asked before each step and each batch of the cache; True ends the call.
    loss
        ``loss(model, batch)`` returns the loss of each row, [n]; None is that of the computation.
    checkpointing
        Keep no activations inside the transformer layers: less memory, one more forward pass a step.
    frames
        Those factors B that are held as cores, see :meth:`AdaptedModel.hold_cores`.

    Attributes
    ----------
    schema
        The adapter's tensors.
    precision
        ``"bf16"`` or ``"fp32"``: what ``training.precision`` came to on this device.

    Raises
    ------
    ModelError, DataError
        As :meth:`plasmid.encoders.encoder.AdaptedModel.load` and ``encode``.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: BaseModel,
        table: Drawn,
        *,
        device: str = "auto",
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        loss: Callable[[AdaptedModel, Batch], torch.Tensor] | None = None,
        checkpointing: bool = False,
        frames: Mapping[str, Vector] | None = None,
    ) -> None:
        self._recipe = recipe
        self._progress = progress
        self._should_stop = should_stop
        self._loss = loss
        # Precision is the engine's own autocast: Accelerate keeps its precision for a whole process.
        self._accelerator = Accelerator(cpu=device == "cpu")
        self._model = AdaptedModel.load(
            base,
            recipe.adapter.lora,
            recipe.head(),
            device=self._accelerator.device,
            checkpointing=checkpointing,
            quantization=recipe.model.quantization,
        )
        self._model.hold_cores(frames or {})
        self._model.refuses = recipe.privacy.unit == "none"  # an error would tell that the row is there
        self.schema: AdapterSchema = self._model.schema
        self.precision = chosen_precision(recipe.training.precision, self._accelerator.device)
        self._dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self._scored: tuple[Mapping[str, Sequence[Cell]], Rows] | None = None
        self._open(table)

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return self._table.rows

    def numbers(self) -> tuple[int, int]:
        """Return how many numbers stand between two layers, at most: for a batch, and for the whole table."""
        each = int(self._encoded_rows().lengths.max(initial=1)) * self._model.hidden_size
        return each * self.batch_rows, each * self.rows

    @property
    def batch_rows(self) -> int:
        """How many rows a batch has, where no privacy unit draws them."""
        return min(self._recipe.training.batch, self.rows)

    def over(self, table: Drawn | None = None, *, recipe: Recipe | None = None) -> Engine:
        """Return an engine on another *table*, or for another *recipe*, around the same base model.

        Every call sets the state that it is given, so that calls of the two may alternate, not overlap. The
        recipe's sections ``model``, ``task``, ``data`` and ``adapter``, its precision and its frames are the
        same; what is encoded of the table is kept where the table is.
        """
        other = copy(self)
        other._recipe = recipe or self._recipe  # noqa: SLF001 - of this class
        if table is not None:
            other._open(table)  # noqa: SLF001
        return other

    def _open(self, table: Drawn) -> None:
        recipe = self._recipe
        self._table = table
        self._rows: Rows | None = None
        if isinstance(table, Table):
            self._rows = self._encode(table.columns, label_column=recipe.data.label)
        else:
            self._model.check_length(recipe.max_length)
        self._records = np.arange(table.rows, dtype=np.int64)[:, None]
        person = recipe.data.patient
        self._patients: list[Indices] | None = None
        if person is not None and person in table.names:
            self._patients = [np.array(rows, np.int64) for rows in table.groups(person)]
        self._frozen: Vector | None = None
        self._drawing = 0
        self._learn(EVERYTHING)
        self._health = Health(list(self._model.learning()))

    def train(
        self,
        state: Vector,
        *,
        steps: int,
        seed: int,
        sampling: UnitSampling | None = None,
        learn: Collection[Part] = EVERYTHING,
        pace: Sequence[float] | None = None,
    ) -> Vector:
        """Return the state after *steps* optimiser steps from *state* (float32 [schema.size]).

        Parameters
        ----------
        seed
            Of what the task draws, and of the order of rows, where there is no *sampling*.
        sampling
            The privacy unit, its clip and noise; None trains without.
        learn
            What learns; the rest stays as it is, and has no part in clip and noise.
        pace
            What all rates are multiplied by in each step, [steps]; None is 1.

        Raises
        ------
        RunFailed
            ``run.stopped``: *should_stop* said so; ``run.not_finite``: a loss or the result is not
            a finite number; ``run.dead_tensor``: see :class:`plasmid.worker.dp.Health`.
        ModelError
            ``model.adapter_mismatch``: *state* doesn't fit the schema; ``model.rows_mixed``: the base
            has no gradient of one row.
        DataError
            ``data.column_missing``: *sampling* is by patient, the table isn't.
        """
        batches = order(self._table.rows, self._recipe.training.batch, steps, seed)

        def gradient() -> bool:
            if sampling is None:
                return self._gradient(next(batches))
            gradients = self._clipped_sum(sampling).noised_mean(sampling)
            for parameter, value in zip(self._model.learning().values(), gradients, strict=True):
                parameter.grad = value
            return True

        return self._descend(state, gradient, steps=steps, seed=seed, learn=learn, pace=pace)

    def _descend(
        self,
        state: Vector,
        gradient: Callable[[], bool],
        *,
        steps: int,
        seed: int,
        learn: Collection[Part],
        pace: Sequence[float] | None,
    ) -> Vector:
        """Take *steps* from *state*; *gradient* sets the next one's, and tells if its loss is finite."""
        self._model.set_state(state)
        self._learn(learn)
        optimizer = self._optimizer()
        start = {value: value.detach().clone() for value in self._model.learning().values()}
        self._cache()
        self._drawing = seed * _STEPS
        for done in range(1, steps + 1):
            self._stop_if_asked()
            self._drawing += 1
            if not gradient():
                raise _not_finite(f"the loss of step {done} of {steps}")
            self._pull(start)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * (1.0 if pace is None else pace[done - 1])
            optimizer.step()
            optimizer.zero_grad()
            if self._progress is not None:
                self._progress(done, steps)
        self._health.end_call()
        return _finite(self._model.state(), "the adapter after the last step")

    def gradient_sum(
        self,
        state: Vector,
        *,
        sampling: UnitSampling,
        seed: int = 0,
        learn: Collection[Part] = EVERYTHING,
    ) -> Vector:
        """Return the sum of clipped unit gradients at *state* over one Poisson sample, float32 [schema.size].

        It is neither divided nor noised, and scaled as *sampling* says: it must not leave as it is. *seed* is
        that of what the task draws.

        Raises
        ------
        RunFailed, ModelError, DataError
            As :meth:`train`.
        """
        self._model.set_state(state)
        self._learn(learn)
        self._stop_if_asked()
        self._cache()
        self._drawing = seed * _STEPS
        total = self._clipped_sum(sampling)
        self._health.end_call()
        if self._progress is not None:
            self._progress(1, 1)
        found = dict(zip(self._model.learning().values(), total.values(), strict=True))
        every = [found.get(value, torch.zeros_like(value)) for value in self._model.trained().values()]
        return _finite(self._model.flat(every), "the sum of gradients")

    def _learn(self, parts: Collection[Part]) -> None:
        """Let *parts* learn; with a rate of 0 no factor does."""
        frozen = self._recipe.training.lora_lr == 0
        self._model.learn([part for part in parts if part in ("head", "covariates") or not frozen])

    def _pull(self, start: Mapping[torch.nn.Parameter, torch.Tensor]) -> None:
        """Add FedProx's part of the gradient, mu times the way from *start*. Rows have no part in it."""
        if mu := self._recipe.training.proximal:
            for parameter, first in start.items():
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - first, alpha=mu)

    def _optimizer(self) -> torch.optim.Optimizer:
        rates = self._recipe.training
        rate = {"lora": rates.lora_lr, "head": rates.head_lr, "covariates": rates.covariate_lr}
        ups = {id(value) for name, value in self._model.trained().items() if name.endswith(UP)}
        groups = []
        for name, group in self._model.groups().items():
            for ratio, some in (
                (1.0, [one for one in group if id(one) not in ups]),
                (rates.lora_b_ratio, [one for one in group if id(one) in ups]),
            ):
                own = rate[name] * ratio
                groups += [{"params": some, "lr": own, "base": own}] if some else []
        # Not prepared by Accelerate, which would keep every round's optimiser for as long as it lives.
        return (
            torch.optim.SGD(groups)
            if rates.optimizer == "sgd"
            else torch.optim.AdamW(groups, weight_decay=0.0)
        )

    def _gradient(self, chosen: Indices) -> bool:
        """Set the gradient of the mean loss of the *chosen* rows; return whether that loss is finite."""
        rows, chosen = self._encoded(chosen)
        loss = self._mean(self._losses(rows, chosen))
        if not torch.isfinite(loss):
            return False
        self._accelerator.backward(loss)
        learning = self._model.learning()
        none = torch.zeros(1)
        gradients = [none if value.grad is None else value.grad for value in learning.values()]
        self._health.note(learning, gradients, rows.covariates[chosen], every=self._model.trained())
        return True

    def _mean(self, losses: torch.Tensor) -> torch.Tensor:
        """Return what a step minimises of the *losses* of its rows, [n]."""
        return losses.mean()

    def _clipped_sum(self, sampling: UnitSampling) -> ClippedSum:
        units = self._records if sampling.unit == "record" else self._patients
        if units is None:
            raise DataError(
                "data.column_missing",
                "no column says which rows are one patient's.",
                "Name it as data.patient in the recipe.",
            )
        drawn = draw(units, sampling, Source())
        rows, places = self._encoded(np.concatenate(drawn) if drawn else np.empty(0, np.int64))
        drawn = np.split(places, np.cumsum([len(unit) for unit in drawn])[:-1]) if drawn else []
        learning = self._model.learning()
        scales = {
            parameter: sampling.scale.get(name, 1.0)
            for name, group in self._model.groups().items()
            for parameter in group
        }
        total = ClippedSum(
            list(learning.values()),
            sampling.clip,
            scales=[scales[parameter] for parameter in learning.values()],
            micro_rows=max(1, min(MICRO_ROWS, MAX_GATHERED_BYTES // (4 * self.schema.size))),
            gather=lambda some: self._gather(rows, some),
        )
        if drawn:
            total.add(drawn, rows.lengths)
            self._health.note(learning, total.values(), rows.covariates[places], every=self._model.trained())
        return total

    def _gather(self, rows: Rows, chosen: Indices) -> Gathered:
        """Return the gradients of the losses of the *chosen* rows, row by row."""
        samples = self._model.samples
        samples.on = True
        try:
            self._accelerator.backward(self._losses(rows, chosen).sum())
        finally:
            samples.on = False
            gathered = samples.take()
            for parameter in self._model.trained().values():
                parameter.grad = None  # what autograd summed itself is neither clipped nor noised
        return gathered

    def _losses(self, rows: Rows, chosen: Indices) -> torch.Tensor:
        batch = self._model.drawn(rows.batch(chosen), self._drawing).to(self._accelerator.device)
        with torch.autocast(self._accelerator.device.type, self._dtype, enabled=self.precision == "bf16"):
            return (self._loss or finetune.losses)(self._model, batch)

    def predict(self, state: Vector, columns: Mapping[str, Sequence[Cell]]) -> Answers:
        """Return what the adapter answers, computed in float32.

        The encoded rows of the last *columns* object are kept, so that many states can be scored on
        the same data; don't change it between calls.

        Raises
        ------
        ModelError, DataError
            As the class.
        """
        self._model.set_state(state)
        if self._scored is None or self._scored[0] is not columns:
            self._scored = None
            rows = self._encode(columns, label_column=None)
            if self._fits(rows, torch.float32):
                rows = self._model.cached(rows)
            self._scored = (columns, rows)
        return self._model.answers(self._scored[1])

    def score(self, state: Vector, columns: Mapping[str, Sequence[Cell]]) -> float:
        """Return the recipe's metric of the adapter on the labelled rows in *columns*.

        Raises
        ------
        ModelError, DataError
            As the class; the metric has no value on these rows.
        """
        head, metric, label = self._model.spec, self._recipe.task.metric, self._recipe.data.label
        if metric in head.loss_metrics:
            return head.of_losses(metric, self.losses(state, columns))
        return head.score(metric, self.predict(state, columns), () if label is None else columns[label])

    def losses(self, state: Vector, columns: Mapping[str, Sequence[Cell]]) -> Vector:
        """Return the loss of each of the labelled rows in *columns*, float32 [rows], computed in float32.

        Raises
        ------
        ModelError, DataError
            As the class.
        """
        self._model.set_state(state)
        rows = self._encode(columns, label_column=self._recipe.data.label)
        return self._model.losses(rows, batch_rows=MICRO_ROWS)

    def _encode(self, columns: Mapping[str, Sequence[Cell]], *, label_column: str | None) -> Rows:
        return self._model.encode(
            columns,
            input_column=self._recipe.data.input,
            max_length=self._recipe.max_length,
            label_column=label_column,
        )

    def _cache(self) -> None:
        """Compute once what the model's frozen part makes of the encoded table, where that pays and fits."""
        if self._rows is None:
            return
        if self._recipe.training.lora_lr == 0:
            factors = self._model.factors()
            if self._model.spec.per_token and not self._fits(self._rows, torch.float32):
                return
            if self._frozen is None or not np.array_equal(factors, self._frozen):
                self._rows = self._model.pooled(self._rows, dtype=self._dtype, on_batch=self._stop_if_asked)
                self._frozen = factors
        elif self._rows.hidden is None and self._fits(self._rows, self._dtype):
            self._rows = self._model.cached(self._rows, dtype=self._dtype, on_batch=self._stop_if_asked)

    def _encoded_rows(self) -> Rows:
        assert self._rows is not None, "a table in memory"
        return self._rows

    def _encoded(self, chosen: Indices) -> tuple[Rows, Indices]:
        """Return encoded rows, and where in them the *chosen* rows of the table are."""
        if self._rows is not None:
            return self._rows, chosen
        drawn = self._table.subset(chosen)
        rows = self._encode(drawn.columns, label_column=self._recipe.data.label)
        return rows, np.arange(len(chosen), dtype=np.int64)

    def _fits(self, rows: Rows, dtype: torch.dtype) -> bool:
        return len(rows.ids) * self._model.hidden_size * dtype.itemsize <= MAX_CACHE_BYTES

    def _stop_if_asked(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise RunFailed("run.stopped", "training was stopped.", "Start the run again when you want it.")


def _finite(vector: Vector, what: str) -> Vector:
    if not np.isfinite(vector).all():
        raise _not_finite(what)
    return vector


def _not_finite(what: str) -> RunFailed:
    return RunFailed(
        "run.not_finite",
        f"{what} is not a finite number.",
        "Lower the learning rates of the recipe, or set training.precision to fp32.",
    )
