"""What an adapter is worth to one site: it and one trained there alone, judged on the rows held out there.

Rules
-----
1. The rows that the document's ``holdout`` keeps from training are those that every run of the recipe has
   kept from it, by the same rule (:func:`plasmid.data.views.rows.held_out`); the others train the adapter of
   the site alone.
2. That one starts as the recipe's adapter does, and has the steps and rates of the document. No noise.
3. Where the metric has no value, or too few rows are held out, there is no gain.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, RunFailed
from plasmid.data.snapshot import Snapshot, row_keys
from plasmid.data.table import Table
from plasmid.data.views.reading import site_rows
from plasmid.data.views.rows import held_out
from plasmid.recipes.gain import GainDocument
from plasmid.recipes.schema import Recipe
from plasmid.tasks.metrics import FEWER_IS_BETTER
from plasmid.worker.engine import Engine


@dataclass(frozen=True)
class Gained:
    """What a site finds out, for itself.

    Attributes
    ----------
    adapter, alone
        The metric of either on the rows held out; None where it has no value.
    rows, steps
        How many rows are held out, and the steps that the site has trained alone.
    """

    metric: str
    adapter: float | None
    alone: float | None
    rows: int
    steps: int

    @property
    def gain(self) -> float | None:
        """How much better the adapter is."""
        if self.adapter is None or self.alone is None:
            return None
        better = self.adapter - self.alone
        return -better if self.metric in tuple(FEWER_IS_BETTER) else better

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "gain": self.gain}


def held_rows(snapshot: Snapshot, document: GainDocument | Recipe) -> NDArray[np.bool_]:
    """Return which rows of *snapshot* the document holds out, bool [rows]."""
    holdout = document.data.holdout
    assert holdout is not None, "the document's checks ask for it"
    parts = [
        np.asarray(held_out(batch, row_keys(batch), holdout, document.data.patient))
        for batch in snapshot.batches()
    ]
    return np.concatenate(parts) if parts else np.zeros(0, bool)


def held_table(path: Path, document: Recipe, folder: Path) -> Table:
    """Return the rows that *document* holds out of a site's file. Only for whoever owns the file.

    Raises
    ------
    DataError, StorageError
        As :func:`plasmid.data.views.reading.site_rows`.
    """
    data = document.data.model_copy(update={"holdout": None})
    descriptor, _ = site_rows(path, document.model_copy(update={"data": data}), folder)
    rows = Snapshot(descriptor)
    return rows.subset(np.flatnonzero(held_rows(rows, document)))


def mean_over_sites(by_site: Mapping[str, float | None], metric: str) -> float:
    """Return the mean over the sites that have a value. Raises RunFailed (``run.no_metric``): none has."""
    values = [value for value in by_site.values() if value is not None]
    if not values:
        raise RunFailed(
            "run.no_metric",
            f"at none of {len(by_site)} sites do the rows held out have a value of {metric}.",
            "Hold out a larger share (data.holdout.share); rows of one label alone have none.",
        )
    return statistics.fmean(values)


class Judge:
    """The rows of one site, in two parts, and what it trains on the one to be judged on the other.

    Parameters
    ----------
    progress, should_stop
        As for :class:`plasmid.worker.engine.Engine`.
    """

    def __init__(
        self,
        document: GainDocument,
        base: BaseModel,
        snapshot: Snapshot,
        *,
        progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        held = held_rows(snapshot, document)
        self._document, self._base = document, base
        self._train = snapshot.subset(np.flatnonzero(~held)) if (~held).any() else None
        self._test: Table | None = snapshot.subset(np.flatnonzero(held)) if held.any() else None
        self._settings = {"progress": progress, "should_stop": should_stop}

    def judged(self, adapter: Vector | None) -> Gained:
        """Return what *adapter*, float32 [adapter size], is worth here; None is a site that has none.

        Raises
        ------
        RunFailed
            As :meth:`plasmid.worker.engine.Engine.train`.
        """
        document, test = self._document, self._test
        steps, metric = document.training.steps, document.task.metric
        rows = 0 if test is None else test.rows
        if adapter is None or test is None or self._train is None or rows < document.least_rows:
            return Gained(metric, None, None, rows, 0)
        engine = Engine(
            cast(Recipe, document),
            self._base,
            self._train,
            checkpointing=document.training.checkpointing,
            **cast(Any, self._settings),
        )
        first, pace = initial_state(engine.schema, document.seed), document.training.anew(steps)
        alone = engine.train(first, steps=steps, seed=document.seed, pace=pace)
        found = [self._scored(engine, one, test) for one in (adapter, alone)]
        return Gained(metric, found[0], found[1], rows, steps)

    def _scored(self, engine: Engine, adapter: Vector, test: Table) -> float | None:
        try:
            return engine.score(adapter, test.columns)
        except DataError:  # rows of one label, say
            return None
