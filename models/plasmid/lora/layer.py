"""A frozen linear layer with LoRA factors, in one fused forward and one backward pass.

    y = x Wᵀ + b + (x · s Aᵀ) Bᵀ,   s = alpha / rank or alpha / sqrt(rank)      (Hu et al., https://arxiv.org/abs/2106.09685)

Rules
-----
1. The arithmetic is PEFT's: same factors, same scale, no dropout; only the order of operations differs.
2. Backward gives the input's gradient and, of A and B, either the sum over the batch (to autograd, as
   usual) or one gradient per row of the batch (to :class:`plasmid.lora.samples.Samples`). Both are the same
   number of multiplications, the second as a batched product; so private training costs what training costs.
3. B is kept transposed, [rank, out]: products with a narrow result are several times faster along rows.
4. Of a factor that does not learn no gradient is computed. A core (:meth:`LoraLinear.core_in`) is the square
   matrix C [rank, rank] in place of B: B transposed is C F, F [rank, out] being fixed; autograd, or rule 2,
   gives its gradient.
5. Under autocast everything here runs in its type, and gradients come back in the factors' type.
6. Factors may be held as copies, [copies, ...], each for its own run of as many rows of the batch, which
   stand in the order of the copies: the base's product is one for all, what factors do is a batched product.
7. How the frozen layer holds its weights is its own business. Packed ones (:mod:`plasmid.lora.packed`) are
   unpacked again backward, and not kept.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from plasmid.lora.packed import PackedLinear, product_type
from plasmid.lora.samples import Samples


class _Fused(torch.autograd.Function):
    """x [n, ..., in] -> [n, ..., out]; see :class:`LoraLinear`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, layer: LoraLinear) -> Tensor:
        dtype = product_type(x)
        weight, scaled, wide = layer.weight.to(dtype), (down * layer.scale).to(dtype), up.to(dtype)
        flat = x.to(dtype).reshape(-1, x.shape[-1])
        output = flat @ weight.T if layer.bias is None else torch.addmm(layer.bias.to(dtype), flat, weight.T)
        flat = _by_copy(flat, scaled)
        inner = flat @ scaled.mT
        output = _add_product(_by_copy(output, scaled), inner, wide)
        ctx.layer, ctx.shape, ctx.x_dtype, ctx.gather = layer, x.shape, x.dtype, layer.samples.on
        if ctx.gather:
            assert down.ndim == 2, "rows are not told apart where there are copies"
            ctx.rows = layer.samples.rows(len(x))
        kept = None if isinstance(layer.frozen, PackedLinear) else weight
        ctx.save_for_backward(flat, inner, kept, scaled, wide)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, inner, kept, scaled, wide = ctx.saved_tensors
        layer: LoraLinear = ctx.layer
        dtype = layer.lora_down.dtype
        grad = _by_copy(grad.to(flat.dtype).reshape(-1, grad.shape[-1]), scaled)
        narrow = grad @ wide.mT
        grad_x = None
        if ctx.needs_input_grad[0]:
            weight = layer.weight.to(flat.dtype) if kept is None else kept
            grad_x = _add_product(grad @ weight, narrow, scaled).to(ctx.x_dtype).view(ctx.shape)
        narrow = narrow * layer.scale
        down, up = layer.lora_down.requires_grad, layer.held_up.requires_grad
        if not ctx.gather:
            return (
                grad_x,
                (narrow.mT @ flat).to(dtype) if down else None,
                (inner.mT @ grad).to(dtype) if up else None,
                None,
            )
        flat, inner, narrow, grad = (
            value.view(ctx.shape[0], -1, value.shape[-1]) for value in (flat, inner, narrow, grad)
        )
        if down:
            layer.samples.add(layer.lora_down, ctx.rows, torch.bmm(narrow.mT, flat).to(dtype))
        if up:
            wide = grad if layer.frame is None else grad @ layer.frame.to(grad.dtype).T
            layer.samples.add(layer.held_up, ctx.rows, torch.bmm(inner.mT, wide).to(dtype))
        return grad_x, None, None, None


def _by_copy(flat: Tensor, factor: Tensor) -> Tensor:
    """Return *flat* [n, ...], or [copies, n / copies, ...] where *factor* is held as copies."""
    return flat if factor.ndim == 2 else flat.view(len(factor), -1, flat.shape[-1])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return total.addmm_(left, right) if total.ndim == 2 else total.baddbmm_(left, right)


class LoraLinear(nn.Module):
    """*linear*, frozen, with LoRA factors beside it. B starts at zero, so nothing changes at first.

    Attributes
    ----------
    frozen
        *linear*.
    lora_down, lora_up
        A [rank, in], and B transposed [rank, out]; or copies of them.
    lora_core, frame
        C and F where B is held so; None.
    scale
        s: :attr:`plasmid.bases.specs.LoraSpec.scale`.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float, samples: Samples) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.frozen = linear.requires_grad_(False)
        bound = self.in_features**-0.5
        device = next(chain(linear.parameters(), linear.buffers())).device
        self.lora_down = nn.Parameter(torch.empty(rank, self.in_features, device=device))
        self.lora_up = nn.Parameter(torch.zeros(rank, self.out_features, device=device))
        nn.init.uniform_(self.lora_down, -bound, bound)
        self.lora_core: nn.Parameter | None = None
        self.frame: Tensor | None = None
        self.scale = scale
        self.samples = samples

    @property
    def weight(self) -> Tensor:
        """W, [out, in]."""
        return self.frozen.weight

    @property
    def bias(self) -> Tensor | None:
        """b, [out]; None."""
        return self.frozen.bias

    @property
    def held_up(self) -> nn.Parameter:
        """What of B can learn: B transposed, or its core."""
        return self.lora_up if self.lora_core is None else self.lora_core

    def core_in(self, frame: Tensor) -> nn.Parameter:
        """Hold B as a core, zero at first, in *frame* [rank, out]; return the core [rank, rank]."""
        self.frame = frame.to(self.lora_up)
        self.lora_core = nn.Parameter(torch.zeros(len(frame), len(frame), device=frame.device))
        del self.lora_up
        return self.lora_core

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch
        """Return float [n, ..., out] for *input* [n, ..., in], n being the rows of the batch."""
        if self.lora_core is None or self.frame is None:
            up: Tensor = self.lora_up
        else:
            with torch.autocast(input.device.type, enabled=False):
                up = self.lora_core @ self.frame
        output: Tensor = _Fused.apply(input, self.lora_down, up, self)  # type: ignore[no-untyped-call]
        return output
