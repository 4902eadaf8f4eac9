"""A vector of ones: what a round of a given size costs on this federation, without touching a row.

The state counts the rounds, so that no round's state is that of another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.computations.api import Shape, SiteHalf, State, Sum

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.query import PingDocument

SITE_HALF: SiteHalf = "vector"
WORDS = "a vector of constants, to time the network"


def shape(document: PingDocument, base: BaseModel | None) -> Shape:  # noqa: ARG001
    """Return one vector of the asked length, bounded by 1."""
    schema = AdapterSchema(tensors=(TensorSpec(name="ping", shape=(document.length,)),))
    return Shape(schema=schema, bound=1.0, norm=None, bits=32)


def initial(document: PingDocument, shape: Shape) -> State:  # noqa: ARG001
    """Return zeros, float32 [length]."""
    return np.zeros(shape.schema.size, dtype=np.float32)


def vector(document: PingDocument, state: State) -> State:  # noqa: ARG001
    """Return ones of the state's length."""
    return np.ones_like(state)


def advance(document: PingDocument, shape: Shape, state: State, summed: Sum) -> State:  # noqa: ARG001
    """Return the state plus the mean."""
    return np.asarray(state + summed.mean.astype(state.dtype))
