"""Weights in 4 bits: the numbers, the layer against its unpacked twin, and what a backward pass keeps."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plasmid.lora.layer import LoraLinear
from plasmid.lora.nf4 import BLOCK, LEVELS, packable, packed_bytes
from plasmid.lora.packed import PackedLinear, pack
from plasmid.lora.samples import Samples

SHAPE = (48, 128)


def _weights(shape: tuple[int, int] = SHAPE, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32))


def _packed(weights: Tensor, bias: nn.Parameter | None = None) -> PackedLinear:
    parts = weights.reshape(-1).split(5 * BLOCK)
    return PackedLinear.of(parts, (weights.shape[0], weights.shape[1]), bias)


def _twin(layer: PackedLinear) -> nn.Linear:
    """Return the stock layer of the unpacked weights."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        if layer.bias is not None and plain.bias is not None:
            plain.bias.copy_(layer.bias)
    return plain.requires_grad_(False)


def _kept_in(sizes: list[int]) -> Any:
    """Note in *sizes* how large each tensor is that is kept for the backward pass."""

    def keep(one: Tensor) -> Tensor:
        sizes.append(one.numel())
        return one

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one)


def test_levels_times_a_scale_come_back_exactly_and_in_order() -> None:
    levels = torch.tensor(LEVELS)
    assert (len(LEVELS), LEVELS[7], list(LEVELS)) == (16, 0.0, sorted(LEVELS))
    weights = torch.stack([levels.repeat(4) * 0.75, levels.repeat(4) * 3.0])
    codes, scales = pack(weights.view(-1))
    assert codes.tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF] * 8
    assert (codes.dtype, scales.dtype, scales.tolist()) == (torch.uint8, torch.bfloat16, [0.75, 3.0])
    assert torch.equal(_packed(weights).weight, weights)


def test_every_weight_is_at_its_nearest_level_and_the_error_is_that_of_nf4() -> None:
    weights = _weights((256, 512))
    layer = _packed(weights)
    scales = layer.scales.float().repeat_interleave(BLOCK).view_as(weights)
    nearest = (weights / scales)[..., None].sub(torch.tensor(LEVELS)).abs().amin(-1) * scales
    error = (layer.weight - weights).abs()
    torch.testing.assert_close(error, nearest, rtol=0, atol=1e-7)
    # bitsandbytes 0.50 measures .0914 on normal weights in blocks of 64
    assert float(error.mean() / weights.abs().mean()) == pytest.approx(0.0914, abs=0.001)


def test_the_same_weights_have_the_same_codes_on_every_machine() -> None:
    # Computed by numpy, and by torch with and without vector instructions.
    raw = np.random.Philox(7).random_raw(64 * 256) >> np.uint64(40)
    weights = torch.from_numpy((raw.astype(np.float32) - 2.0**23) * np.float32(2.0**-24)).view(64, 256)
    layer = _packed(weights)
    told = hashlib.sha256(layer.codes.numpy().tobytes() + layer.scales.view(torch.int16).numpy().tobytes())
    assert told.hexdigest() == ("8dd1fd45905d90f1e29cc06d39cd09313c76ecf609a44e82a479b3102260fcf5")
    assert hashlib.sha256(layer.weight.numpy().tobytes()).hexdigest() == (
        "af57d665d959d0bb58c4eb6497f701a8f64ca2d61b8f3fb14e85f737fe172fb6"
    )
    assert torch.equal(_packed(weights * 2).codes, layer.codes), "a scale is a scale"


def test_a_block_of_zeros_and_one_weight_among_zeros() -> None:
    weights = torch.zeros(2, BLOCK)
    weights[1, 3] = -0.5
    assert torch.equal(_packed(weights).weight, weights)


def test_what_is_not_whole_blocks_cannot_be_packed() -> None:
    assert [packable(shape) for shape in ((2, 32), (3, 64), (3, 32), (1, 1))] == [True, True, False, False]
    assert packed_bytes((48, 128)) == 48 * 128 // 2 + 2 * 96
    layer = _packed(_weights())
    assert layer.codes.nbytes + layer.scales.nbytes == packed_bytes(SHAPE)
    with pytest.raises(AssertionError, match="not whole blocks"):
        PackedLinear.of([torch.zeros(96)], (3, 32))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layer_is_the_unpacked_one_and_keeps_no_weights(bias: bool, dtype: torch.dtype) -> None:
    layer = _packed(_weights(), nn.Parameter(torch.randn(48)) if bias else None)
    kept: list[int] = []
    found = []
    for one in (layer, _twin(layer)):
        x = torch.linspace(-1, 1, 5 * 7 * 128).view(5, 7, 128).requires_grad_()
        with (
            torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
            _kept_in(kept),
        ):
            output = one(x)
        (output.float() * torch.arange(48)).sum().backward()
        found.append((output, x.grad))
        if one is layer:
            assert kept == []
    assert kept, "the stock layer keeps its weights for the backward pass"
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [False, True], ids=["summed", "by row"])
def test_factors_on_packed_weights_learn_as_on_unpacked_ones(dtype: torch.dtype, rows: bool) -> None:
    packed = _packed(_weights(), nn.Parameter(torch.randn(48)))
    found, kept = [], []
    for frozen in (packed, _twin(packed)):
        torch.manual_seed(1)
        layer = LoraLinear(frozen, rank=3, scale=2.0, samples=Samples(on=rows))
        nn.init.normal_(layer.lora_up)
        x = torch.linspace(-1, 1, 5 * 7 * 128).view(5, 7, 128).requires_grad_()
        saved: list[int] = []
        with (
            torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
            _kept_in(saved),
            layer.samples.part(torch.arange(5)),
        ):
            output = layer(x)
        (output.float() * torch.arange(48)).sum().backward()
        blocks = layer.samples.take()
        grads = [blocks[one][0].grads if rows else one.grad for one in (layer.lora_down, layer.lora_up)]
        assert [name for name, one in layer.named_parameters() if one.requires_grad] == [
            "lora_down",
            "lora_up",
        ]
        found.append([output, x.grad, *grads])
        kept.append(48 * 128 in saved)
    assert kept == [False, True]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
