"""The public half of recipes that carry Python: everything here follows from what the document declares.

The state is the declared tensors, at first as declared. A site sends one vector of them: the sum of its
records' vectors, each coordinate of which is within ``bound``, or one finished vector within it. After the
sum the next state is the total, the mean over the sites, or the state plus that mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.computations._algebra import gaussian
from plasmid.computations.api import Shape, State, Sum

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.bundle import BundleRecipe

WORDS = "the recipe's own Python computes a vector from the rows"
MAX_SHOWN = 4096
"""A result of more values is not written out; its state can be fetched."""


def shape(document: BundleRecipe, base: BaseModel | None) -> Shape:  # noqa: ARG001
    """Return the declared tensors, by name; a sum over records is bounded by their public number."""
    bundle = document.bundle
    tensors = tuple(TensorSpec(name, size) for name, size in bundle.ordered)
    rows = document.data.max_rows if bundle.half == "per_record" else 1
    return Shape(
        schema=AdapterSchema(tensors),
        bound=bundle.bound * rows,
        norm=document.privacy.update_clip,
        bits=64,
        record_bound=bundle.bound,
    )


def initial(document: BundleRecipe, shape: Shape) -> State:
    """Return the declared first state, float64 [size]; zero where nothing is declared."""
    return np.concatenate([_first(document, tensor) for tensor in shape.schema.tensors])


def _first(document: BundleRecipe, tensor: TensorSpec) -> State:
    given = document.bundle.initial.get(tensor.name, 0.0)
    if isinstance(given, float | int | tuple):
        return np.broadcast_to(np.asarray(given, np.float64), tensor.size)
    return given.std * gaussian((tensor.size,), document.seed, "first state", tensor.name)


def advance(document: BundleRecipe, shape: Shape, state: State, summed: Sum) -> State:  # noqa: ARG001
    """Return the total, the mean, or the state plus the mean, as ``bundle.advance`` says."""
    match document.bundle.advance:
        case "total":
            return np.asarray(summed.values, dtype=np.float64)
        case "mean":
            return np.asarray(summed.mean, dtype=np.float64)
        case _:
            return np.asarray(state + summed.mean, dtype=np.float64)


def result(document: BundleRecipe, state: State, sites: int) -> dict[str, Any]:
    """Return ``{"tensors": {name: nested lists}, "sites"}``; no tensors of more than 4,096 values in all."""
    tensors: dict[str, Any] = {}
    start = 0
    for name, size in document.bundle.ordered if state.size <= MAX_SHOWN else ():
        count = math.prod(size)
        tensors[name] = state[start : start + count].reshape(size).tolist()
        start += count
    return {"tensors": tensors, "sites": sites}
