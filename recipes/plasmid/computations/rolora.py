"""RoLoRA: B learns in odd rounds, A in even ones, the head in all; what learned is averaged.

Chen, Ju, Dalal, Zhu and Khisti 2024 ("Robust Federated Finetuning of Foundation Models via Alternating
Minimization of LoRA", arXiv 2409.02346). One factor is the same at every site while the other learns, so the
mean of the products is the product of the means, and both learn in the end. B is first: while it is zero, the
gradient of A is exactly zero.

A site's vector is the half that learned, all layers' one after another, padded with zeros to the longer half,
so that its length is the same in every round and tells nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plasmid.adapters.adapter import AdapterSchema, TensorSpec, Vector, initial_state
from plasmid.computations._factors import (
    DOWN,
    UP,
    head_of,
    joined,
    no_frames,
    only,
    parts,
    schema_of,
    shape_of,
    step,
)
from plasmid.computations._personal import completed as adapter
from plasmid.computations._personal import public_of
from plasmid.computations.api import HEAD, Part, Shape, SiteHalf, State, Sum
from plasmid.computations.finetune import losses

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.schema import Recipe

__all__ = ["adapter", "losses"]

SITE_HALF: SiteHalf = "loss"
WORDS = "small matrices beside weights are trained on the rows, half of them a round"
LINEAR = True
SERVER_OPTIMISERS = True
SITE_RANKS = False
ADAPTER_KEYS: tuple[str, ...] = ()

frames = no_frames


def _learning(round_: int) -> str:
    """Return the end of the names of the factors that learn."""
    return UP if round_ % 2 else DOWN


def shape(document: Recipe, base: BaseModel | None) -> Shape:
    """Return one half of the factors and the head; the state is both halves and the head."""
    whole = public_of(document, base)
    half = TensorSpec("half", (max(only(whole, UP).size, only(whole, DOWN).size),))
    return shape_of(document, AdapterSchema((half, *head_of(whole))), public=whole)


def initial(document: Recipe, shape: Shape) -> State:
    """Return the adapter before training: A random from the recipe's seed, B and head zero."""
    return initial_state(shape.state, document.seed)


def learns(document: Recipe, round_: int) -> frozenset[Part]:  # noqa: ARG001
    """Return B or A, and the head."""
    return HEAD | {"B" if _learning(round_) == UP else "A"}


def sent(document: Recipe, base: BaseModel, before: Vector, after: Vector, round_: int) -> State:
    """Return the difference in the half that learned, padded, and in the head."""
    whole, sent_ = schema_of(document, base), shape(document, base).schema
    found = parts(whole, after - before)
    half = joined(only(whole, _learning(round_)), found)
    padded = np.zeros(sent_.tensors[0].size, np.float32)
    padded[: half.size] = half
    return joined(sent_, found | {"half": padded})


def advance(document: Recipe, shape: Shape, state: State, summed: Sum) -> State:
    """Return the state with the mean added to the half that learned, and to the head; padding is dropped."""
    half = _learning(summed.round)
    moved = parts(shape.schema, step(document, shape.schema, summed, up=half == UP))
    learned = only(shape.state, half)
    moved |= parts(learned, moved["half"][: learned.size])
    before = parts(shape.state, state)
    return joined(shape.state, {name: value + moved.get(name, 0.0) for name, value in before.items()})
