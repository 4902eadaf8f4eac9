"""The training loop against a loop written out by hand, and its promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from plasmid.core.errors import RunFailed
from plasmid.models.adapter import initial_state
from plasmid.models.encoder import AdaptedModel
from plasmid.models.metrics import label_indices, score
from plasmid.models.store import BaseModel
from plasmid.training import engine as engine_module
from plasmid.training.engine import Engine, bf16_is_fast, order
from tiny_task import tiny_recipe, tiny_table


def _engine(
    base: BaseModel, rows: int = 96, training: dict[str, Any] | None = None, **options: Any
) -> Engine:
    return Engine(tiny_recipe(base, **(training or {})), base, tiny_table(rows), device="cpu", **options)


def test_order_is_seeded_permutations_without_replacement() -> None:
    batches = list(order(10, 4, 5, seed=3))
    assert [len(batch) for batch in batches] == [4] * 5
    assert all(len(set(np.concatenate(batches[start : start + 2]))) == 8 for start in (0, 2))
    assert [batch.tolist() for batch in order(10, 4, 5, seed=3)] == [batch.tolist() for batch in batches]
    assert [batch.tolist() for batch in order(10, 4, 5, seed=4)] != [batch.tolist() for batch in batches]
    assert [sorted(batch) for batch in order(3, 32, 2, seed=0)] == [[0, 1, 2]] * 2
    assert list(order(10, 4, 0, seed=0)) == []


@pytest.mark.parametrize("kind", ["bert", "esm"])
def test_three_steps_equal_a_loop_written_out(kind: str, tiny: dict[str, BaseModel]) -> None:
    base, table = tiny[kind], tiny_table()
    recipe = tiny_recipe(base)
    engine = _engine(base)
    start = initial_state(engine.schema, 0)
    found = engine.train(start, steps=3, seed=5)

    model = AdaptedModel.load(base, recipe.adapter.lora, recipe.head())
    model.set_state(start)
    rows = model.encode(table.columns, input_column="sequence", max_length=32, label_column="label")
    optimizers = [
        torch.optim.AdamW(model.groups()[name], lr=rate, weight_decay=0.0)
        for name, rate in (("lora", 5e-3), ("head", 1e-2), ("covariates", 5e-2))
    ]
    for chosen in order(96, 16, 3, seed=5):
        batch = rows.batch(chosen)
        log_p = model(batch).log_softmax(-1)
        (-log_p[torch.arange(16), batch.labels].mean()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert np.abs(found - start).max() > 0.01
    np.testing.assert_allclose(found, model.state(), atol=2e-5)


def test_the_same_call_gives_the_same_state(tiny: dict[str, BaseModel]) -> None:
    engine = _engine(tiny["bert"])
    start = initial_state(engine.schema, 0)
    first = engine.train(start, steps=4, seed=1)
    assert not np.array_equal(first, engine.train(start, steps=4, seed=2))
    assert np.array_equal(first, engine.train(start, steps=4, seed=1)), "a fresh optimiser, no state kept"
    assert np.array_equal(first, _engine(tiny["bert"]).train(start, steps=4, seed=1))
    assert np.array_equal(start, engine.train(start, steps=0, seed=1))


@pytest.mark.parametrize("kind", ["bert", "esm"])
def test_it_learns(kind: str, tiny: dict[str, BaseModel]) -> None:
    engine = _engine(tiny[kind])
    unseen = tiny_table(200, seed=9)
    truth = label_indices(["no", "yes"], unseen.columns["label"])
    state = initial_state(engine.schema, 0)
    before = score("auc", engine.predict(state, unseen.columns), truth)
    for seed in range(3):
        state = engine.train(state, steps=40, seed=seed)
    after = score("auc", engine.predict(state, unseen.columns), truth)
    assert before == 0.5, "B and the head start at zero"
    assert after > 0.95


def test_without_cache_the_result_is_the_same(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = _engine(tiny["esm"])
    start = initial_state(cached.schema, 0)
    monkeypatch.setattr(engine_module, "MAX_CACHE_BYTES", 0)
    whole = _engine(tiny["esm"])
    state = whole.train(start, steps=3, seed=0)
    columns = tiny_table(40, seed=2).columns
    np.testing.assert_allclose(cached.predict(state, columns), whole.predict(state, columns), atol=1e-5)
    monkeypatch.undo()
    np.testing.assert_allclose(cached.train(start, steps=3, seed=0), state, atol=2e-5)


def test_bf16_stays_near_fp32(tiny: dict[str, BaseModel]) -> None:
    exact, rough = (_engine(tiny["bert"], training={"precision": name}) for name in ("fp32", "bf16"))
    assert (exact.precision, rough.precision) == ("fp32", "bf16")
    start = initial_state(exact.schema, 0)
    truth = exact.train(start, steps=4, seed=0) - start
    near = rough.train(start, steps=4, seed=0) - start
    cosine = truth @ near / np.linalg.norm(truth) / np.linalg.norm(near)
    assert 0.9 < cosine < 1.0
    columns = tiny_table(20, seed=3).columns
    state = start + truth
    np.testing.assert_array_equal(exact.predict(state, columns), rough.predict(state, columns))


def test_auto_precision_follows_the_hardware(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    able = {"avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert bf16_is_fast(torch.device("cpu"))
    assert _engine(tiny["bert"], training={"precision": "auto"}).precision == "bf16"
    able.clear()
    assert _engine(tiny["bert"], training={"precision": "auto"}).precision == "fp32"
    assert not bf16_is_fast(torch.device("meta"))


def test_progress_and_stop(tiny: dict[str, BaseModel]) -> None:
    seen: list[tuple[int, int]] = []
    engine = _engine(
        tiny["bert"],
        progress=lambda done, steps: seen.append((done, steps)),
        should_stop=lambda: len(seen) == 3,
    )
    start = initial_state(engine.schema, 0)
    with pytest.raises(RunFailed) as caught:
        engine.train(start, steps=5, seed=0)
    assert caught.value.code == "run.stopped"
    assert seen == [(1, 5), (2, 5), (3, 5)]
    at_once = _engine(tiny["bert"], should_stop=lambda: True)
    with pytest.raises(RunFailed):
        at_once.train(start, steps=1, seed=0)


def test_what_is_not_finite_never_leaves(tiny: dict[str, BaseModel]) -> None:
    engine = _engine(tiny["bert"])
    start = initial_state(engine.schema, 0)
    start[-1] = np.nan
    with pytest.raises(RunFailed) as caught:
        engine.train(start, steps=1, seed=0)
    assert caught.value.code == "run.not_finite"
    assert "the loss of step 1 of 1" in caught.value.message
    with pytest.raises(RunFailed, match="after the last step"):
        engine.train(start, steps=0, seed=0)


def test_a_site_smaller_than_a_batch(tiny: dict[str, BaseModel]) -> None:
    engine = _engine(tiny["bert"], rows=3)
    start = initial_state(engine.schema, 0)
    assert np.isfinite(engine.train(start, steps=2, seed=0)).all()
