"""The training loop against a loop written out by hand, and its promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, RunFailed
from plasmid.data.snapshot import Snapshot
from plasmid.data.table import Joined, Table, concatenate
from plasmid.dp import noise as noise_module
from plasmid.dp.noise import Source
from plasmid.encoders.encoder import AdaptedModel
from plasmid.recipes.schema import Recipe
from plasmid.tasks.metrics import label_indices, score
from plasmid.worker import engine as engine_module
from plasmid.worker.canaries import Canaries
from plasmid.worker.dp import PATIENCE, UnitSampling
from plasmid.worker.engine import Engine
from plasmid.worker.order import order
from support.hospital.snapshots import snapshot_of
from support.tiny.tiny_task import tiny_recipe, tiny_table


def _engine(
    base: BaseModel, rows: int = 96, training: dict[str, Any] | None = None, **options: Any
) -> Engine:
    return Engine(tiny_recipe(base, **(training or {})), base, tiny_table(rows), device="cpu", **options)


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
    before = score("auc", engine.predict(state, unseen.columns).values, truth)
    for seed in range(3):
        state = engine.train(state, steps=40, seed=seed)
    after = score("auc", engine.predict(state, unseen.columns).values, truth)
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
    np.testing.assert_allclose(
        cached.predict(state, columns).values, whole.predict(state, columns).values, atol=1e-5
    )
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
    np.testing.assert_array_equal(exact.predict(state, columns).values, rough.predict(state, columns).values)


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


# Under a privacy unit

ALL = UnitSampling("record", clip=0.5, rate=1.0, expected=16.0, noise_multiplier=0.0)
NOBODY = UnitSampling("record", clip=0.5, rate=1e-15, expected=16.0, noise_multiplier=2.0)


def _started(engine: Engine) -> Vector:
    """A state at which no gradient is zero by construction."""
    noise = np.random.default_rng(1).standard_normal(engine.schema.size).astype(np.float32)
    return initial_state(engine.schema, 0) + np.float32(0.2) * noise


def _by_hand(base: BaseModel, table: Table, units: list[list[int]], clip: float) -> Vector:
    """The sum of clipped unit gradients from autograd alone, one row at a time."""
    recipe = tiny_recipe(base)
    model = AdaptedModel.load(base, recipe.adapter.lora, recipe.head())
    model.set_state(_started(_engine(base)))
    rows = model.encode(table.columns, input_column="sequence", max_length=32, label_column="label")
    total = np.zeros(model.schema.size)
    for unit in units:
        gradient = np.zeros(model.schema.size)
        for row in unit:
            model.zero_grad()
            batch = rows.batch([row])
            (-model(batch).log_softmax(-1)[0, batch.labels].sum()).backward()
            gradient += model.flat(parameter.grad for parameter in model.trained().values())
        total += gradient * min(1.0, clip / float(np.linalg.norm(gradient)))
    return total.astype(np.float32)


@pytest.mark.parametrize("kind", ["bert", "esm"])
def test_the_sum_is_that_of_single_rows_whatever_runs_it(
    kind: str, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = _by_hand(tiny[kind], tiny_table(40), [[row] for row in range(40)], 0.5)
    assert 2.0 < np.linalg.norm(wanted) <= 40 * 0.5, "the clip binds"
    for micro_rows in (64, 7, 1):
        monkeypatch.setattr(engine_module, "MICRO_ROWS", micro_rows)
        for checkpointing in (False, True):
            engine = _engine(tiny[kind], rows=40, checkpointing=checkpointing)
            found = engine.gradient_sum(_started(engine), sampling=ALL)
            assert found.dtype == np.float32
            assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_one_record_moves_the_sum_by_at_most_the_clip(tiny: dict[str, BaseModel]) -> None:
    whole = _engine(tiny["bert"], rows=24)
    state = _started(whole)
    total = whole.gradient_sum(state, sampling=ALL)
    for left in range(0, 24, 6):
        rest = tiny_table(24).subset([row for row in range(24) if row != left])
        engine = Engine(tiny_recipe(tiny["bert"]), tiny["bert"], rest, device="cpu")
        moved = np.linalg.norm(total - engine.gradient_sum(state, sampling=ALL))
        assert 0.49 < moved <= 0.5


def test_patients_are_clipped_as_one(tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch) -> None:
    people = ["ann", "bob", "ann", None, "cy", "bob", *["ann"] * 5, *["dee", "eve"] * 3, None, "cy", "flo"]
    table = Table({**tiny_table(20).columns, "who": list(people)}, 20)
    document = tiny_recipe(tiny["bert"]).model_dump()
    document["data"]["columns"]["who"] = {"type": "identifier"}
    document["data"]["patient"] = "who"
    recipe = Recipe.model_validate(document)
    units = table.groups("who")
    assert sorted(map(len, units)) == [1, 1, 1, 2, 2, 3, 3, 7]
    wanted = _by_hand(tiny["bert"], table, units, 0.5)
    everybody = UnitSampling("patient", 0.5, 1.0, 16.0, 0.0, max_records=16)
    for micro_rows in (64, 5, 1):
        monkeypatch.setattr(engine_module, "MICRO_ROWS", micro_rows)
        engine = Engine(recipe, tiny["bert"], table, device="cpu")
        found = engine.gradient_sum(_started(engine), sampling=everybody)
        assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)
    with pytest.raises(DataError) as caught:
        _engine(tiny["bert"]).gradient_sum(_started(engine), sampling=everybody)
    assert caught.value.code == "data.column_missing"


def test_a_step_that_nobody_is_in_is_noise_alone(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    engine = _engine(tiny["esm"], progress=lambda done, steps: seen.append(done))
    state = _started(engine)
    engine.train(state, steps=0, seed=0)
    monkeypatch.setattr(AdaptedModel, "forward", lambda *_: pytest.fail("the model was run on nothing"))
    moved = engine.train(state, steps=1, seed=0, sampling=NOBODY) - state
    rates = (5e-3, 1e-2, 5e-2)
    nearest = [min(rates, key=lambda rate: abs(rate - size)) for size in np.abs(moved)]
    assert set(nearest) == set(rates), "AdamW's first step: the sign of the noise times the rate, everywhere"
    # But for the few draws that are so near zero that AdamW's epsilon counts: those move less, and none more.
    assert (np.abs(moved) < np.array(nearest) * 1.01).all()
    assert (~np.isclose(np.abs(moved), nearest, rtol=1e-2)).sum() <= 3
    again = engine.train(state, steps=1, seed=0, sampling=NOBODY) - state
    assert 0.4 < (np.sign(moved) == np.sign(again)).mean() < 0.6, "the seed has no part in it"
    assert not engine.gradient_sum(state, sampling=NOBODY).any()
    engine.train(state, steps=3, seed=0, sampling=NOBODY)
    assert seen == [1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("kind", ["bert", "esm"])
def test_a_site_without_a_row_trains_on_noise_alone(kind: str, tiny: dict[str, BaseModel]) -> None:
    """Under a privacy unit a site whose rows were all left out takes part like any other."""
    recipe = tiny_recipe(tiny[kind])
    for table in (tiny_table(0), Snapshot(snapshot_of(tiny_table(0), recipe))):
        engine = Engine(recipe, tiny[kind], table, device="cpu")
        state = _started(engine)
        noised = UnitSampling("record", 1.0, 1.0, 16.0, 1.0)
        assert np.isfinite(engine.train(state, steps=2, seed=0, sampling=noised) - state).all()
        assert not engine.gradient_sum(state, sampling=NOBODY).any()


def test_without_noise_and_clip_it_is_plain_training(tiny: dict[str, BaseModel]) -> None:
    engine = _engine(tiny["bert"], rows=16)
    state = _started(engine)
    loose = UnitSampling("record", clip=1e6, rate=1.0, expected=16.0, noise_multiplier=0.0)
    private = engine.train(state, steps=3, seed=0, sampling=loose)
    engine.gradient_sum(state, sampling=ALL)
    plain = engine.train(state, steps=3, seed=0)
    assert np.abs(plain - state).max() > 0.01
    np.testing.assert_allclose(private, plain, atol=1e-3)
    fresh = _engine(tiny["bert"], rows=16).train(state, steps=3, seed=0)
    assert np.array_equal(plain, fresh), "nothing of the gathered gradients is left behind"


def test_scales_by_group_leave_the_unclipped_gradient_as_it_is(tiny: dict[str, BaseModel]) -> None:
    engine = _engine(tiny["bert"], rows=16, training={"optimizer": "sgd"})
    state = _started(engine)
    scale = {"head": 0.05, "covariates": 4.0}
    loose = UnitSampling("record", 1e6, 1.0, 16.0, 0.0)
    plain = engine.train(state, steps=1, seed=0, sampling=loose)
    scaled = engine.train(state, steps=1, seed=0, sampling=replace(loose, scale=scale))
    assert np.abs(plain - state).max() > 1e-3
    np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-7)
    tight = replace(ALL, scale=scale)
    total, usual = (engine.gradient_sum(state, sampling=sampling) for sampling in (tight, ALL))
    parts, others = engine.schema.unflatten(total), engine.schema.unflatten(usual)
    shares = [np.linalg.norm(found["head.weight"]) for found in (parts, others)]
    assert shares[0] < 0.5 * shares[1], "the head takes less of the clip"
    assert np.linalg.norm(total) <= 16 * 0.5


def test_sgd_goes_along_the_mean_gradient(tiny: dict[str, BaseModel]) -> None:
    engine = _engine(tiny["bert"], rows=16, training={"optimizer": "sgd"})
    state = _started(engine)
    sampling = UnitSampling("record", 0.5, 1.0, 16.0, 0.0)
    mean = engine.schema.unflatten(engine.gradient_sum(state, sampling=sampling) / np.float32(16.0))
    moved = engine.schema.unflatten(engine.train(state, steps=1, seed=0, sampling=sampling) - state)
    for name, gradient in mean.items():
        rate = {"head.weight": 1e-2, "head.bias": 1e-2, "head.covariates": 5e-2}.get(name, 5e-3)
        np.testing.assert_allclose(moved[name], -rate * gradient, rtol=1e-2, atol=2e-7)


def test_it_learns_under_a_unit(tiny: dict[str, BaseModel]) -> None:
    engine = _engine(tiny["bert"], rows=400)
    sampling = UnitSampling("record", clip=1.0, rate=0.16, expected=64.0, noise_multiplier=1.0)
    unseen = tiny_table(200, seed=9)
    state = engine.train(initial_state(engine.schema, 0), steps=60, seed=0, sampling=sampling)
    truth = label_indices(["no", "yes"], unseen.columns["label"])
    assert score("auc", engine.predict(state, unseen.columns).values, truth) > 0.8


def test_bf16_sums_stay_near_fp32(tiny: dict[str, BaseModel]) -> None:
    exact, rough = (_engine(tiny["bert"], training={"precision": name}) for name in ("fp32", "bf16"))
    truth, near = (engine.gradient_sum(_started(exact), sampling=ALL) for engine in (exact, rough))
    cosine = truth @ near / np.linalg.norm(truth) / np.linalg.norm(near)
    assert 0.99 < cosine < 0.9999999


def test_a_row_that_is_not_finite_counts_as_zero(tiny: dict[str, BaseModel]) -> None:
    engine = _engine(tiny["bert"], rows=12)
    state = _started(engine)
    engine._rows.covariates[3] = torch.inf
    wanted = _by_hand(tiny["bert"], tiny_table(12), [[row] for row in range(12) if row != 3], 0.5)
    found = engine.gradient_sum(state, sampling=ALL)
    assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)
    assert np.isfinite(engine.train(state, steps=2, seed=0, sampling=ALL)).all()
    with pytest.raises(RunFailed, match="the loss of step 1"):
        engine.train(state, steps=2, seed=0)


@pytest.mark.parametrize("private", [True, False])
def test_a_layer_that_gradients_do_not_reach_ends_the_run(private: bool, tiny: dict[str, BaseModel]) -> None:
    sampling = UnitSampling("record", 0.5, 0.5, 16.0, 1.0) if private else None
    for name, dead in (("head", "head.weight, head.bias"), ("value", "layer.2.attention.self.value.lora_A")):
        engine = _engine(tiny["bert"])
        state = _started(engine)
        layer: Any = engine._model.head
        if name == "value":
            layer = engine._model.encoder.encoder.layer[2].attention.self.value
        layer._forward_hooks.clear()
        weight, bias = layer.weight.detach(), layer.bias.detach()
        layer.forward = lambda x, weight=weight, bias=bias: nn.functional.linear(x, weight, bias)
        engine.train(state, steps=2, seed=0, sampling=sampling)
        with pytest.raises(RunFailed) as caught:
            engine.train(state, steps=2, seed=0, sampling=sampling)
        assert caught.value.code == "run.dead_tensor"
        assert dead in caught.value.message
        assert "layer.1" not in caught.value.message


def test_a_sound_run_is_not_taken_for_dead(tiny: dict[str, BaseModel]) -> None:
    """From the first state, where only the head has a gradient; rounds are tried again from one state."""
    engine = _engine(tiny["bert"])
    state = initial_state(engine.schema, 0)
    moving = []
    for _ in range(3):
        for _ in range(PATIENCE + 1):
            total = engine.gradient_sum(state, sampling=ALL)
        moving.append(sum(bool(part.any()) for part in engine.schema.unflatten(total).values()))
        state = state - np.float32(0.5 / 16) * total
    assert moving == [3, 7, 11], "the head, then B, then A"
    blind = Table(tiny_table(96).columns | {"gene": [None] * 96}, 96)
    engine = Engine(tiny_recipe(tiny["bert"]), tiny["bert"], blind, device="cpu")
    for _ in range(PATIENCE + 1):
        engine.train(_started(engine), steps=1, seed=0, sampling=ALL)


# Rows that stay in their file


def _with_people(base: BaseModel) -> tuple[Recipe, Table]:
    """A recipe with a patient column, and a table of it in which the longest person has four rows."""
    document = tiny_recipe(base).model_dump()
    document["data"]["columns"]["who"] = {"type": "identifier"}
    document["data"]["patient"] = "who"
    table = tiny_table(96)
    who: list[Any] = [f"p{row % 40}" for row in range(96)]
    return Recipe.model_validate(document), Table({**table.columns, "who": who}, 96)


def _both(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, Table, Snapshot]:
    """The same rows in the same order, in memory and in a file; nothing is cached of either."""
    monkeypatch.setattr(engine_module, "MAX_CACHE_BYTES", 0)
    recipe, table = _with_people(base)
    snapshot = Snapshot(snapshot_of(table, recipe))
    return recipe, snapshot.table(), snapshot


SAMPLINGS = [
    None,
    UnitSampling("record", clip=0.5, rate=0.2, expected=19.2, noise_multiplier=0.5),
    UnitSampling("patient", 0.5, 0.3, 12.0, 0.5, max_records=16),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["none", "record", "patient"])
@pytest.mark.parametrize("canaries", [False, True])
def test_rows_in_a_file_train_the_same_adapter_as_those_in_memory(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch, sampling: UnitSampling | None, canaries: bool
) -> None:
    """To the last bit: neither what is drawn nor what is computed from it depends on where rows are."""
    recipe, table, snapshot = _both(tiny["esm"], monkeypatch)
    rows: list[Any] = [table, snapshot]
    if canaries:
        joined = Canaries(recipe, snapshot, 10).table
        assert isinstance(joined, Joined)
        assert joined.rows > 96
        rows = [concatenate([table, joined.subset(range(96, joined.rows))]), joined]
    found = []
    for one in rows:
        source = Source(bytes(32))
        monkeypatch.setattr(engine_module, "Source", lambda source=source: source)
        monkeypatch.setattr(noise_module, "Source", lambda source=source: source)
        engine = Engine(recipe, tiny["esm"], one, device="cpu")
        found.append(engine.train(_started(engine), steps=3, seed=5, sampling=sampling))
    assert np.abs(found[0] - _started(engine)).max() > 1e-3
    assert np.array_equal(found[0], found[1])


def test_an_empty_sample_of_rows_in_a_file_is_noise_alone(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _, snapshot = _both(tiny["esm"], monkeypatch)
    engine = Engine(recipe, tiny["esm"], snapshot, device="cpu")
    state = _started(engine)
    assert not engine.gradient_sum(state, sampling=NOBODY).any()
    assert np.isfinite(engine.train(state, steps=2, seed=0, sampling=NOBODY)).all()


def test_only_the_rows_of_a_step_are_taken_from_the_file(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _, snapshot = _both(tiny["bert"], monkeypatch)
    taken: list[int] = []
    subset = snapshot.subset

    def counted(indices: Any) -> Table:
        taken.append(len(indices))
        return subset(indices)

    monkeypatch.setattr(snapshot, "subset", counted)
    monkeypatch.setattr(snapshot, "table", lambda: pytest.fail("the whole table was read"))
    engine = Engine(recipe, tiny["bert"], snapshot, device="cpu")
    engine.train(_started(engine), steps=4, seed=0)
    assert taken == [16] * 4
