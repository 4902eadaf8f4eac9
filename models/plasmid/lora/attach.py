"""Putting LoRA factors on a model, and running its layers without keeping their activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from plasmid.lora.layer import LoraLinear
from plasmid.lora.samples import Samples


def attach(
    model: nn.Module, paths: Sequence[str], *, rank: int, scale: float, samples: Samples
) -> dict[str, LoraLinear]:
    """Freeze *model*, replace its linear layers at *paths*, and return the new ones by path, in order."""
    model.requires_grad_(False)
    layers: dict[str, LoraLinear] = {}
    for path in paths:
        parent, _, name = path.rpartition(".")
        linear = model.get_submodule(path)
        assert isinstance(linear, nn.Linear), f"{path} is no linear layer"
        layers[path] = LoraLinear(linear, rank=rank, scale=scale, samples=samples)
        setattr(model.get_submodule(parent), name, layers[path])
    return layers


def checkpointed(layers: nn.ModuleList) -> None:
    """Make each of *layers* keep its input only, and run again when gradients are due.

    transformers has a switch for it, which works in training mode alone.
    """
    for layer in layers:
        forward: Callable[..., Any] = layer.forward
        layer.forward = partial(checkpoint, forward, use_reentrant=False)
