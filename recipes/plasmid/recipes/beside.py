"""What goes behind a site's update in the same secure sum: its weight, and the loss of its held back rows.

Rules
-----
1. It is the last ``Shape.beside`` numbers of a vector, each from 0 to its bound, in this order. They are
   outside the norm to which the gateway cuts the update, and no method sees them.
2. Coordinator and sites take the same total apart by :func:`advanced`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.computations.api import Computation, Shape, State, Sum
from plasmid.recipes.stopping import HELD, judged, stop_of
from plasmid.recipes.weights import WEIGHT, weights_of


def _tensors(document: Any) -> tuple[TensorSpec, ...]:
    weight = () if weights_of(document) is None else (WEIGHT,)
    return weight if stop_of(document) is None else (*weight, HELD)


def shape_of(computation: Computation, document: Any, base: Any) -> Shape:
    """Return the shape of what a site sends: the *computation*'s, and what the *document* puts behind it.

    Raises
    ------
    RecipeError
        As the computation's own.
    """
    shape, more = computation.shape(document, base), _tensors(document)
    if not more:
        return shape
    longer = AdapterSchema((*shape.schema.tensors, *more))
    return replace(shape, schema=longer, public=shape.state, beside=sum(one.size for one in more))


def sent(
    document: Any, shape: Shape, update: NDArray[Any], *, weight: float, losses: NDArray[Any] | None
) -> NDArray[Any]:
    """Return a site's whole vector, [shape.schema.size]; *shape* is that of :func:`shape_of`.

    Parameters
    ----------
    update
        What the method sends, [shape.schema.size - shape.beside].
    weight
        The site's, where the document has weights.
    losses
        Of the rows that are held back, [n]; None where none are.
    """
    parts = [update]
    if weights_of(document) is not None:
        factor = update.dtype.type(weight)
        parts = [update * factor, np.array([shape.bound * factor], update.dtype)]
    if losses is not None:
        parts.append(judged(losses, shape))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def advanced(computation: Computation, document: Any, shape: Shape, state: State, summed: Sum) -> State:
    """Return the next public state from a whole total; *shape* is that of :func:`shape_of`."""
    if not shape.beside:
        return computation.advance(document, shape, state, summed)
    own = AdapterSchema(tuple(one for one in shape.schema.tensors if one not in (WEIGHT, HELD)))
    values = summed.values[: own.size]
    if weights_of(document) is not None:  # as a sum of as many sites that count alike
        values = values * (summed.sites * shape.bound / summed.values[own.size])
    return computation.advance(
        document, replace(shape, schema=own, beside=0), state, replace(summed, values=values)
    )
