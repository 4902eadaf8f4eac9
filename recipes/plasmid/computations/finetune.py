"""Federated LoRA fine-tuning, FedIT: average A, B and the head over the sites.

Zhang et al. 2024 (ICASSP, "Towards Building the Federated GPT: Federated Instruction Tuning"). The
state is the flat adapter. A site's vector is the difference that its local steps made to it, clipped
in L2 to the recipe's ``update_clip``; the mean of these differences is added to the state, with equal
weight for every site. The mean of A times the mean of B is not the mean of the products: that is the
method's known error, and why it is the baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.computations.api import Shape, SiteHalf, State
from plasmid.models.adapter import adapter_schema, initial_state

if TYPE_CHECKING:
    import torch

    from plasmid.models.store import BaseModel
    from plasmid.recipes.schema import Recipe

SITE_HALF: SiteHalf = "loss"


def shape(document: Recipe, base: BaseModel | None) -> Shape:
    """Return the adapter's tensors, bounded by ``update_clip``."""
    assert base is not None, "fine-tuning needs a base model"
    schema = adapter_schema(base, document.adapter.lora, document.head())
    return Shape(schema=schema, bound=document.privacy.update_clip, bits=32)


def initial(document: Recipe, shape: Shape) -> State:
    """Return the adapter before training: A random from the recipe's seed, B and head zero."""
    return initial_state(shape.schema, document.seed)


def loss(model: Any, batch: Any) -> torch.Tensor:
    """Return the mean cross entropy of ``model(batch)`` [n, labels] against ``batch.labels`` [n]."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(model(batch).float(), batch.labels)


def advance(document: Recipe, state: State, total: State, sites: int) -> State:  # noqa: ARG001
    """Return the state plus the mean update."""
    return np.asarray(state + (total / sites).astype(state.dtype))
