"""FFA-LoRA: A stays as it starts; B and the head are averaged.

Sun, Li, Li and Ding 2024 (ICLR, "Improving LoRA in Privacy-preserving Federated Learning", arXiv 2403.12313).
A is random from the recipe's seed, so everybody makes it anew and nobody sends it: the state is B and the
head. With one A the mean of the products is the product of the mean, and what noise does to B is not
multiplied by noise in A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.computations._factors import (
    DOWN,
    changed,
    joined,
    no_frames,
    parts,
    schema_of,
    shape_of,
    step,
    without,
)
from plasmid.computations._personal import public_of
from plasmid.computations.api import HEAD, Part, Shape, SiteHalf, State, Sum
from plasmid.computations.finetune import losses

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.schema import Recipe

__all__ = ["losses"]

SITE_HALF: SiteHalf = "loss"
WORDS = "one of every two small matrices beside weights is trained on the rows"
LINEAR = True
SERVER_OPTIMISERS = True
SITE_RANKS = False
ADAPTER_KEYS: tuple[str, ...] = ()

frames = no_frames


def shape(document: Recipe, base: BaseModel | None) -> Shape:
    """Return the factors B and the head."""
    return shape_of(document, without(public_of(document, base), DOWN))


def initial(document: Recipe, shape: Shape) -> State:  # noqa: ARG001
    """Return zeros."""
    return np.zeros(shape.state.size, np.float32)


def learns(document: Recipe, round_: int) -> frozenset[Part]:  # noqa: ARG001
    """Return B and the head."""
    return HEAD | {"B"}


def adapter(document: Recipe, base: BaseModel, state: State) -> Vector:
    """Return the state with A as it starts."""
    schema = schema_of(document, base)
    start = parts(schema, initial_state(schema, document.seed))
    return joined(schema, start | parts(without(public_of(document, base), DOWN), state))


def sent(document: Recipe, base: BaseModel, before: Vector, after: Vector, round_: int) -> State:  # noqa: ARG001
    """Return the difference in B and head."""
    return changed(document, base, without(public_of(document, base), DOWN), before, after)


def advance(document: Recipe, shape: Shape, state: State, summed: Sum) -> State:
    """Return the state plus the mean update, or one step of SGD (``dp-fedsgd``)."""
    return np.asarray(state + step(document, shape.schema, summed).astype(state.dtype))
