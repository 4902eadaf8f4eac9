"""Gradients of single rows: against batches of one row and Opacus' hooks, in parts, under checkpointing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from plasmid.adapters.adapter import initial_state
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.computations import finetune
from plasmid.encoders.batches import Batch, Rows
from plasmid.encoders.encoder import AdaptedModel
from plasmid.lora.attach import attach, checkpointed
from plasmid.lora.layer import LoraLinear
from plasmid.lora.samples import Block, Samples, watch
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import CategoryCovariate, NumberCovariate
from support.tiny.stock_peft import StockPeft

HEAD = ClassificationHead(
    labels=["no", "yes", "maybe"],
    covariates=[
        CategoryCovariate(name="gene", vocabulary=["a", "b"]),
        NumberCovariate(name="age", bounds=(0, 90)),
    ],
)
COLUMNS = {
    "x": ["CASSYGQGPYGYTF", "CAS", "CASSFMGQGYEQYFCASSFMGQGY", "W", "CAYF", "CASSLLF", "CD", "CASSE", "CACC"],
    "gene": ["a", None, "zz", "b", "a", "a", None, "b", "a"],
    "age": [30.0, None, 90.0, 1.0, 9.0, 7.0, None, 55.0, 0.5],
    "label": ["no", "yes", "maybe", "yes", "no", "no", "no", "yes", "maybe"],
}
TARGETS = {
    "bert": ["query", "value"],
    "esm": ["query", "value"],
    "roberta": ["query", "value"],
    "modernbert": ["Wqkv"],
    "llama": ["q_proj", "v_proj"],
}
Grads = dict[str, Tensor]


def _spec(kind: str, every: bool) -> LoraSpec:
    return LoraSpec(rank=4, alpha=8.0, targets=["all-linear"] if every else TARGETS[kind])


def _load(base: BaseModel, lora: LoraSpec, *, checkpointing: bool = False) -> tuple[AdaptedModel, Rows]:
    model = AdaptedModel.load(base, lora, HEAD, checkpointing=checkpointing)
    noise = np.random.default_rng(1).standard_normal(model.schema.size).astype(np.float32)
    model.set_state(initial_state(model.schema, 0) + np.float32(0.2) * noise)
    return model, model.encode(COLUMNS, input_column="x", max_length=30, label_column="label")


def _whole(blocks: list[Block]) -> Tensor:
    """Return the gradients in the order of the rows."""
    rows = torch.cat([block.rows for block in blocks])
    return torch.cat([block.grads for block in blocks])[rows.argsort()]


def _ours(model: AdaptedModel, batch: Batch) -> Grads:
    """Return the gradients by name in the schema, each [rows, *shape]."""
    model.samples.on = True
    finetune.losses(model, batch).sum().backward()
    model.samples.on = False
    found = model.samples.take()
    names = {parameter: name for name, parameter in model.trained().items()}
    assert set(found) == set(names), "every trainable tensor, and no other"
    model.zero_grad()
    return {
        names[parameter]: _whole(blocks).mT if names[parameter].endswith("lora_B.weight") else _whole(blocks)
        for parameter, blocks in found.items()
    }


def _one_by_one(model: AdaptedModel, rows: Rows) -> Grads:
    found: dict[str, list[Tensor]] = {name: [] for name in model.trained()}
    for row in range(len(rows)):
        finetune.losses(model, rows.batch([row])).sum().backward()
        for name, parameter in model.trained().items():
            assert parameter.grad is not None
            found[name].append(parameter.grad.mT if name.endswith("lora_B.weight") else parameter.grad)
        model.zero_grad()
    return {name: torch.stack(values) for name, values in found.items()}


def _opacus(model: AdaptedModel, lora: LoraSpec, batch: Batch) -> Grads:
    stock = StockPeft(model.base, lora, HEAD)
    stock.set_state(model.schema, model.state())
    for module in stock.modules():  # Opacus looks at modules in training mode; dropout stays off
        module.training = any(value.requires_grad for value in module.parameters(recurse=False))
    watched = GradSampleModule(stock, strict=False, loss_reduction="sum")
    arguments = (batch.input_ids, batch.attention_mask, batch.own, batch.covariates)
    nn.functional.cross_entropy(watched(*arguments), batch.labels, reduction="sum").backward()
    return {name: parameter.grad_sample for name, parameter in stock.by_name().items()}


def _agree(found: Grads, wanted: Grads, within: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        by_row = (found[name] - value).flatten(1).norm(dim=1)
        assert (by_row <= within * value.flatten(1).norm(dim=1) + 1e-7).all(), name


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # Opacus' own
@pytest.mark.parametrize("kind", sorted(TARGETS))
@pytest.mark.parametrize("every", [False, True], ids=["some", "all-linear"])
def test_rows_agree_with_opacus_and_with_batches_of_one(
    kind: str, every: bool, zoo: dict[str, BaseModel]
) -> None:
    lora = _spec(kind, every)
    model, rows = _load(zoo[kind], lora)
    batch = rows.batch(range(len(rows)))
    assert batch.groups() is not None, "the encoder runs it in two parts"
    assert int(batch.attention_mask.sum()) < batch.input_ids.numel() / 2, "most of it is padding"
    found = _ours(model, batch)
    assert {name: value.shape[1:] for name, value in found.items()} == {
        spec.name: torch.Size(spec.shape) for spec in model.schema.tensors
    }
    _agree(found, _one_by_one(model, rows), 1e-4)
    _agree(found, _opacus(model, lora, batch), 1e-4)
    broken = found | {"head.bias": found["head.bias"].roll(1, 0)}  # the comparison can fail
    with pytest.raises(AssertionError, match=r"head\.bias"):
        _agree(broken, _one_by_one(model, rows), 1e-4)


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_checkpointing_changes_nothing(kind: str, zoo: dict[str, BaseModel]) -> None:
    lora = _spec(kind, True)
    model, rows = _load(zoo[kind], lora)
    batch = rows.batch(range(len(rows)))
    lean, _ = _load(zoo[kind], lora, checkpointing=True)
    calls: dict[int, int] = {0: 0, 1: 0}
    for place, one in enumerate((model, lean)):
        linear = next(module for module in one.modules() if isinstance(module, LoraLinear))
        linear.register_forward_hook(lambda *_, place=place: calls.update({place: calls[place] + 1}))
    _agree(_ours(lean, batch), _ours(model, batch), 1e-6)
    assert calls == {0: 2, 1: 4}, "two parts, and each of them again where nothing was kept"


def test_the_cached_lower_layers_change_nothing(zoo: dict[str, BaseModel]) -> None:
    lora = LoraSpec(rank=4, alpha=8.0, targets=["all-linear"], layers=2)
    model, rows = _load(zoo["esm"], lora)
    every = range(len(rows))
    _agree(_ours(model, model.cached(rows).batch(every)), _ours(model, rows.batch(every)), 1e-4)


class _Scaled(nn.Module):
    """A layer that Opacus has no function for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / x.pow(2).mean(-1, keepdim=True).sqrt()


