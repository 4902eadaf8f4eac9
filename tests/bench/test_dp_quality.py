"""The bench of private quality trains as the platform does, and never looks at the test when it shouldn't."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmarks.dp_quality import Bench, table, units, without
from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.computations import finetune
from plasmid.data.table import Table
from plasmid.dp.accounting import dp_sgd_noise
from plasmid.recipes.load import load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe, tiny_table

UNIT = {"unit": "record", "epsilon": 8.0, "delta": 1e-4, "record_clip": 1.0}


def recipe(base: BaseModel, **privacy: Any) -> Recipe:
    document = tiny_recipe(base, steps=1, batch=40, optimizer="sgd").model_dump(mode="json")
    return Recipe.model_validate(document | {"privacy": privacy})


def bench(base: BaseModel, document: Recipe, sites: int = 3) -> Bench:
    tables = {f"site-{number}": tiny_table(96, seed=number) for number in range(sites)}
    engines = {site: Engine(document, base, rows, device="cpu") for site, rows in tables.items()}
    return Bench("tiny", {}, tables, tiny_table(64, seed=9), engines, base)


def test_a_round_is_the_mean_of_the_clipped_updates_to_a_step_of_the_ring(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["bert"], update_clip=0.003)
    document = document.model_copy(
        update={"federation": document.federation.model_copy(update={"rounds": 1})}
    )
    made = bench(tiny["bert"], document)
    found = made.trained(document, list(made.tables), math.inf)
    start = initial_state(made.engines["site-0"].schema, 0)
    updates = []
    for number, engine in enumerate(made.engines.values()):
        update = engine.train(start, steps=1, seed=101 + number) - start
        updates.append(update * min(1.0, 0.003 / float(np.linalg.norm(update))))
    assert np.linalg.norm(updates[0]) == pytest.approx(0.003, rel=1e-4)
    np.testing.assert_allclose(found, start + np.mean(updates, axis=0), atol=1e-8)


def test_terms_are_the_gateways_for_a_rounded_size(tiny: dict[str, BaseModel]) -> None:
    made = bench(tiny["bert"], document := recipe(tiny["bert"], mechanism="dp-sgd", **UNIT))
    said = made.terms(document, "site-0", 8.0)
    assert said is not None
    assert (said.unit, said.clip, said.rate, said.expected) == (
        "record",
        1.0,
        0.4,
        40.0,
    )  # N = 100 for 96 rows
    assert said.noise_multiplier == dp_sgd_noise(rate=0.4, steps=4, epsilon=8.0, delta=1e-4)
    endless = made.terms(document, "site-0", math.inf)
    assert endless is not None
    assert endless.noise_multiplier == 0.0
    assert made.terms(recipe(tiny["bert"]), "site-0", math.inf) is None


def test_shared_noise_is_in_the_sum_and_left_out_at_infinity(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["bert"], mechanism="dp-fedsgd", **UNIT | {"epsilon": 1.0})
    # Everyone is in the sample: without noise two runs are one and the same.
    document = document.model_copy(update={"training": document.training.model_copy(update={"batch": 100})})
    made = bench(tiny["bert"], document)
    first, again = (made.trained(document, list(made.tables), math.inf) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    shape = finetune.shape(document, tiny["bert"])
    terms = {site: made.terms(document, site, 1.0) for site in made.tables}
    encoding = made.encoding(document, shape, terms)
    assert encoding.noise_variance > 0
    noisy = made.trained(document, list(made.tables), 1.0)
    assert np.abs(noisy - first).max() > 1e-3


def test_what_is_held_out_is_never_trained_on() -> None:
    care = load_recipe("care-encounters-dp").recipe
    tables = {site: Table({"patient": [f"{site}{row // 3}" for row in range(60)]}, 60) for site in ("a", "b")}
    kept, held = without(care, tables, 0)
    assert units(care, tables["a"]) == 20
    assert held.rows == 2 * 12
    assert [table.rows for table in kept.values()] == [48, 48]
    trained = {who for table in kept.values() for who in table.columns["patient"]}
    assert len(trained) == 32
    assert not trained & set(held.columns["patient"])
    donors = {name: Table({"cdr3": [name]}, 1) for name in ("x", "y", "z")}
    kept, held = without(load_recipe("tcr-covid-dp").recipe, donors, 1)
    assert (list(kept), held.columns["cdr3"]) == (["x", "z"], ["y"])


def test_the_table_shows_mean_and_spread() -> None:
    runs = [
        {
            "epsilon": "8.0",
            "federated": figure,
            "sites": {"a": {"noise_multiplier": 2.0}, "b": {"noise_multiplier": 3.5}},
            "alone": {"a": 0.5, "b": figure - 0.2},
        }
        for figure in (0.8, 0.9)
    ]
    last = table(runs, (math.inf, 8.0)).splitlines()[-1]
    assert last == "| 8 | 2.00 to 3.50 | 0.850 ± 0.071 | 0.650 ± 0.071 | 0.575 ± 0.035 |  |"


@pytest.mark.parametrize("name", ["tcr-covid", "phenotype", "care-encounters"])
def test_a_private_recipe_shares_the_data_and_keeps_its_budget_at_every_site(name: str) -> None:
    plain, private = load_recipe(name).recipe, load_recipe(f"{name}-dp").recipe
    assert (private.data, private.task, private.model) == (plain.data, plain.task, plain.model)
    # Words of a sequence are thousands of weights, each of which would cost noise.
    words = {one.name for one in plain.head().covariates if one.type == "sequence"}
    assert set(private.adapter.covariates) == set(plain.adapter.covariates) - words
    assert private.privacy.unit == ("patient" if name == "care-encounters" else "record")
    assert (private.privacy.mechanism, private.privacy.epsilon, private.privacy.delta) == ("dp-sgd", 8, 1e-5)
    # One step a round, so that `--set privacy.mechanism=dp-fedsgd` is all that shared noise takes.
    assert private.training.steps == 1
