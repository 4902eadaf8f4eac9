"""FedSA-LoRA: A and the head are averaged, B learns at each site and stays there.

Guo, Zeng, Wang, Zhang, Wang and Yang 2025 (ICLR, "Selective Aggregation for Low-Rank Adaptation in Federated
Learning", arXiv 2410.01463): A of different sites turns out alike, B does not, so A is what they learn
together. Both learn in every round. A site's product is its own B times the common A; there is no mean
product to be exact about, and what is released (A and the head, with B as it starts) is no adapter that
anybody else could use. With ``adapter.personal: [head]`` the head stays at home as well.

In the first step B is zero and so is the gradient of A: with one step a round, A learns from the second on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.computations._factors import changed, no_frames, shape_of, step
from plasmid.computations._personal import completed as adapter
from plasmid.computations._personal import public_of
from plasmid.computations.api import HEAD, Part, Shape, SiteHalf, State, Sum
from plasmid.computations.finetune import losses

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.schema import Recipe

__all__ = ["adapter", "losses"]

SITE_HALF: SiteHalf = "loss"
WORDS = "small matrices beside weights are trained on the rows; half of them stay at the site"
LINEAR = True
SERVER_OPTIMISERS = True
SITE_RANKS = False
ADAPTER_KEYS: tuple[str, ...] = ()
PERSONAL: tuple[Part, ...] = ("B",)

frames = no_frames


def shape(document: Recipe, base: BaseModel | None) -> Shape:
    """Return the factors A and, unless it is personal, the head."""
    return shape_of(document, public_of(document, base))


def initial(document: Recipe, shape: Shape) -> State:
    """Return A random from the recipe's seed, and the head zero."""
    return initial_state(shape.schema, document.seed)


def learns(document: Recipe, round_: int) -> frozenset[Part]:  # noqa: ARG001
    """Return everything: A and B learn together, whoever keeps what."""
    return HEAD | {"A", "B"}


def sent(document: Recipe, base: BaseModel, before: Vector, after: Vector, round_: int) -> State:  # noqa: ARG001
    """Return the difference in what is public."""
    return changed(document, base, public_of(document, base), before, after)


def advance(document: Recipe, shape: Shape, state: State, summed: Sum) -> State:
    """Return the state plus the mean update."""
    return np.asarray(state + step(document, shape.schema, summed).astype(state.dtype))
