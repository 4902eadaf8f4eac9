"""A frozen linear layer that holds its weights in 4 bits, for training on bases that are too large otherwise.

Rules
-----
1. Weights are unpacked to float32 where they are used, forward and again backward, and forgotten: one layer's
   exist at a time, and no backward pass keeps any. Under autocast the product is in its type.
2. No gradient is of a packed weight. The input's is that of the unpacked layer.
3. Packing divides, rounds and compares on the CPU; unpacking looks up and multiplies once. Each of these has
   one right result in IEEE 754, so the same weights give the same codes, and these the same float32 weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from plasmid.lora.nf4 import BLOCK, LEVELS, packable

AT_ONCE = 4096 * BLOCK
"""Weights that are packed at a time: what that takes stays in a core's cache."""


def product_type(x: Tensor) -> torch.dtype:
    """Return in which type a product with *x* is computed: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def pack(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes, uint8 [n / 2], the first of a pair in the upper half, and scales, bfloat16 [n / 64].

    Parameters
    ----------
    values
        float32 [n], whole blocks, on the CPU.
    """
    blocks = values.view(-1, BLOCK)
    scales = blocks.abs().amax(1).to(torch.bfloat16)
    levels = torch.tensor(LEVELS)
    between = (levels[1:] + levels[:-1]) / 2
    # A block of zeros has no level: 0 / 0 gets any, and comes back as 0.
    codes = (
        torch.bucketize(blocks / scales.float()[:, None], between, out_int32=True).view(-1).to(torch.uint8)
    )
    return (codes[::2] << 4) | codes[1::2], scales


@cache
def _pairs(device: torch.device) -> Tensor:
    """Return the two levels of each byte as one number of 64 bits, [256]."""
    codes, levels = torch.arange(256), torch.tensor(LEVELS)
    return torch.stack([levels[codes >> 4], levels[codes & 15]], 1).view(torch.int64).view(-1).to(device)


class PackedLinear(nn.Linear):
    """A linear layer with packed weights; see the module's rules. Make one with :meth:`of`.

    Attributes
    ----------
    codes, scales
        As :func:`pack` returns them.
    """

    codes: Tensor
    scales: Tensor
    bias: nn.Parameter | None  # type: ignore[assignment]

    def __init__(
        self, codes: Tensor, scales: Tensor, shape: tuple[int, int], bias: nn.Parameter | None
    ) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = bias

    @classmethod
    def of(
        cls, parts: Iterable[Tensor], shape: tuple[int, int], bias: nn.Parameter | None = None
    ) -> PackedLinear:
        """Return the layer of the weights [out, in] that are in *parts* in C order.

        Parameters
        ----------
        parts
            float32 [n] each, whole blocks, on the CPU.
        """
        assert packable(shape), f"{shape} is not whole blocks of {BLOCK}"
        some = (values for part in parts for values in torch.split(part, AT_ONCE))
        codes, scales = zip(*map(pack, some), strict=True)
        return cls(torch.cat(codes), torch.cat(scales), shape, bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights, float32 [out, in], unpacked anew each time."""
        pairs = _pairs(self.codes.device).index_select(0, self.codes.to(torch.int32))
        blocks = pairs.view(torch.float32).view(-1, BLOCK)
        return blocks.mul_(self.scales.float()[:, None]).view(self.out_features, self.in_features)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch
        """Return float [..., out] for *input* [..., in]."""
        output: Tensor = _Unpacked.apply(input, self)  # type: ignore[no-untyped-call]
        return output


class _Unpacked(torch.autograd.Function):
    """x [..., in] -> [..., out], with weights that are unpacked twice and never kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        dtype = product_type(x)
        ctx.layer, ctx.dtype, ctx.x_dtype = layer, dtype, x.dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return linear(x.to(dtype), layer.weight.to(dtype), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad.to(ctx.dtype) @ ctx.layer.weight.to(ctx.dtype)).to(ctx.x_dtype), None
