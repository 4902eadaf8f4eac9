"""The factors of a merged adapter: PEFT's ``add_weighted_adapter`` on layers without weights.

Rules
-----
1. PEFT works on a model of empty layers with the right shapes: no base weight is read, none takes memory.
2. Its ``svd`` is computed here, from thin factors: same product, in thousandths of the time.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from plasmid.adapters.adapter import Vector

Method = Literal[
    "cat", "svd", "linear", "ties", "dare_linear", "dare_ties", "ties_svd", "dare_linear_svd", "dare_ties_svd"
]
METHODS: tuple[Method, ...] = get_args(Method)

Pairs = dict[str, tuple[Vector, Vector]]
"""A [rank, in] and B [out, rank] by path."""


def cut(pairs: Sequence[tuple[Vector, Vector]], weights: Sequence[float], rank: int) -> tuple[Vector, Vector]:
    """Return A [rank, in] and B [out, rank] that are nearest to the weighted sum of the products of *pairs*.

    Factors side by side are thin: with B = Q R and A^T = P S, the singular values of B A are those of R S^T.
    """
    down = np.concatenate([pair[0] for pair in pairs]).astype(np.float64)
    up = np.concatenate(
        [weight * pair[1].astype(np.float64) for weight, pair in zip(weights, pairs, strict=True)], 1
    )
    (q, r), (p, s) = np.linalg.qr(up), np.linalg.qr(down.T)
    left, values, right = np.linalg.svd(r @ s.T, full_matrices=False)
    kept = min(rank, len(values))
    narrow = np.zeros((rank, down.shape[1]), np.float32)
    tall = np.zeros((up.shape[0], rank), np.float32)
    narrow[:kept] = right[:kept] @ p.T
    tall[:, :kept] = (q @ left[:, :kept]) * values[:kept]
    return narrow, tall


def weighted(
    parents: Sequence[Pairs],
    weights: list[float],
    shapes: Mapping[str, tuple[int, int]],
    method: Method,
    rank: int,
    density: float | None,
    seed: int,
) -> Pairs:
    """Return what PEFT makes of *parents*."""
    import torch
    from peft import LoraConfig, LoraModel

    names = [f"parent{place}" for place in range(len(parents))]
    skeleton = _skeleton(shapes)
    model: Any = None
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.filterwarnings("ignore", message=".*second adapter.*")
        for name, pairs in zip(names, parents, strict=True):
            size = len(next(iter(pairs.values()))[0])
            config = LoraConfig(r=size, lora_alpha=size, target_modules=list(shapes))
            if model is None:
                model = LoraModel(skeleton, config, name)
            else:
                model.peft_config[name] = config
                model.inject_adapter(skeleton, name)
            for path, (down, up) in pairs.items():
                layer = skeleton.get_submodule(path)
                layer.lora_A[name].weight.copy_(torch.from_numpy(down))
                layer.lora_B[name].weight.copy_(torch.from_numpy(up))
        torch.manual_seed(seed)
        own = {"svd_rank": rank, "svd_full_matrices": False} if method.endswith("svd") else {}
        model.add_weighted_adapter(names, weights, "child", combination_type=method, density=density, **own)
        layers = {path: skeleton.get_submodule(path) for path in shapes}
        return {
            path: (layer.lora_A["child"].weight.numpy().copy(), layer.lora_B["child"].weight.numpy().copy())
            for path, layer in layers.items()
        }


def _skeleton(shapes: Mapping[str, tuple[int, int]]) -> Any:
    """Return linear layers of those shapes [out, in] at those paths; their weights take no memory."""
    import torch
    from torch import nn

    root = nn.Module()
    for path, (outputs, inputs) in shapes.items():
        *parents, name = path.split(".")
        module = root
        for part in parents:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        layer = nn.Linear(inputs, outputs, bias=False, device="meta")
        layer.weight = nn.Parameter(torch.zeros(()).expand(outputs, inputs), requires_grad=False)
        module.add_module(name, layer)
    return root
