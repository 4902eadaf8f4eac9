"""What an adapter says of the rows of a table, beside each row: for a computation that judges adapters.

Rules
-----
1. Rows are encoded and scored a few thousand at a time, in the table's order; what was computed for one state
   is kept (a number per label and row), so that the rows can be gone through again.
2. Everything is float32 on the CPU or GPU that there is, as in prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasmid.bases.store import BaseModel
from plasmid.computations.api import Scored
from plasmid.data.snapshot import Snapshot
from plasmid.data.table import Table
from plasmid.encoders.encoder import AdaptedModel
from plasmid.recipes.schema import Learned

CHUNK_ROWS = 2048


class Scorer:
    """The base model of *document* with a place for an adapter.

    Parameters
    ----------
    stop
        Called before each chunk; may raise to stop.
    """

    def __init__(self, document: Learned, base: BaseModel, stop: Callable[[], None]) -> None:
        self._document, self._stop = document, stop
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = AdaptedModel.load(
            base,
            document.adapter.lora,
            document.head(),
            device=device,
            quantization=document.model.quantization,
        )
        self._known: dict[int, NDArray[np.float32]] = {}
        self._state: NDArray[np.float32] | None = None

    def records(self, adapter: NDArray[np.float32], table: Table | Snapshot) -> Iterator[Scored]:
        """Yield every row of *table*, in order, with what *adapter*, float32 [adapter size], says of it.

        Raises
        ------
        ModelError
            ``model.adapter_mismatch``: it does not fit the document.
        """
        if self._state is None or not np.array_equal(adapter, self._state):
            self._model.set_state(adapter)
            self._state = adapter.copy()
            self._known.clear()
        for start in range(0, table.rows, CHUNK_ROWS):
            self._stop()
            part = table.subset(range(start, min(start + CHUNK_ROWS, table.rows)))
            if start not in self._known:
                self._known[start] = self._scores(part)
            for row, found in zip(part.records(), self._known[start], strict=True):
                record = Scored(row)
                record.probabilities = found.tolist()
                yield record

    def _scores(self, part: Table) -> NDArray[np.float32]:
        document: Any = self._document
        rows = self._model.encode(
            part.columns, input_column=document.data.input, max_length=document.max_length
        )
        return self._model.answers(rows).values
