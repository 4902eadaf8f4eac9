"""Canaries fit the contract, their coins are fair, and they find out who trains without privacy."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa

from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.data.parsing import check_column
from plasmid.data.table import Table
from plasmid.dp.accounting import dp_sgd_epsilon, dp_sgd_noise
from plasmid.dp.canary_audit import Audit, planned_guesses
from plasmid.protocol.body import pack
from plasmid.recipes.schema import Recipe
from plasmid.tasks.metrics import label_indices
from plasmid.worker.canaries import Canaries
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from plasmid.worker.worker import Session
from support.hospital.snapshots import frame_rows
from support.tiny.tiny_task import tiny_recipe, tiny_table

COUNT = 200
COLUMNS: dict[str, dict[str, Any]] = {
    "note": {"type": "text", "max_length": 64, "max_characters": 40, "too_long": "refuse"},
    "person": {"type": "identifier"},
    "age": {"type": "number", "bounds": [17.5, 90.5], "integer": True},
    "crp": {"type": "number", "bounds": [0.0, 1e-3]},
    "ward": {"type": "category", "vocabulary": ["a", "b", "c"], "missing": "allowed"},
    "label": {"type": "label"},
}


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    document = recipe.model_dump(mode="json")
    for name, keys in sections.items():
        document[name] |= keys
    return Recipe.model_validate(document)


def test_a_canary_is_a_row_of_the_contract(tiny: dict[str, BaseModel]) -> None:
    recipe = changed(
        tiny_recipe(tiny["bert"]),
        data={"input": "note", "patient": "person", "columns": COLUMNS},
        adapter={"covariates": ["ward", "age"]},
        task={"labels": ["no", "yes", "perhaps"], "metric": "accuracy"},
    )
    rows = Canaries(recipe, Table({name: [] for name in COLUMNS}, 0), 300).rows
    assert list(rows.columns) == list(COLUMNS)
    labels = set(recipe.task.classes)
    for name, column in recipe.data.columns.items():
        texts = [str(cell) for cell in rows.columns[name]]
        checked = check_column(pa.array(texts), column, recipe.task.classes)
        assert (checked.values.to_pylist(), checked.findings) == (rows.columns[name], {}), name
    assert len(set(rows.columns["note"])) == len(set(rows.columns["person"])) == 300
    assert set(rows.columns["label"]) == labels
    assert set(rows.columns["ward"]) == {"a", "b", "c"}
    ages = [float(age) for age in rows.columns["age"] if age is not None]
    assert 18 <= min(ages) < 30 < 80 < max(ages) <= 90


def test_a_protein_is_random_residues_of_the_length_that_is_read(tiny: dict[str, BaseModel]) -> None:
    rows = Canaries(tiny_recipe(tiny["bert"]), tiny_table(8), 500).rows
    sequences = [str(cell) for cell in rows.columns["sequence"]]
    assert {len(sequence) for sequence in sequences} == set(range(15, 31))
    assert set("".join(sequences)) == set("ACDEFGHIKLMNPQRSTVWY")
    assert len(set(sequences)) == 500


def test_each_coin_is_fair_and_thrown_anew(tiny: dict[str, BaseModel]) -> None:
    recipe, table = tiny_recipe(tiny["bert"]), tiny_table(8)
    first, second = (Canaries(recipe, table, 2000) for _ in range(2))
    for canaries in (first, second):
        included = canaries._included
        assert abs(included.sum() - 1000) < 150  # 6.7 standard deviations: 2e-11
        assert abs((included[1:] == included[:-1]).sum() - 1000) < 150
        assert canaries.table.rows == 8 + included.sum()
        assert canaries.table.subset(range(8)).columns == table.columns
        planted = canaries.rows.subset(np.flatnonzero(included))
        assert canaries.table.subset(range(8, canaries.table.rows)).columns == planted.columns
    assert abs((first._included == second._included).sum() - 1000) < 150
    assert not set(first.rows.columns["sequence"]) & set(second.rows.columns["sequence"])


def test_the_guesses_are_as_many_as_planned_and_right_where_the_scores_are(
    tiny: dict[str, BaseModel],
) -> None:
    canaries = Canaries(tiny_recipe(tiny["bert"]), tiny_table(8), COUNT)
    truth = canaries._included.astype(np.float32)
    assert planned_guesses(COUNT) == 50
    assert canaries.guess(truth) == (50, 50)
    assert canaries.guess(-truth) == (50, 0)
    guesses, right = canaries.guess(np.zeros(COUNT))
    assert guesses == 50
    assert right < 50, "2e-15 if coins are fair"


def test_the_losses_are_those_of_the_predictions(tiny: dict[str, BaseModel]) -> None:
    engine = Engine(tiny_recipe(tiny["esm"]), tiny["esm"], tiny_table(8), device="cpu")
    size = engine.schema.size
    state = initial_state(engine.schema, 0) + np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)
    columns = tiny_table(150, seed=4).columns
    wanted = label_indices(["no", "yes"], columns["label"])
    likely = engine.predict(state, columns).values[np.arange(150), wanted]
    np.testing.assert_allclose(engine.losses(state, columns), -np.log(likely), rtol=1e-4, atol=1e-6)
    assert engine.losses(state, columns).dtype == np.float32


def audited(base: BaseModel, sampling: UnitSampling | None, epsilon: float) -> Audit:
    """Return the audit of 200 steps on 16 rows and about 100 of 200 canaries."""
    recipe = tiny_recipe(base, steps=200)
    canaries = Canaries(recipe, tiny_table(16), COUNT)
    engine = Engine(recipe, base, canaries.table, device="cpu")
    first = initial_state(engine.schema, 0)
    last = engine.train(first, steps=200, seed=1, sampling=sampling)
    columns = canaries.rows.columns
    total = np.array(canaries.guess(engine.losses(first, columns) - engine.losses(last, columns)))
    return Audit.of_sum(total, sites=1, canaries=COUNT, epsilon=epsilon, delta=1e-5)


def test_training_without_privacy_is_found_out(tiny: dict[str, BaseModel]) -> None:
    audit = audited(tiny["bert"], None, 1.0)
    assert audit.bound > 1.0, audit.sentence
    assert audit.verdict == "failed"


def test_training_with_dp_sgd_passes(tiny: dict[str, BaseModel]) -> None:
    rate, delta, epsilon = 16 / 128, 1e-5, 2.0
    noise = dp_sgd_noise(rate=rate, steps=200, epsilon=epsilon, delta=delta)
    sampling = UnitSampling(unit="record", clip=1.0, rate=rate, expected=16.0, noise_multiplier=noise)
    promised = dp_sgd_epsilon(rate=rate, noise_multiplier=noise, steps=200, delta=delta)
    assert 1.9 < promised <= epsilon
    audit = audited(tiny["bert"], sampling, promised)
    assert audit.bound < 1.5, "far from what the same canaries show without noise"
    assert audit.possible > promised
    assert audit.verdict == "passed", audit.sentence


class NoChannel:
    """A channel that nobody reads."""

    def send(self, header: dict[str, Any], body: Any = b"") -> None:
        pass


def test_a_worker_trains_on_canaries_and_audits_the_last_state(
    tiny: dict[str, BaseModel], at_home: None
) -> None:
    base = tiny["bert"]
    recipe = changed(
        tiny_recipe(base, steps=150), privacy={"audit": {"canaries": COUNT, "max_audited_epsilon": 1.0}}
    )
    frame = {
        "document": recipe.model_dump(mode="json"),
        "base": {"id": base.id, "revision": base.revision, "digest": base.digest},
    }
    session = Session(NoChannel(), threading.Event(), (frame | frame_rows(tiny_table(16), recipe), b""))
    assert session._engine._rows.labels.shape[0] == session._canaries.table.rows > 16
    first = initial_state(session.shape.schema, recipe.seed)
    order = {"phase": "train", "round": 1, "seed": 1, "sampling": None}

    def compute(state: np.ndarray, **changes: Any) -> np.ndarray:
        return session.compute((order | changes, pack("state", state)))

    middle = first + compute(first)
    last = middle + compute(middle, seed=2)
    found = compute(last, phase="audit")
    assert found.dtype == np.float64
    assert found[0] == 50
    assert found[1] > 40, "scored against the first state of the run"
    assert compute(first, phase="audit")[1] < 50, "the first state knows no canary"


def test_without_an_audit_there_is_no_canary(tiny: dict[str, BaseModel], at_home: None) -> None:
    base = tiny["bert"]
    recipe = tiny_recipe(base)
    frame = {
        "document": recipe.model_dump(mode="json"),
        "base": {"id": base.id, "revision": base.revision, "digest": base.digest},
    }
    session = Session(NoChannel(), threading.Event(), (frame | frame_rows(tiny_table(16), recipe), b""))
    assert len(session._engine._rows) == 16
