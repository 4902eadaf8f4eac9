"""One adapter out of several on the same base: what PEFT's ``add_weighted_adapter`` makes of their factors.

    method       what the child's update ΔW is                                           its rank
    cat          Σ w ΔW, exactly                                                         the sum
    svd          Σ w ΔW, cut to the largest singular values                              asked, or the largest
    linear       (Σ √w B)(Σ √w A): has cross terms, a rough approximation                the largest
    ties         as linear after trimming (https://arxiv.org/abs/2306.01708)             the largest
    dare_linear  as linear after dropping at random (https://arxiv.org/abs/2311.03099);  the largest
    dare_ties    as ties after that
    ..._svd      as these on ΔW itself, then cut                                         as svd

Rules
-----
1. Parents have the same base by digest, read the same columns and answer alike: the same kind of task, labels
   or bounds; all differences are told at once. Targets, layers and ranks may differ: missing factors are
   zero, short ones are padded with zeros.
2. No base weight is read (:mod:`plasmid.adapters.merge_factors`).
3. The child's scale is 1 (alpha = rank). Heads are averaged, by the same weights made to sum to 1.
4. How far the child's updates are from Σ w ΔW is measured, not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plasmid.adapters.adapter import (
    ALL_LINEAR,
    PEFT_PREFIX,
    AdapterSchema,
    Vector,
    adapter_schema,
    lora_modules,
)
from plasmid.adapters.artifact import Adapter
from plasmid.adapters.files import HeadFile
from plasmid.adapters.merge_factors import METHODS, Method, Pairs, cut, weighted
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError, UsageError

MAX_PARENTS = 32
MAX_RANK = 1024
_ALIKE = ("input", "kind", "spaced", "label", "metric", "columns")


@dataclass(frozen=True)
class Merged:
    """The child.

    Attributes
    ----------
    state
        float32 [schema.size].
    lora
        Its settings; its head is the parents'.
    max_length
        The largest of the parents', in tokens.
    distance
        ‖ΔW - Σ w ΔW_i‖ / ‖Σ w ΔW_i‖ (Frobenius, over all layers): 0 is the exact weighted sum.
    """

    schema: AdapterSchema
    state: Vector
    lora: LoraSpec
    max_length: int
    distance: float


def merge(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    base: BaseModel,
    *,
    method: Method,
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> Merged:
    """Return the child of *adapters* on *base*.

    Parameters
    ----------
    weights
        One for each adapter, positive.
    rank
        Of the child, for the svd methods; None is the largest of the parents'.
    density
        The part of the values that ties and dare keep, between 0 and 1; needed by them alone.
    seed
        Of what dare drops.

    Raises
    ------
    ModelError
        ``model.merge_mismatch``: the adapters differ in what has to be the same.
    UsageError
        ``usage.merge``: weights, rank or density cannot be used with this method.
    """
    _check_usage(len(adapters), weights, method, rank, density)
    check_alike(adapters)
    about = adapters[0].about
    spec = _union([adapter.about.lora for adapter in adapters], rank or 1)
    paths = [module.path for module in lora_modules(base, spec)]
    ranks = [adapter.about.lora.rank for adapter in adapters]
    if method == "cat":
        common, own = None, sum(ranks)
    elif method.endswith("svd"):
        common, own = None, rank or max(ranks)
    else:
        common, own = max(ranks), max(ranks)
    if own > MAX_RANK:
        raise _usage(f"the child would have rank {own}; at most {MAX_RANK} is possible.")
    shapes = {module.path: (module.outputs, module.inputs) for module in lora_modules(base, spec)}
    parents = [_padded(adapter, shapes, common) for adapter in adapters]
    if method == "svd":
        child = {path: cut([pairs[path] for pairs in parents], weights, own) for path in shapes}
    else:
        child = weighted(parents, [float(weight) for weight in weights], shapes, method, own, density, seed)
    lora = LoraSpec(rank=own, alpha=float(own), targets=spec.targets, layers=spec.layers)
    schema = adapter_schema(base, lora, about.head)
    tensors = _head(adapters, weights)
    for path in paths:
        tensors[f"{PEFT_PREFIX}{path}.lora_A.weight"], tensors[f"{PEFT_PREFIX}{path}.lora_B.weight"] = child[
            path
        ]
    return Merged(
        schema,
        schema.flatten(tensors),
        lora,
        max(adapter.about.max_length for adapter in adapters),
        _distance(child, parents, weights),
    )


def check_alike(adapters: Sequence[Adapter]) -> None:
    """Raise ModelError (``model.merge_mismatch``), naming every difference, unless they can be merged."""
    first, problems = adapters[0].about, list[str]()
    for place, adapter in enumerate(adapters[1:], 2):
        problems += _differences(first, adapter.about, place)
    if problems:
        raise ModelError(
            "model.merge_mismatch",
            f"the adapters cannot be merged: {'; '.join(problems)}.",
            "Merge adapters of one base that read the same columns and answer alike: the same labels, say.",
        )


def _differences(first: HeadFile, other: HeadFile, place: int) -> list[str]:
    found = []
    if other.base.digest != first.base.digest:
        found.append(
            f"the base of adapter {place} is {other.base.digest[:16]}..., not {first.base.digest[:16]}..."
        )
    held = [about.base.quantization for about in (other, first)]
    if held[0] != held[1]:
        found.append(f"adapter {place} was trained over weights with quantization {held[0]}, not {held[1]}")
    own = [about.head.model_dump(exclude={"covariates"}) for about in (first, other)]
    if own[0] != own[1]:
        found.append(f"adapter {place} {other.head.says()}, and not as adapter 1, which {first.head.says()}")
    if other.head.covariates != first.head.covariates:
        names = [[covariate.name for covariate in about.head.covariates] for about in (other, first)]
        found.append(
            f"adapter {place} has other covariates: {names[0]}, not {names[1]}, or with other settings"
        )
    for name in _ALIKE:
        if getattr(other, name) != getattr(first, name):
            shown = "" if name == "columns" else f": {getattr(other, name)!r}, not {getattr(first, name)!r}"
            found.append(f"adapter {place} differs in {name}{shown}")
    return found


def _check_usage(
    count: int, weights: Sequence[float], method: str, rank: int | None, density: float | None
) -> None:
    if method not in METHODS:
        raise _usage(f"there is no method {method!r}; there are {', '.join(METHODS)}.")
    if not 2 <= count <= MAX_PARENTS:
        raise _usage(f"{count} adapters; 2 to {MAX_PARENTS} can be merged.")
    if len(weights) != count or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise _usage(f"{len(weights)} weights for {count} adapters; give one positive number for each.")
    trims = method.startswith(("ties", "dare"))
    if trims and (density is None or not 0 < density < 1):
        raise _usage(f"{method} needs a density between 0 and 1: the part of the values that it keeps.")
    if density is not None and not trims:
        raise _usage(f"{method} takes no density.")
    if rank is not None and not (method.endswith("svd") and 1 <= rank <= MAX_RANK):
        raise _usage(f"a rank, from 1 to {MAX_RANK}, is for the svd methods; not {rank} for {method}.")


def _usage(what: str) -> UsageError:
    return UsageError("usage.merge", what, "See 'plasmid hub merge --help'.")


def _union(specs: Sequence[LoraSpec], rank: int) -> LoraSpec:
    """Return settings whose layers are those of all *specs*, and maybe more."""
    targets = list(dict.fromkeys(target for spec in specs for target in spec.targets))
    if ALL_LINEAR in targets:
        targets = [ALL_LINEAR]
    layers = [spec.layers for spec in specs]
    most = None if None in layers else max(count for count in layers if count is not None)
    return LoraSpec(rank=rank, alpha=float(rank), targets=targets, layers=most)


def _padded(adapter: Adapter, shapes: Mapping[str, tuple[int, int]], rank: int | None) -> Pairs:
    """Return the factors with the scale in A, zeros where there are none, of *rank* where that is given."""
    lora, found = adapter.about.lora, Pairs()
    scale, own = np.float32(lora.scale), rank or lora.rank
    for path, (outputs, inputs) in shapes.items():
        down = adapter.tensors.get(f"{PEFT_PREFIX}{path}.lora_A.weight")
        up = adapter.tensors.get(f"{PEFT_PREFIX}{path}.lora_B.weight")
        wide, high = np.zeros((own, inputs), np.float32), np.zeros((outputs, own), np.float32)
        if down is not None and up is not None:
            wide[: lora.rank], high[:, : lora.rank] = down * scale, up
        found[path] = wide, high
    return found


def _head(adapters: Sequence[Adapter], weights: Sequence[float]) -> dict[str, Vector]:
    """Return the weighted mean of the heads' tensors."""
    parts = np.asarray(weights, np.float64) / sum(weights)
    names = [name for name in adapters[0].tensors if not name.startswith(PEFT_PREFIX)]
    return {
        name: sum(
            part * adapter.tensors[name].astype(np.float64)
            for part, adapter in zip(parts, adapters, strict=True)
        ).astype(np.float32)
        for name in names
    }


def _distance(child: Pairs, parents: Sequence[Pairs], weights: Sequence[float]) -> float:
    """Return how far the child's updates are from the weighted sum of the parents'; see :class:`Merged`."""
    off = whole = 0.0
    for path, (down, up) in child.items():
        wanted = sum(
            np.float32(weight) * (pairs[path][1] @ pairs[path][0])
            for weight, pairs in zip(weights, parents, strict=True)
        )
        off += float(np.square(up @ down - wanted, dtype=np.float64).sum())
        whole += float(np.square(wanted, dtype=np.float64).sum())
    return math.sqrt(off / whole) if whole else 0.0
