"""The fused layer against plain arithmetic, and the whole model against stock PEFT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plasmid.adapters.adapter import initial_state
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError
from plasmid.encoders.encoder import AdaptedModel
from plasmid.lora.attach import attach
from plasmid.lora.layer import LoraLinear
from plasmid.lora.samples import Samples
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import CategoryCovariate
from support.tiny.stock_peft import StockPeft

HEAD = ClassificationHead(labels=["no", "yes"], covariates=[CategoryCovariate(name="gene", vocabulary=["a"])])
COLUMNS = {
    "x": ["CASSYGQGPYGYTF", "CAS", "CASSFMGQGYEQYFCASSFMGQGY", "W", "CAYF"],
    "gene": ["a", None, "b", "a", "c"],
}
TARGETS = {
    "bert": ["query", "value"],
    "esm": ["query", "value"],
    "roberta": ["query", "value"],
    "modernbert": ["Wqkv"],
    "llama": ["q_proj", "v_proj"],
}


def _layer(*, bias: bool = True, inputs: int = 12, outputs: int = 20) -> LoraLinear:
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(inputs, outputs, bias=bias), rank=3, scale=2.0, samples=Samples())
    with torch.no_grad():
        layer.lora_up.normal_()
    return layer


def _plain(layer: LoraLinear, x: Tensor) -> Tensor:
    factors = (x @ layer.lora_down.T) @ layer.lora_up
    return nn.functional.linear(x, layer.weight, layer.bias) + 2.0 * factors


@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_summed_gradients(shape: tuple[int, ...], bias: bool) -> None:
    layer = _layer(bias=bias)
    x = torch.randn(*shape, 12, requires_grad=True)
    weights = torch.randn(*shape, 20)
    wanted = torch.autograd.grad((_plain(layer, x) * weights).sum(), [x, layer.lora_down, layer.lora_up])
    output = layer(x)
    torch.testing.assert_close(output, _plain(layer, x))
    found = torch.autograd.grad((output * weights).sum(), [x, layer.lora_down, layer.lora_up])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 2, 3)])
def test_gradients_of_single_rows(shape: tuple[int, ...]) -> None:
    layer = _layer()
    x = torch.randn(*shape, 12)
    weights = torch.randn(*shape, 20)
    layer.samples.on = True
    with layer.samples.part(torch.arange(5)):
        (layer(x) * weights).sum().backward()
    found = layer.samples.take()
    assert layer.lora_down.grad is None
    assert layer.lora_up.grad is None
    for parameter in (layer.lora_down, layer.lora_up):
        (block,) = found[parameter]
        assert block.rows.tolist() == [0, 1, 2, 3, 4]
        for row in range(5):
            loss = (_plain(layer, x[row : row + 1]) * weights[row : row + 1]).sum()
            (alone,) = torch.autograd.grad(loss, [parameter])
            torch.testing.assert_close(block.grads[row], alone, rtol=1e-5, atol=1e-5)
    assert layer.samples.take() == {}


def test_a_layer_that_is_used_twice_gets_the_sum() -> None:
    layer = _layer(outputs=12)
    x = torch.randn(4, 6, 12)
    layer.samples.on = True
    with layer.samples.part(torch.arange(4)):
        layer(layer(x)).square().sum().backward()
    (block,) = layer.samples.take()[layer.lora_up]
    for row in range(4):
        loss = _plain(layer, _plain(layer, x[row : row + 1])).square().sum()
        (alone,) = torch.autograd.grad(loss, [layer.lora_up])
        torch.testing.assert_close(block.grads[row], alone, rtol=1e-4, atol=1e-4)


def test_rows_that_were_mixed_are_refused() -> None:
    layer = _layer()
    layer.samples.on = True
    with layer.samples.part(torch.arange(4)), pytest.raises(ModelError) as caught:
        layer(torch.randn(8, 12))
    assert caught.value.code == "model.rows_mixed"
    layer.samples.on = False
    assert layer(torch.randn(8, 12)).shape == (8, 20)


def test_bf16_autocast() -> None:
    layer = _layer()
    x = torch.randn(4, 6, 12, requires_grad=True)
    exact = torch.autograd.grad(layer(x).square().sum(), [x, layer.lora_down, layer.lora_up])
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    rough = torch.autograd.grad(output.float().square().sum(), [x, layer.lora_down, layer.lora_up])
    layer.samples.on = True
    with torch.autocast("cpu", torch.bfloat16), layer.samples.part(torch.arange(4)):
        output = layer(x)
    output.float().square().sum().backward()
    blocks = layer.samples.take()
    rows = [blocks[parameter][0].grads for parameter in (layer.lora_down, layer.lora_up)]
    for precise, near in zip((*exact, *exact[1:]), (*rough, *(value.sum(0) for value in rows)), strict=True):
        assert near.dtype == torch.float32
        cosine = nn.functional.cosine_similarity(precise.flatten(), near.flatten(), dim=0)
        assert 0.999 < cosine < 1.0000001


def test_attach_freezes_the_rest() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    x = torch.randn(3, 4)
    before = model(x)
    found = attach(model, ["1.0"], rank=2, scale=1.0, samples=Samples())
    assert list(found) == ["1.0"]
    assert model[1][0] is found["1.0"]
    torch.testing.assert_close(model(x), before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"1.0.lora_down", "1.0.lora_up"}


@pytest.mark.parametrize("kind", sorted(TARGETS))
@pytest.mark.parametrize("every", [False, True], ids=["some", "all-linear"])
def test_outputs_and_gradients_are_pefts(kind: str, every: bool, zoo: dict[str, BaseModel]) -> None:
    targets = ["all-linear"] if every else TARGETS[kind]
    lora = LoraSpec(rank=4, alpha=8.0, targets=targets)
    ours, stock = AdaptedModel.load(zoo[kind], lora, HEAD), StockPeft(zoo[kind], lora, HEAD)
    noise = np.random.default_rng(1).standard_normal(ours.schema.size).astype(np.float32)
    state = initial_state(ours.schema, 0) + np.float32(0.2) * noise
    ours.set_state(state)
    stock.set_state(ours.schema, state)
    batch: Any = ours.encode(COLUMNS, input_column="x", max_length=30).batch(range(5))
    found, wanted = ours(batch), stock.logits(batch)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    found.square().sum().backward()
    wanted.square().sum().backward()
    gradient = ours.flat(parameter.grad for parameter in ours.trained().values())
    named = stock.by_name()
    assert sum(value.numel() for value in stock.parameters() if value.requires_grad) == ours.schema.size
    peft = ours.schema.flatten({spec.name: named[spec.name].grad.numpy() for spec in ours.schema.tensors})
    assert np.linalg.norm(gradient - peft) < 1e-5 * np.linalg.norm(peft)
