"""Further kinds of task in the training loop: against loops written out, row by row, cached, frozen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.bases.store import BaseModel
from plasmid.encoders.encoder import AdaptedModel
from plasmid.tasks import IGNORED
from plasmid.worker import engine as engine_module
from plasmid.worker.canaries import Canaries
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from plasmid.worker.order import order
from support.tiny.tiny_kinds import KINDS, kind_recipe, kind_table

NEW = KINDS[1:]
pytestmark = pytest.mark.parametrize("kind", NEW)


def _engine(base: BaseModel, kind: str, rows: int = 48, **training: Any) -> Engine:
    return Engine(kind_recipe(base, kind, **training), base, kind_table(kind, rows), device="cpu")


def _started(engine: Engine) -> Vector:
    """A state at which no gradient is zero by construction."""
    noise = np.random.default_rng(1).standard_normal(engine.schema.size).astype(np.float32)
    return initial_state(engine.schema, 0) + np.float32(0.2) * noise


def _loss(kind: str, logits: torch.Tensor, cells: list[Any]) -> torch.Tensor:
    """The loss of each row, from the cells of the label column alone."""
    if kind == "regression":
        targets = torch.tensor([min(float(cell), 60.0) / 30.0 - 1.0 for cell in cells])
        return (logits[:, 0] - targets) ** 2
    found = []
    for row, cell in enumerate(cells):
        log_p = logits[row].log_softmax(-1)  # the first token is special
        each = [-log_p[1 + at, "nw".index(one)] for at, one in enumerate(cell) if one != "."]
        found.append(torch.stack(each).mean() if each else log_p.sum() * 0.0)
    return torch.stack(found)


@pytest.mark.parametrize("architecture", ["bert", "esm"])
def test_three_steps_equal_a_loop_written_out(
    kind: str, architecture: str, tiny: dict[str, BaseModel]
) -> None:
    base, table = tiny[architecture], kind_table(kind, 48)
    recipe, engine = kind_recipe(base, kind), _engine(base, kind)
    start = initial_state(engine.schema, 0)
    found = engine.train(start, steps=3, seed=5)

    model = AdaptedModel.load(base, recipe.adapter.lora, recipe.head())
    model.set_state(start)
    rows = model.encode(table.columns, input_column="sequence", max_length=32)
    rates = {"lora": 5e-3, "head": 1e-2, "covariates": 5e-2}
    optimizers = [
        torch.optim.AdamW(group, lr=rates[name], weight_decay=0.0) for name, group in model.groups().items()
    ]
    for chosen in order(48, 16, 3, seed=5):
        cells = [table.columns["label"][row] for row in chosen]
        _loss(kind, model(rows.batch(chosen)), cells).mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert np.abs(found - start).max() > 0.01
    np.testing.assert_allclose(found, model.state(), atol=2e-5)


@pytest.mark.parametrize("architecture", ["bert", "esm"])
def test_gradients_of_rows_are_those_of_each_row_alone(
    kind: str, architecture: str, tiny: dict[str, BaseModel]
) -> None:
    base, table = tiny[architecture], kind_table(kind, 24, seed=3)
    recipe = kind_recipe(base, kind)
    engine = Engine(recipe, base, table, device="cpu")
    everyone = UnitSampling("record", clip=0.5, rate=1.0, expected=24.0, noise_multiplier=0.0)
    found = engine.gradient_sum(_started(engine), sampling=everyone)

    model = AdaptedModel.load(base, recipe.adapter.lora, recipe.head())
    model.set_state(_started(engine))
    rows = model.encode(table.columns, input_column="sequence", max_length=32)
    total = np.zeros(model.schema.size)
    clipped = 0
    for row in range(24):
        model.zero_grad()
        _loss(kind, model(rows.batch([row])), [table.columns["label"][row]]).sum().backward()
        gradient = model.flat(parameter.grad for parameter in model.trained().values())
        norm = float(np.linalg.norm(gradient))
        clipped += norm > 0.5
        total += gradient * min(1.0, 0.5 / max(norm, 1e-12))
    assert clipped > 5
    assert np.linalg.norm(total) > 0.5
    np.testing.assert_allclose(found, total, rtol=2e-5, atol=1e-5)  # clip factors are 1e-5 low


def test_cached_or_not_the_result_is_the_same(
    kind: str, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = _engine(tiny["esm"], kind)
    start = initial_state(cached.schema, 0)
    state = cached.train(start, steps=3, seed=0)
    assert cached._rows is not None
    assert cached._rows.hidden is not None
    monkeypatch.setattr(engine_module, "MAX_CACHE_BYTES", 0)
    whole = _engine(tiny["esm"], kind)
    np.testing.assert_allclose(whole.train(start, steps=3, seed=0), state, atol=2e-5)
    columns = kind_table(kind, 20, seed=2).columns
    one, other = cached.predict(state, columns), whole.predict(state, columns)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-5, atol=1e-5)
    assert len(one) == 20


def test_frozen_factors_give_what_an_uncached_encoder_gives(
    kind: str, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = _engine(tiny["bert"], kind, lora_lr=0.0)
    start = _started(frozen)
    state = frozen.train(start, steps=3, seed=0)
    assert frozen._rows is not None
    assert frozen._rows.pooled is not None
    monkeypatch.setattr(Engine, "_cache", lambda self: None)
    np.testing.assert_allclose(
        _engine(tiny["bert"], kind, lora_lr=0.0).train(start, steps=3, seed=0), state, atol=2e-5
    )
    moved = np.flatnonzero(state != start)
    head = sum(tensor.size for tensor in frozen.schema.tensors if tensor.name.startswith("head"))
    assert moved.min() >= frozen.schema.size - head


def test_it_learns_with_and_without_a_privacy_unit(kind: str, tiny: dict[str, BaseModel]) -> None:
    recipe = kind_recipe(tiny["bert"], kind)
    unseen = kind_table(kind, 60, seed=9)
    sampling = UnitSampling("record", clip=1.0, rate=16 / 96, expected=16.0, noise_multiplier=0.05)
    scores = []
    for private in (None, sampling):
        engine = Engine(recipe, tiny["bert"], kind_table(kind), device="cpu")
        state = engine.train(initial_state(engine.schema, 0), steps=60, seed=0, sampling=private)
        answers = engine.predict(state, unseen.columns)
        scores.append(recipe.head().score(recipe.task.metric, answers, unseen.columns["label"]))
    at_first = engine.predict(initial_state(engine.schema, 0), unseen.columns)
    before = recipe.head().score(recipe.task.metric, at_first, unseen.columns["label"])
    assert before < 0.5
    assert scores[0] > 0.65
    assert scores[1] > before + 0.1, scores


def test_canaries_fit_the_contract(kind: str, tiny: dict[str, BaseModel]) -> None:
    recipe = kind_recipe(tiny["bert"], kind)
    canaries = Canaries(recipe, kind_table(kind, 8), 12)
    rows = canaries.rows.columns
    own = np.array([len(str(one)) for one in rows["sequence"]])
    targets = recipe.head().targets(rows["label"], own)
    assert len(targets) == (own.sum() if kind == "token-classification" else 12)
    assert (targets != IGNORED).all()
    assert len(set(rows["label"])) == 12
    losses = Engine(recipe, tiny["bert"], canaries.table, device="cpu").losses(
        _started(_engine(tiny["bert"], kind)), rows
    )
    assert losses.shape == (12,)
    assert (losses > 0).all()


def test_a_row_without_a_label_teaches_nothing(kind: str, tiny: dict[str, BaseModel]) -> None:
    if kind != "token-classification":
        assert kind_recipe(tiny["bert"], kind).data.columns["label"].missing == "refused"
        return
    table = kind_table(kind, 3)
    table.columns["label"][1] = "." * len(str(table.columns["sequence"][1]))
    engine = Engine(kind_recipe(tiny["bert"], kind), tiny["bert"], table, device="cpu")
    losses = engine.losses(_started(engine), table.columns)
    assert losses[1] == 0.0
    assert losses[[0, 2]].min() > 0.0
