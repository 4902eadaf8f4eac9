"""One round of fine-tuning at one site: from the public state to the vector that the site sends, unprotected.

Rules
-----
1. What learns in a round, what a state is as an adapter, and what of a trained one is sent, is the method's
   word (:class:`plasmid.computations.api.Method`). What is sampled, clipped and noised is the gateway's.
2. A site of a smaller rank trains the first components of the public adapter, and sends what all others do.
3. Where the document has weights, the site's multiplies the vector and goes behind it. Where a run may end
   early, the mean loss of the rows that are held back, at the round's state, goes there, too
   (:mod:`plasmid.recipes.beside`).
4. What a site keeps for itself is put into the adapter before, and handed out after, training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema, Vector, of_rank
from plasmid.bases.store import BaseModel
from plasmid.computations import api
from plasmid.computations._personal import personal_in, whole_of, with_personal
from plasmid.data.table import Table
from plasmid.recipes.beside import sent, shape_of
from plasmid.recipes.schema import Recipe
from plasmid.recipes.weights import weights_of
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from plasmid.worker.stacked_sites import Together


def site_vector(
    engine: Engine,
    document: Recipe,
    base: BaseModel | None,
    state: NDArray[Any],
    *,
    site: str,
    round_: int,
    seed: int,
    sampling: Mapping[str, Any] | None,
    held: Table | None = None,
    own: Vector | None = None,
    keep: Callable[[Vector], None] | None = None,
) -> NDArray[Any]:
    """Return a site's vector of *round_* from *state*, [Shape.schema.size].

    Parameters
    ----------
    engine
        Of the document's rank, or of the site's own.
    site
        The site's name.
    seed
        Of the order of rows; see :func:`plasmid.gateway.node.local_seed`.
    sampling
        The fields of :class:`~plasmid.worker.dp.UnitSampling`; None without a privacy unit.
    held
        The rows that are held back; None where the document keeps none.
    own
        What the site keeps for itself, as the last round left it; None before the first.
    keep
        Called with what the site is to keep, if there is any.

    Raises
    ------
    RunFailed, ModelError, DataError
        As :meth:`plasmid.worker.engine.Engine.train`.
    """
    assert base is not None, "an adapter has a base model"
    method = api.method(document)
    before = with_personal(document, base, method.adapter(document, base, state), own)
    chosen = None if sampling is None else UnitSampling(**sampling)
    learn = method.learns(document, round_)
    if document.privacy.mechanism == "dp-fedsgd":
        assert chosen is not None, "a mechanism has a unit"
        after = engine.gradient_sum(before, sampling=chosen, seed=seed, learn=learn)
        start = np.zeros_like(after)
    else:
        whole = whole_of(document, base)
        after = _trained(engine, document, before, whole, round_, seed=seed, sampling=chosen, learn=learn)
        mine = personal_in(document, base, after)
        if mine.size and keep is not None:
            keep(mine)
        start = before
    losses = None
    if held is not None:
        losses = engine.losses(before, held.columns) if held.rows else np.empty(0)
    return _sent(document, base, start, after, round_, site=site, rows=engine.rows, losses=losses)


def small_sites_vectors(
    engines: Mapping[str, Engine],
    document: Recipe,
    base: BaseModel | None,
    state: NDArray[Any],
    *,
    round_: int,
    seeds: Mapping[str, int],
) -> dict[str, NDArray[Any]]:
    """Return the vector of each of some sites, their steps taken together.

    Up to rounding it is what :func:`site_vector` returns of each. The sites keep nothing for themselves and
    hold no rows back.

    Parameters
    ----------
    engines
        By site; see :class:`plasmid.worker.stacked_sites.Together`.
    seeds
        As there, by site.

    Raises
    ------
    RunFailed, ModelError, DataError
        As :func:`site_vector`.
    """
    assert base is not None, "an adapter has a base model"
    method = api.method(document)
    before = method.adapter(document, base, state)
    every = Together(list(engines.values())).train_each(
        before,
        seeds=[seeds[site] for site in engines],
        learn=method.learns(document, round_),
        **_course(document, round_),
    )
    return {
        site: _sent(document, base, before, after, round_, site=site, rows=engine.rows, losses=None)
        for (site, engine), after in zip(engines.items(), every, strict=True)
    }


def _sent(
    document: Recipe,
    base: BaseModel,
    start: Vector,
    after: Vector,
    round_: int,
    *,
    site: str,
    rows: int,
    losses: NDArray[Any] | None,
) -> NDArray[Any]:
    method = api.method(document)
    weights = weights_of(document)
    weight = 1.0 if weights is None else weights.of(site, rows)
    update = np.asarray(method.sent(document, base, start, after, round_))
    return sent(document, shape_of(method, document, base), update, weight=weight, losses=losses)


def _course(document: Recipe, round_: int) -> dict[str, Any]:
    """Return how many steps a round has, and what all rates are multiplied by in each."""
    steps = document.training.steps_in(round_)
    return {"steps": steps, "pace": [document.training.factor(round_, document.rounds)] * steps}


def own_steps(engine: Engine, document: Recipe, base: BaseModel, adapter: Vector, *, seed: int) -> Vector:
    """Return *adapter*, float32 [adapter size], after the site's own steps, which follow the last round.

    Raises
    ------
    RunFailed
        As :meth:`plasmid.worker.engine.Engine.train`.
    """
    steps = document.training.personal_steps
    pace = document.training.anew(steps)
    return _of_own_rank(engine, adapter, whole_of(document, base), steps=steps, seed=seed, pace=pace)


def _trained(
    engine: Engine, document: Recipe, before: Vector, whole: AdapterSchema, round_: int, **how: Any
) -> Vector:
    return _of_own_rank(engine, before, whole, **how, **_course(document, round_))


def _of_own_rank(engine: Engine, before: Vector, whole: AdapterSchema, **how: Any) -> Vector:
    """Return *before* as it is after training its first components, as many as the engine's rank."""
    own = engine.schema
    if own.size == whole.size:
        return engine.train(before, **how)
    return of_rank(engine.train(of_rank(before, whole, own), **how), own, whole)
