"""Federated LoRA fine-tuning, FedIT: average A, B and the head over the sites.

Zhang et al. 2024 (ICASSP, "Towards Building the Federated GPT: Federated Instruction Tuning"). The
state is the flat adapter. A site's vector is the difference that its local steps made to it, clipped
in L2 to the recipe's ``update_clip``; the mean of these differences is added to the state, with equal
weight for every site. The mean of A times the mean of B is not the mean of the products: that is the
method's known error, and why it is the baseline.

Under ``dp-fedsgd`` the vector is the sum of a Poisson sample's clipped gradients instead, and the state
takes one step of SGD with the rates of its parameter groups.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.computations.api import Shape, SiteHalf, State, Sum
from plasmid.models.adapter import adapter_schema, initial_state

if TYPE_CHECKING:
    import torch

    from plasmid.models.store import BaseModel
    from plasmid.recipes.schema import Recipe

SITE_HALF: SiteHalf = "loss"


def shape(document: Recipe, base: BaseModel | None) -> Shape:
    """Return the adapter's tensors, bounded as what a site sends: an update, or a sum of gradients."""
    assert base is not None, "fine-tuning needs a base model"
    schema = adapter_schema(base, document.adapter.lora, document.head())
    clip, expected = document.privacy.record_clip, document.training.batch
    if document.privacy.mechanism == "dp-fedsgd" and clip is not None:
        # A Poisson sample of expected size B is larger with a probability below 1e-12; the sum is clamped.
        most = expected + 8.0 * math.sqrt(expected) + 8.0
        return Shape(schema=schema, bound=clip * most, norm=None, bits=32)
    limit = document.privacy.update_clip
    return Shape(schema=schema, bound=limit, norm=limit, bits=32)


def initial(document: Recipe, shape: Shape) -> State:
    """Return the adapter before training: A random from the recipe's seed, B and head zero."""
    return initial_state(shape.schema, document.seed)


def losses(model: Any, batch: Any) -> torch.Tensor:
    """Return the loss of each row, [n], of the logits ``model(batch)`` against ``batch.labels``.

    It is that of the task's kind, whose source is in the recipe's digest as well.
    """
    found: torch.Tensor = model.spec.losses(model(batch).float(), batch.labels)
    return found


def advance(document: Recipe, shape: Shape, state: State, summed: Sum) -> State:
    """Return the state plus the mean update, or one step of SGD along the mean gradient (``dp-fedsgd``)."""
    mean = summed.mean
    if document.privacy.mechanism == "dp-fedsgd":
        training, scale = document.training, document.privacy.gradient_scale
        lora, head = training.lora_lr / scale.lora, training.head_lr / scale.head
        rate = {"head.weight": head, "head.bias": head}
        rate["head.covariates"] = training.covariate_lr / scale.covariates
        rates = [np.full(spec.size, rate.get(spec.name, lora)) for spec in shape.schema.tensors]
        mean = -np.concatenate(rates) * mean / training.batch
    return np.asarray(state + mean.astype(state.dtype))
