"""A document's own Python as the worker calls it.

Rules
-----
1. Without a privacy unit, or where the whole vector is noised (``mechanism: output``), the code runs in the
   worker: nothing that is promised rests on what it does there.
2. A Flower ``ClientApp`` (:mod:`plasmid.worker.flower`) gives a finished vector, too.
3. Where one record's vector is clipped by itself (``dp-fedsgd``), it runs :mod:`plasmid.worker.per_record`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.data.snapshot import Snapshot
from plasmid.data.table import Table
from plasmid.recipes.python import defined_by
from plasmid.worker.bundle import BundleCode, as_losses, as_vector, called
from plasmid.worker.per_record import Apart

if TYPE_CHECKING:
    import torch

Vector = NDArray[np.float64]


def runs_apart(document: Any) -> bool:
    """Return whether *document* needs each record computed by a locked process of its own."""
    bundle = getattr(document, "bundle", None)
    return bundle is not None and bundle.half == "per_record" and document.privacy.record_clip is not None


class BundleHalf:
    """The one half that the bundle of *document* gives.

    Raises
    ------
    RunFailed
        ``run.bundle``: its modules cannot be run, or define no such function.
    """

    def __init__(self, document: Any) -> None:
        bundle = document.bundle
        self._settings = MappingProxyType(dict(bundle.settings))
        self._size: int = getattr(bundle, "size", 0)
        self._apart: Apart | None = None
        if runs_apart(document):
            self._apart = Apart(bundle, turns=document.data.max_rows)
        else:
            code = BundleCode(bundle.files, bundle.package)
            code.install()
            self._function = code.function(bundle.entry, str(defined_by(bundle.half)))
        self._flower: Any = None
        if bundle.half == "flower":
            from plasmid.worker.flower import FlowerHalf

            self._flower = FlowerHalf(bundle, self._function)

    def close(self) -> None:
        """End what runs beside this process."""
        if self._apart is not None:
            self._apart.close()

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        """Return the loss of each row of *batch*, float32 [n]. Raises RunFailed (``run.bundle``)."""
        value = called("loss", self._function, model, batch, self._settings)
        return as_losses(value, len(batch.input_ids))

    def vector(self, state: Vector, table: Table | Snapshot, round_: int) -> Vector:
        """Return the finished vector of all of *table*, float64 [size]. Raises RunFailed (``run.bundle``)."""
        if self._flower is not None:
            vector: Vector = self._flower.vector(state, table, round_)
            return vector
        table = table.table() if isinstance(table, Snapshot) else table
        view = MappingProxyType({name: tuple(cells) for name, cells in table.columns.items()})
        return as_vector(called("vector", self._function, state, view, self._settings), self._size)

    def vectors(self, state: Vector, table: Table | Snapshot, stop: Callable[[], None]) -> Iterator[Vector]:
        """Yield the vectors of the records that have one, float64 [size], in no order that means anything.

        Raises
        ------
        RunFailed
            ``run.bundle``; not for what a record does that is computed apart.
        """
        if self._apart is not None:
            yield from self._apart.vectors(state, table, stop=stop)
            return
        for row in table.records():
            stop()
            value = called("per_record", self._function, state, row, self._settings)
            if value is not None:
                yield as_vector(value, self._size)
