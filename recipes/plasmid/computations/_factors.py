"""What the LoRA methods share: the adapter's tensors by name, a site's reach, and the step along a mean.

Rules
-----
1. Head and covariate weights learn and are sent in every round, whatever the method does with the factors.
2. A site's vector is bounded as what it is: an update, clipped in L2 to the recipe's ``update_clip``, or
   (under ``dp-fedsgd``) the sum of a Poisson sample's clipped gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import PEFT_PREFIX, AdapterSchema, TensorSpec, Vector
from plasmid.computations._personal import whole_of
from plasmid.computations.api import Shape, Sum
from plasmid.core.errors import RecipeError

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.schema import Recipe

Tensors = Mapping[str, NDArray[np.floating[Any]]]

schema_of = whole_of

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def wide_enough(schema: AdapterSchema) -> AdapterSchema:
    """Return *schema*, all of whose layers have at least as many inputs and outputs as the rank.

    Raises
    ------
    RecipeError
        ``recipe.rank``: a layer has fewer, so that no factor of it can have orthonormal rows or columns.
    """
    for spec in schema.tensors:
        if not spec.name.endswith((DOWN, UP)):
            continue
        rank, width = spec.shape if spec.name.endswith(DOWN) else spec.shape[::-1]
        if width < rank:
            raise RecipeError(
                "recipe.rank",
                f"factors of rank {rank} cannot be orthonormal at {spec.name.removeprefix(PEFT_PREFIX)}, "
                f"which has a width of {width}.",
                "Lower adapter.lora.rank, or leave that layer out of adapter.lora.targets.",
            )
    return schema


def modules(schema: AdapterSchema) -> list[str]:
    """Return what the names of the factors of each adapted layer begin with, in order."""
    return [spec.name.removesuffix(DOWN) for spec in schema.tensors if spec.name.endswith(DOWN)]


def without(schema: AdapterSchema, *endings: str) -> AdapterSchema:
    """Return *schema* without the tensors whose names end so."""
    return AdapterSchema(tuple(spec for spec in schema.tensors if not spec.name.endswith(endings)))


def only(schema: AdapterSchema, ending: str) -> AdapterSchema:
    """Return the tensors of *schema* whose names end so."""
    return AdapterSchema(tuple(spec for spec in schema.tensors if spec.name.endswith(ending)))


def head_of(schema: AdapterSchema) -> tuple[TensorSpec, ...]:
    """Return the tensors of the head."""
    return without(schema, DOWN, UP).tensors


def parts(schema: AdapterSchema, vector: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the tensors of *vector* [schema.size] by name: views of it, in whatever dtype it has."""
    ends = np.cumsum([spec.size for spec in schema.tensors])
    pieces = np.split(vector, ends[:-1])
    return {spec.name: piece.reshape(spec.shape) for spec, piece in zip(schema.tensors, pieces, strict=True)}


def joined(schema: AdapterSchema, tensors: Tensors) -> Vector:
    """Return those of *tensors* that *schema* names as one vector, float32 [schema.size]."""
    found = [np.asarray(tensors[spec.name], np.float32).reshape(-1) for spec in schema.tensors]
    return np.concatenate(found)


def shape_of(
    document: Recipe,
    sent: AdapterSchema,
    *,
    public: AdapterSchema | None = None,
    most_sites: int | None = None,
) -> Shape:
    """Return the shape of a contribution of the tensors *sent*, an update or a sum of gradients."""
    bound: float = document.privacy.update_clip
    norm: float | None = bound
    clip, expected = document.privacy.record_clip, document.training.batch
    if document.privacy.mechanism == "dp-fedsgd" and clip is not None:
        # A Poisson sample of expected size B is larger with a probability below 1e-12; the sum is clamped.
        bound, norm = clip * (expected + 8.0 * math.sqrt(expected) + 8.0), None
    return Shape(schema=sent, bound=bound, norm=norm, bits=32, public=public, most_sites=most_sites)


def step(document: Recipe, schema: AdapterSchema, summed: Sum, *, up: bool = True) -> NDArray[np.float64]:
    """Return what the mean of *summed* moves: itself, or (``dp-fedsgd``) one step of SGD against it.

    The rates are those of the parameter groups in that round; what is neither of the head nor A has the rate
    of B, or of A where *up* is false.
    """
    mean = summed.mean
    if document.privacy.mechanism != "dp-fedsgd":
        return np.asarray(mean, np.float64)
    training, scale = document.training, document.privacy.gradient_scale
    down, head = training.lora_lr / scale.lora, training.head_lr / scale.head
    rate = {"head.weight": head, "head.bias": head}
    rate["head.covariates"] = training.covariate_lr / scale.covariates
    high = down * training.lora_b_ratio if up else down
    rates = [
        np.full(spec.size, rate.get(spec.name, down if spec.name.endswith(DOWN) else high))
        for spec in schema.tensors
    ]
    factor = training.factor(summed.round, document.rounds)
    return np.asarray(-np.concatenate(rates) * (factor / training.batch) * mean)


def no_frames(document: Recipe, base: BaseModel) -> dict[str, Vector]:  # noqa: ARG001
    """Return none: B is held as it is."""
    return {}


def changed(document: Recipe, base: BaseModel, sent: AdapterSchema, before: Vector, after: Vector) -> Vector:
    """Return what *after* differs from *before* in, for those tensors of the adapter that are *sent*."""
    return joined(sent, parts(schema_of(document, base), after - before))
