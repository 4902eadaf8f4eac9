"""Frozen linear layers that serve the rows of many adapters at once.

    y[rows of k] = x Wᵀ + b + (x · s_k A_kᵀ) B_kᵀ,   s_k = alpha_k / rank_k,   for each adapter k of a batch

Rules
-----
1. The base's product is one for all rows. Rows are sorted by adapter before they come here, so that what an
   adapter adds is two plain products over a run of rows, the second in place (``addmm_``): no factor is
   copied and none is padded. Ranks and sets of layers may differ from adapter to adapter.
2. On an accelerator, where a start of a kernel costs more than a copy, the factors of the batch are
   gathered into [rows, rank, in] and [rows, rank, out], zeros behind smaller ranks, and added by two
   batched products (Punica, https://arxiv.org/abs/2310.18547, has a kernel of its own for that). Same
   numbers.
3. A layer holds no adapter: factors come with the batch, so that loading and dropping adapters needs no
   lock and leaves nothing behind.
4. The base's product is the library's, or oneDNN's where a trial on this machine finds that faster: on AMD's
   processors by a tenth, for what torch calls is made for Intel's.
5. No gradients: this is for serving. A is kept scaled, and B transposed, as in :mod:`plasmid.lora.layer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from plasmid.core.errors import ModelError

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x [..., in], weight [out, in], bias [out] or None -> x Wᵀ + b, [..., out], contiguous."""

_TRIAL_TOKENS, _TRIALS = 256, 7
_CLEARLY = 0.97
"""What share of the usual time another product may take to be taken instead."""


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the product as oneDNN computes it, on a CPU."""
    flat = x.reshape(-1, x.shape[-1])
    product: Any = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - torch's compiler calls it, too
    output: Tensor = product(flat, weight, bias, "none", [], "")
    return output.view(*x.shape[:-1], -1)


@torch.inference_mode()
def fastest(weights: Iterable[Tensor]) -> Product:
    """Return the product that is fastest for *weights*, each [out, in], here; takes some 100 ms."""
    samples = {weight.shape: weight for weight in weights}
    if any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in samples.values()):
        return linear
    usual = other = 0.0
    try:
        for weight in samples.values():
            x = torch.linspace(-1, 1, _TRIAL_TOKENS * weight.shape[1]).view(_TRIAL_TOKENS, -1)
            torch.testing.assert_close(onednn(x, weight, None), linear(x, weight), rtol=1e-3, atol=1e-3)
            turns = [(_seconds(linear, x, weight), _seconds(onednn, x, weight)) for _ in range(_TRIALS)]
            usual += min(turn[0] for turn in turns)
            other += min(turn[1] for turn in turns)
    except (AttributeError, AssertionError, RuntimeError):  # this build has no oneDNN, or another one
        return linear
    return onednn if other < _CLEARLY * usual else linear


def _seconds(product: Product, x: Tensor, weight: Tensor) -> float:
    began = time.perf_counter()
    product(x, weight, None)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Factors:
    """The factors of one adapter in one layer.

    Attributes
    ----------
    down
        s · A, [rank, in].
    up
        B transposed, [rank, out].
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Span:
    """Rows ``start`` up to ``stop`` of a batch belong to the adapter with *factors*, by the layer's path."""

    factors: Mapping[str, Factors]
    start: int
    stop: int


@dataclass
class Spans:
    """What the rows of the running batch belong to; shared by the layers of one model.

    Attributes
    ----------
    gathered
        Use batched products over gathered factors (rule 2).
    """

    gathered: bool = False
    rows: int = 0
    _spans: Sequence[Span] = ()

    @contextmanager
    def of(self, rows: int, spans: Sequence[Span]) -> Iterator[None]:
        """Say that the forward pass inside is of *rows* rows, and whose they are. One pass at a time."""
        self.rows, self._spans = rows, spans
        try:
            yield
        finally:
            self.rows, self._spans = 0, ()

    def add(self, path: str, x: Tensor, output: Tensor) -> None:
        """Add what the adapters do at the layer *path* to *output* [n, tokens, out], for *x* [n, tokens, in].

        Raises
        ------
        ModelError
            ``model.rows_mixed``: the batch has another number of rows.
        """
        if len(x) != self.rows:
            raise ModelError(
                "model.rows_mixed",
                f"a layer was given {len(x)} rows where the batch has {self.rows}.",
                "This architecture mixes rows before the layer, so rows cannot have adapters of their own.",
            )
        if self.gathered:
            self._add_gathered(path, x, output)
        else:
            self._add_runs(path, x, output)

    def _add_runs(self, path: str, x: Tensor, output: Tensor) -> None:
        flat, sums = x.reshape(-1, x.shape[-1]), output.view(-1, output.shape[-1])
        each = len(flat) // len(x)
        for span in self._spans:
            factors = span.factors.get(path)
            if factors is not None:
                start, stop = span.start * each, span.stop * each
                inner = factors.down @ flat[start:stop].T  # faster in this order: the narrow side is rows
                sums[start:stop].addmm_(inner.T, factors.up)

    def _add_gathered(self, path: str, x: Tensor, output: Tensor) -> None:
        factors = self._gather(path)
        if factors is not None:
            down, up = factors
            inner = torch.bmm(x.reshape(len(x), -1, x.shape[-1]), down.mT)
            output.view(len(x), -1, output.shape[-1]).baddbmm_(inner, up)

    def _gather(self, path: str) -> tuple[Tensor, Tensor] | None:
        """Return s·A [rows, rank, in] and Bᵀ [rows, rank, out] of the batch, None where there are none."""
        found = [(span, span.factors[path]) for span in self._spans if path in span.factors]
        if not found:
            return None
        widest = max((factors for _, factors in found), key=lambda factors: len(factors.up))
        down = widest.down.new_zeros(self.rows, *widest.down.shape)
        up = widest.up.new_zeros(self.rows, *widest.up.shape)
        for span, factors in found:
            rank = len(factors.up)
            down[span.start : span.stop, :rank] = factors.down
            up[span.start : span.stop, :rank] = factors.up
        return down, up


class MixedLinear(nn.Module):
    """The layer *plain* at *path*, frozen, whose rows get what their adapters add; see the module's rules."""

    def __init__(self, plain: nn.Linear, path: str, spans: Spans, product: Product = linear) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.path, self._spans, self._product = path, spans, product

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch
        """Return [n, ..., out] for *input* [n, ..., in], n being the rows of the batch."""
        output = self._product(input, self.weight, self.bias)
        self._spans.add(self.path, input, output)
        return output


def mix(model: nn.Module, paths: Sequence[str], spans: Spans, product: Product = linear) -> None:
    """Freeze *model* and replace its linear layers at *paths*."""
    model.requires_grad_(False)
    for path in paths:
        parent, _, name = path.rpartition(".")
        plain = model.get_submodule(path)
        assert type(plain) is nn.Linear, f"{path} is no plain linear layer"
        setattr(model.get_submodule(parent), name, MixedLinear(plain, path, spans, product))
