"""The steps of several sites in one pass, each with its own rows and its own copy of the adapter.

Where a site's batch is small, an operation takes longer to start than to do. So a simulation of very many
sites runs the base model once for all of them.

Rules
-----
1. Each site takes the steps of :meth:`plasmid.worker.engine.Engine.train`: its own order of rows, its own
   mean of losses, its own optimiser state (every optimiser here works number by number). Results differ from
   those of one site after the other by rounding alone: products are summed in another order.
2. It is for steps that are neither clipped nor noised, whose task draws nothing, and in which factors learn
   (:func:`may_go_together`); sites have batches of as many rows.
"""
# ruff: noqa: SLF001 - engines of one base class

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from plasmid.adapters.adapter import Vector
from plasmid.computations.api import Part
from plasmid.encoders.batches import joined
from plasmid.recipes.schema import Recipe
from plasmid.worker.dp import Indices
from plasmid.worker.engine import EVERYTHING, Engine
from plasmid.worker.order import order

FEW, SMALL = 2**17, 2**22
"""Numbers (rows x tokens x width) that go through a layer in one pass, and of a table that may be in it."""


def may_go_together(document: Recipe) -> bool:
    """Return whether sites of *document* may take their steps in one pass."""
    draws = document.head().own_head == "masked"
    return document.privacy.unit == "none" and not draws and document.training.lora_lr > 0


def groups(engines: Sequence[Engine]) -> list[list[int]]:
    """Return the places of *engines* in groups that fit into one pass; what is large is alone.

    Those in a group have batches of as many rows.
    """
    found: list[list[int]] = []
    by_rows: dict[int, list[int]] = {}
    for place, one in enumerate(engines):
        if one.numbers()[1] > SMALL:
            found.append([place])
        else:
            by_rows.setdefault(one.batch_rows, []).append(place)
    for places in by_rows.values():
        most = max(1, FEW // max(engines[place].numbers()[0] for place in places))
        found += [places[start : start + most] for start in range(0, len(places), most)]
    return found


class Together(Engine):
    """*engines* around one base model, of one recipe, with batches of as many rows.

    What is encoded and cached of their tables stays with them.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.__dict__.update(engines[0].__dict__)
        self._engines = engines

    def train_each(
        self,
        state: Vector,
        *,
        steps: int,
        seeds: Sequence[int],
        learn: Collection[Part] = EVERYTHING,
        pace: Sequence[float] | None = None,
    ) -> Vector:
        """Return the state of each engine's site after *steps* from *state*, float32 [engines, schema.size].

        Parameters
        ----------
        seeds
            Of each site's order of rows.
        learn, pace
            As :meth:`plasmid.worker.engine.Engine.train`.

        Raises
        ------
        RunFailed, ModelError
            As :meth:`plasmid.worker.engine.Engine.train`.
        """
        drawn = self._batches(steps, seeds)
        self._model.hold_copies(len(self._engines))
        try:
            return self._descend(
                state, lambda: self._gradient(next(drawn)), steps=steps, seed=0, learn=learn, pace=pace
            )
        finally:
            self._model.hold_copies(0)

    def _batches(self, steps: int, seeds: Sequence[int]) -> Iterator[Indices]:
        """Yield where in all engines' rows those of a step are, those of a site together."""
        batch = self._recipe.training.batch
        first = np.cumsum([0, *(one.rows for one in self._engines)])
        orders = [order(one.rows, batch, steps, seed) for one, seed in zip(self._engines, seeds, strict=True)]
        for parts in zip(*orders, strict=True):
            moved: list[npt.NDArray[np.int64]] = [part + at for part, at in zip(parts, first, strict=False)]
            yield np.concatenate(moved)

    def _cache(self) -> None:
        """Cache what is not yet cached of the engines' tables, all at once."""
        bare = [one for one in self._engines if one._encoded_rows().hidden is None]
        if bare:
            self._rows = joined([one._encoded_rows() for one in bare])
            super()._cache()
            for one, part in zip(bare, self._rows.parts([one.rows for one in bare]), strict=True):
                one._rows = part
        self._rows = joined([one._encoded_rows() for one in self._engines])

    def _mean(self, losses: torch.Tensor) -> torch.Tensor:
        return losses.view(len(self._engines), -1).mean(1).sum()
