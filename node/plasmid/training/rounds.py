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

from plasmid.computations import api
from plasmid.computations._personal import personal_in, whole_of, with_personal
from plasmid.data.table import Table
from plasmid.models.adapter import AdapterSchema, Vector, of_rank
from plasmid.models.store import BaseModel
from plasmid.recipes.beside import sent, shape_of
from plasmid.recipes.schema import Recipe
from plasmid.recipes.weights import weights_of
from plasmid.training.dp import UnitSampling
from plasmid.training.engine import Engine


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
        Of the order of rows; see :func:`plasmid.site.node.local_seed`.
    sampling
        The fields of :class:`~plasmid.training.dp.UnitSampling`; None without a privacy unit.
    held
        The rows that are held back; None where the document keeps none.
    own
        What the site keeps for itself, as the last round left it; None before the first.
    keep
        Called with what the site is to keep, if there is any.

    Raises
    ------
    RunFailed, ModelError, DataError
        As :meth:`plasmid.training.engine.Engine.train`.
    """
    assert base is not None, "an adapter has a base model"
    method, shape = api.method(document), shape_of(api.method(document), document, base)
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
    weights = weights_of(document)
    weight = 1.0 if weights is None else weights.of(site, engine.rows)
    update = np.asarray(method.sent(document, base, start, after, round_))
    return sent(document, shape, update, weight=weight, losses=losses)


def _trained(
    engine: Engine, document: Recipe, before: Vector, whole: AdapterSchema, round_: int, **how: Any
) -> Vector:
    steps = document.training.steps_in(round_)
    pace = [document.training.factor(round_, document.rounds)] * steps
    own = engine.schema
    if own.size == whole.size:
        return engine.train(before, steps=steps, pace=pace, **how)
    return of_rank(engine.train(of_rank(before, whole, own), steps=steps, pace=pace, **how), own, whole)
