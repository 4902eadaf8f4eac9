"""Federated LoRA fine-tuning, FedIT: average A, B and the head over the sites.

Zhang et al. 2024 (ICASSP, "Towards Building the Federated GPT: Federated Instruction Tuning", arXiv
2305.05644). The
state is the flat adapter. A site's vector is the difference that its local steps made to it, clipped
in L2 to the recipe's ``update_clip``; the mean of these differences is added to the state, with equal
weight for every site. The mean of A times the mean of B is not the mean of the products: that is the
method's known error, and why it is the baseline.

Under ``dp-fedsgd`` the vector is the sum of a Poisson sample's clipped gradients instead, and the state
takes one step of SGD with the rates of its parameter groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.computations._factors import changed, no_frames, shape_of, step
from plasmid.computations._personal import completed as adapter
from plasmid.computations._personal import public_of
from plasmid.computations.api import HEAD, Part, Shape, SiteHalf, State, Sum

if TYPE_CHECKING:
    import torch

    from plasmid.bases.store import BaseModel
    from plasmid.recipes.schema import Recipe

__all__ = ["adapter"]

SITE_HALF: SiteHalf = "loss"
WORDS = "small matrices beside a base model's weights are trained on the rows"
LINEAR = True
SERVER_OPTIMISERS = True
SITE_RANKS = False
ADAPTER_KEYS: tuple[str, ...] = ()

frames = no_frames


def shape(document: Recipe, base: BaseModel | None) -> Shape:
    """Return the adapter's tensors, bounded as what a site sends: an update, or a sum of gradients."""
    return shape_of(document, public_of(document, base))


def initial(document: Recipe, shape: Shape) -> State:
    """Return the adapter before training: A random from the recipe's seed, B and head zero."""
    return initial_state(shape.state, document.seed)


def losses(model: Any, batch: Any) -> torch.Tensor:
    """Return the loss of each row, [n], of the logits ``model(batch)`` against ``batch.labels``.

    It is that of the task's kind, whose source is in the recipe's digest as well.
    """
    found: torch.Tensor = model.spec.losses(model(batch).float(), batch.labels)
    return found


def learns(document: Recipe, round_: int) -> frozenset[Part]:  # noqa: ARG001
    """Return everything."""
    return HEAD | {"A", "B"}


def sent(document: Recipe, base: BaseModel, before: Vector, after: Vector, round_: int) -> State:  # noqa: ARG001
    """Return the difference."""
    return changed(document, base, public_of(document, base), before, after)


def advance(document: Recipe, shape: Shape, state: State, summed: Sum) -> State:
    """Return the state plus the mean update, or one step of SGD along the mean gradient (``dp-fedsgd``)."""
    return np.asarray(state + step(document, shape.schema, summed).astype(state.dtype))
