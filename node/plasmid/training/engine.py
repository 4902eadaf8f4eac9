"""The only training loop: one site's (or one baseline's) steps from a given adapter state.

Rules
-----
1. The base model and the encoded table are kept between calls; every call starts from the state it is
   given with a fresh AdamW. The same state, steps and seed give the same result on the same machine.
2. Three groups of parameters with a learning rate each: LoRA factors, head, covariate weights.
3. Batches come from seeded permutations without replacement; what is left of a permutation that
   doesn't fill a batch is dropped, a table smaller than a batch is one batch.
4. The computation says what is minimised (its ``loss``), and nothing else.
5. With LoRA on the top layers only, the activations below are computed once and kept, up to
   :data:`MAX_CACHE_BYTES`.
6. A result that isn't finite never leaves. Nothing from a row is logged or put into an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from plasmid.computations import finetune
from plasmid.core.errors import RunFailed
from plasmid.data.table import Table
from plasmid.models.adapter import AdapterSchema, Vector
from plasmid.models.batches import Rows
from plasmid.models.encoder import AdaptedModel
from plasmid.models.specs import Cell
from plasmid.models.store import BaseModel
from plasmid.recipes.schema import Recipe

MAX_CACHE_BYTES = 2 * 2**30
"""A table whose lower activations take more is run through the whole encoder at every step."""


def bf16_is_fast(device: torch.device) -> bool:
    """True when *device* multiplies bfloat16 in hardware, so that it pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def order(rows: int, batch: int, steps: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the row numbers of each of *steps* batches, int64 [min(batch, rows)]."""
    source = np.random.Generator(np.random.Philox(seed))
    size = min(batch, rows)
    done = 0
    while done < steps:
        permutation = source.permutation(rows)
        for start in range(0, rows - size + 1, size)[: steps - done]:
            yield permutation[start : start + size]
            done += 1


class Engine:
    """A base model with an adapter, and one table to train it on.

    Parameters
    ----------
    table
        Holds the recipe's input, label and covariate columns.
    device
        ``"auto"`` is a GPU if there is one, else the CPU; or ``"cpu"``.
    progress
        Called after each step with (steps done, steps in all).
    should_stop
        Asked before each step and each batch of the cache; True ends the call.

    Attributes
    ----------
    schema
        The adapter's tensors.
    precision
        ``"bf16"`` or ``"fp32"``: what ``training.precision`` came to on this device.

    Raises
    ------
    ModelError, DataError
        As :meth:`plasmid.models.encoder.AdaptedModel.load` and ``encode``.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: BaseModel,
        table: Table,
        *,
        device: str = "auto",
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self._recipe = recipe
        self._progress = progress
        self._should_stop = should_stop
        # Precision is the engine's own autocast: Accelerate keeps its precision for a whole process.
        self._accelerator = Accelerator(cpu=device == "cpu")
        self._model = AdaptedModel.load(
            base, recipe.adapter.lora, recipe.head(), device=self._accelerator.device
        )
        self.schema: AdapterSchema = self._model.schema
        asked = recipe.training.precision
        fast = bf16_is_fast(self._accelerator.device)
        self.precision = ("bf16" if fast else "fp32") if asked == "auto" else asked
        self._dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self._rows = self._encode(table.columns, label_column=recipe.data.label)
        self._scored: tuple[Mapping[str, Sequence[Cell]], Rows] | None = None

    def train(self, state: Vector, *, steps: int, seed: int) -> Vector:
        """Return the state after *steps* optimiser steps from *state* (float32 [schema.size]).

        Raises
        ------
        RunFailed
            ``run.stopped``: *should_stop* said so; ``run.not_finite``: a loss or the result is not
            a finite number.
        ModelError
            ``model.adapter_mismatch``: *state* doesn't fit the schema.
        """
        self._model.set_state(state)
        rates = self._recipe.training
        rate = {"lora": rates.lora_lr, "head": rates.head_lr, "covariates": rates.covariate_lr}
        groups = [{"params": list(group), "lr": rate[name]} for name, group in self._model.groups().items()]
        # Not prepared by Accelerate, which would keep every round's optimiser for as long as it lives.
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        rows = self._cached_rows()
        for done, chosen in enumerate(order(len(rows), rates.batch, steps, seed), start=1):
            self._stop_if_asked()
            batch = rows.batch(chosen).to(self._accelerator.device)
            with torch.autocast(self._accelerator.device.type, self._dtype, enabled=self.precision == "bf16"):
                loss = finetune.loss(self._model, batch)
            if not torch.isfinite(loss):
                raise _not_finite(f"the loss of step {done} of {steps}")
            self._accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if self._progress is not None:
                self._progress(done, steps)
        result = self._model.state()
        if not np.isfinite(result).all():
            raise _not_finite("the adapter after the last step")
        return result

    def predict(self, state: Vector, columns: Mapping[str, Sequence[Cell]]) -> Vector:
        """Return probabilities, float32 [rows, labels], computed in float32.

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
        return self._model.probabilities(self._scored[1])

    def _encode(self, columns: Mapping[str, Sequence[Cell]], *, label_column: str | None) -> Rows:
        return self._model.encode(
            columns,
            input_column=self._recipe.data.input,
            max_length=self._recipe.max_length,
            label_column=label_column,
        )

    def _cached_rows(self) -> Rows:
        if self._rows.hidden is None and self._fits(self._rows, self._dtype):
            self._rows = self._model.cached(self._rows, dtype=self._dtype, on_batch=self._stop_if_asked)
        return self._rows

    def _fits(self, rows: Rows, dtype: torch.dtype) -> bool:
        return len(rows.ids) * self._model.head.in_features * dtype.itemsize <= MAX_CACHE_BYTES

    def _stop_if_asked(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise RunFailed("run.stopped", "training was stopped.", "Start the run again when you want it.")


def _not_finite(what: str) -> RunFailed:
    return RunFailed(
        "run.not_finite",
        f"{what} is not a finite number.",
        "Lower the learning rates of the recipe, or set training.precision to fp32.",
    )