def test_other_layers_are_left_to_opacus() -> None:
    torch.manual_seed(0)
    samples = Samples()
    model = nn.Sequential(
        nn.Embedding(9, 6),
        nn.LayerNorm(6),
        _Scaled(),
        nn.Linear(6, 6),
        nn.Sequential(nn.GELU(), nn.Linear(6, 4)),
    )
    attach(model[4], ["1"], rank=2, scale=1.0, samples=samples)
    nn.init.normal_(model[4][1].lora_up)
    for layer in model[:3]:
        layer.requires_grad_(True)
    model[3].bias.requires_grad_(False)
    watch(model, samples, skip=LoraLinear)
    checkpointed(nn.ModuleList([model[4]]))
    tokens = torch.randint(9, (5, 7))
    weights = torch.randn(5, 7, 4)
    samples.on = True
    with samples.part(torch.arange(5)):
        (model(tokens) * weights).sum().backward()
    samples.on = False
    found = samples.take()
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert set(found) == trained
    assert len(trained) == 7
    for row in range(5):
        model.zero_grad()
        (model(tokens[row : row + 1]) * weights[row : row + 1]).sum().backward()
        for parameter in trained:
            torch.testing.assert_close(_whole(found[parameter])[row], parameter.grad, rtol=1e-4, atol=1e-5)
