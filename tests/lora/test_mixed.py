"""Rows of many adapters in one batch, each as if it were alone."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from plasmid.adapters.artifact import read_adapter
from plasmid.adapters.predict import Predictor
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError
from plasmid.encoders.mixed import Item, Loaded, MixedModel
from plasmid.encoders.slots import encode_covariates
from plasmid.lora.mixed import Factors, MixedLinear, Product, Span, Spans, fastest, mix, onednn
from support.tiny.served import ROWS, SHAPES, write


def _factors(rank: int, inputs: int, outputs: int, seed: int) -> Factors:
    source = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rank, inputs, generator=source), torch.randn(rank, outputs, generator=source))


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("product", [nn.functional.linear, onednn])
@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 2, 3)])
def test_each_row_gets_what_its_adapter_adds(
    gathered: bool, product: Product, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    linear, spans = nn.Linear(12, 20), Spans(gathered=gathered)
    layer = MixedLinear(linear, "here", spans, product)
    first, second = {"here": _factors(3, 12, 20, 1)}, {"here": _factors(7, 12, 20, 2)}
    elsewhere = {"there": _factors(3, 12, 20, 3)}
    x = torch.randn(*shape, 12)
    with torch.inference_mode(), spans.of(6, [Span(first, 0, 2), Span(elsewhere, 2, 3), Span(second, 4, 6)]):
        found = layer(x)
    wanted = linear(x)
    for factors, rows in ((first["here"], slice(0, 2)), (second["here"], slice(4, 6))):
        wanted[rows] = wanted[rows] + (x[rows] @ factors.down.T) @ factors.up
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_product_is_one_that_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(8, 6)
    assert fastest([weight]) in (nn.functional.linear, onednn)
    assert fastest([weight, weight.bfloat16()[:4]]) is nn.functional.linear

    def missing(*_: object) -> None:
        raise AttributeError

    monkeypatch.setattr("plasmid.lora.mixed.onednn", missing)
    assert fastest([weight]) is nn.functional.linear


def test_rows_that_were_mixed_are_refused() -> None:
    spans = Spans()
    model = nn.Sequential(nn.Linear(4, 4))
    mix(model, ["0"], spans)
    with spans.of(3, []), pytest.raises(ModelError) as caught:
        model(torch.randn(6, 4))
    assert caught.value.code == "model.rows_mixed"
    assert not any(parameter.requires_grad for parameter in model.parameters())


def _items(model: MixedModel, held: Mapping[str, Loaded], names: list[str]) -> list[Item]:
    tokens = model.tokens(ROWS["sequence"], 32)
    items = []
    for row, name in enumerate(names):
        loaded = held.get(name)
        slots = (
            None
            if loaded is None
            else encode_covariates(loaded.about.head.covariates, ROWS, len(tokens))[row % 6]
        )
        items.append(Item(tokens[row % 6], loaded, loaded is not None, slots))
    return items


@pytest.mark.parametrize("kind", ["bert", "esm", "modernbert", "roberta"])
@pytest.mark.parametrize("gathered", [False, True])
def test_a_mixed_batch_gives_what_predict_gives(
    kind: str, gathered: bool, zoo: dict[str, BaseModel], at_home: None, tmp_path: Path
) -> None:
    shapes = [shape for shape in SHAPES if kind in ("bert", "esm") or shape == "large"]
    folders = {
        f"{shape}-{seed}": write(tmp_path / f"{shape}-{seed}", zoo[kind], shape, seed=seed)
        for shape in shapes
        for seed in (0, 1)
    }
    model = MixedModel.load(zoo[kind], gathered=gathered)
    held = {name: model.hold(read_adapter(folder)) for name, folder in folders.items()}
    names = (["", *folders] * 6)[:18]  # neighbours differ; two lengths in one batch make groups
    found = model.run(_items(model, held, names))
    for name, folder in folders.items():
        alone = list(Predictor.load(folder, device="cpu").predict(ROWS).answers)
        rows = [row for row, one in enumerate(names) if one == name]
        assert rows
        for row in rows:
            np.testing.assert_allclose(found[row], alone[row % 6], atol=1e-5)
    base_alone = model.run(_items(model, {}, [""] * 6))
    for row, one in enumerate(names):
        if not one:
            np.testing.assert_allclose(found[row], base_alone[row % 6], atol=1e-5)
            assert found[row].shape == (32,)


def test_means_of_an_adapter_are_not_the_bases(
    tiny: dict[str, BaseModel], at_home: None, tmp_path: Path
) -> None:
    model = MixedModel.load(tiny["bert"])
    loaded = model.hold(read_adapter(write(tmp_path / "a", tiny["bert"], "large")))
    (tokens,) = model.tokens(["CASSF"], 32)
    mean, scored, base = model.run(
        [
            Item(tokens, loaded, False),
            Item(tokens, loaded, True, np.zeros(loaded.about.head.covariate_width, np.float32)),
            Item(tokens, None, False),
        ]
    )
    logits = torch.from_numpy(mean) @ loaded.weight.T + loaded.bias
    np.testing.assert_allclose(scored, logits.softmax(-1).numpy(), atol=1e-6)
    assert float(np.abs(mean - base).max()) > 0.1


def test_a_temperature_divides_the_logits(tiny: dict[str, BaseModel], at_home: None, tmp_path: Path) -> None:
    model = MixedModel.load(tiny["bert"])
    adapter = read_adapter(write(tmp_path / "a", tiny["bert"], "small"))
    calibrated = adapter.about.model_copy(update={"temperature": 2.0})
    (tokens,) = model.tokens(["CASSF"], 32)
    plain, cool = (
        model.run([Item(tokens, model.hold(type(adapter)(adapter.tensors, about, {})), True)])[0]
        for about in (adapter.about, calibrated)
    )
    np.testing.assert_allclose(np.log(cool[1] / cool[0]), np.log(plain[1] / plain[0]) / 2, atol=1e-5)


def test_bf16_is_near(tiny: dict[str, BaseModel], at_home: None, tmp_path: Path) -> None:
    adapter = read_adapter(write(tmp_path / "a", tiny["bert"], "small"))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = MixedModel.load(tiny["bert"], dtype=dtype)
        loaded = model.hold(adapter)
        items = [Item(tokens, loaded, False) for tokens in model.tokens(ROWS["sequence"], 32)]
        found.append(np.stack(model.run(items)).ravel())
        assert loaded.factors[next(iter(loaded.factors))].up.dtype == dtype
    exact, rough = found
    assert float(exact @ rough / np.linalg.norm(exact) / np.linalg.norm(rough)) > 0.99


def test_two_hundred_adapters_take_their_own_size(
    tiny: dict[str, BaseModel], at_home: None, tmp_path: Path
) -> None:
    model = MixedModel.load(tiny["bert"])
    folder = write(tmp_path / "a", tiny["bert"], "large")
    adapter = read_adapter(folder)
    model.run(_items(model, {"a": model.hold(adapter)}, ["a"] * 6))
    files = sum((folder / name).stat().st_size for name in ("adapter_model.safetensors", "head.safetensors"))
    gc.collect()
    before = psutil.Process().memory_info().rss
    held = {str(number): model.hold(adapter) for number in range(200)}
    model.run(_items(model, held, [str(number) for number in range(200)]))
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    assert sum(one.size_bytes for one in held.values()) <= 200 * files
    assert grown < 1.5 * 200 * files + 8 * 2**20
