"""One round of fine-tuning at one site: from the public state to the vector that the site sends, unprotected.

What learns in a round, what a state is as an adapter, and what of a trained one is sent, is the method's word
(:class:`plasmid.computations.api.Method`). What is sampled, clipped and noised is the gateway's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.models.store import BaseModel
from plasmid.recipes.schema import Recipe
from plasmid.training.dp import UnitSampling
from plasmid.training.engine import Engine


def site_vector(
    engine: Engine,
    document: Recipe,
    base: BaseModel | None,
    state: NDArray[Any],
    *,
    round_: int,
    seed: int,
    sampling: Mapping[str, Any] | None,
) -> NDArray[Any]:
    """Return a site's vector of *round_* from *state*, [Shape.schema.size].

    Parameters
    ----------
    seed
        Of the order of rows; see :func:`plasmid.site.node.local_seed`.
    sampling
        The fields of :class:`~plasmid.training.dp.UnitSampling`; None without a privacy unit.

    Raises
    ------
    RunFailed, ModelError, DataError
        As :meth:`plasmid.training.engine.Engine.train`.
    """
    assert base is not None, "an adapter has a base model"
    method = api.method(document)
    before = method.adapter(document, base, state)
    chosen = None if sampling is None else UnitSampling(**sampling)
    learn = method.learns(document, round_)
    if document.privacy.mechanism == "dp-fedsgd":
        assert chosen is not None, "a mechanism has a unit"
        after = engine.gradient_sum(before, sampling=chosen, learn=learn)
        before = np.zeros_like(after)
    else:
        steps = document.training.steps
        after = engine.train(before, steps=steps, seed=seed, sampling=chosen, learn=learn)
    return np.asarray(method.sent(document, base, before, after, round_))
