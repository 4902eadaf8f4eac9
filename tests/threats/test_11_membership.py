"""Row 11. Attack: membership inference and canaries on the final adapter.

Must hold: lower bound <= ledger's (epsilon, delta); control without DP.

Three sites average their updates for 25 rounds, each with 8 rows and 80 canaries, about half of them in. The
attacker has the published states and all canaries, and guesses by the loss who was in. The same under
``dp-sgd`` by the terms that a site computes itself, and with a ledger that holds the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.dp.budgets import Budget
from plasmid.dp.canary_audit import Audit
from plasmid.gateway.home import SiteConfig
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.site_parameters import sampling, unit_terms
from plasmid.recipes.schema import Recipe
from plasmid.worker.canaries import Canaries
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe, tiny_table

SITES, ROWS, COUNT = 3, 8, 80
CONFIG = SiteConfig(name="north", organisation="North", public_size=64)
BUDGET = Budget(unit="record", epsilon=4.0, delta=1e-4)


def recipe(base: BaseModel, **privacy: Any) -> Recipe:
    document = tiny_recipe(base, steps=10, batch=32).model_dump(mode="json")
    document["federation"] |= {"rounds": 25, "spare_attempts": 2}
    document["privacy"] |= privacy
    return Recipe.model_validate(document)


@dataclass(frozen=True)
class Attack:
    """What the attacker makes of a run.

    Attributes
    ----------
    total
        [guesses, right] of the canary audit, over all sites.
    advantage
        How much more often a canary that was in has a smaller loss than one that was not: 0 is chance, 1 is
        always.
    """

    total: NDArray[np.int64]
    advantage: float


def attack(document: Recipe, base: BaseModel, noise: dict[str, Any] | None) -> Attack:
    """Train the sites, average, and return what the states give away."""
    planted = [Canaries(document, tiny_table(ROWS, seed=site), COUNT) for site in range(SITES)]
    engines = [Engine(document, base, canaries.table, device="cpu") for canaries in planted]
    steps, given = document.training.steps, UnitSampling(**noise) if noise else None
    first = state = initial_state(engines[0].schema, document.seed)
    for round_ in range(document.rounds):
        trained = [engine.train(state, steps=steps, seed=round_, sampling=given) for engine in engines]
        state = np.mean(trained, 0, dtype=np.float64).astype(np.float32)
    total = np.zeros(2, np.int64)
    members: list[float] = []
    others: list[float] = []
    for canaries in planted:
        last = engines[0].losses(state, canaries.rows.columns)
        total += canaries.guess(engines[0].losses(first, canaries.rows.columns) - last)
        members += last[canaries._included].tolist()
        others += last[~canaries._included].tolist()
    smaller = np.array(members)[:, None] < np.array(others)
    return Attack(total, 2 * float(smaller.mean()) - 1)


@pytest.mark.limit("without a unit the adapter tells who was in")
def test_control_without_dp_the_adapter_tells_who_was_in(tiny: dict[str, BaseModel]) -> None:
    found = attack(recipe(tiny["bert"]), tiny["bert"], None)
    audit = Audit.of_sum(found.total, sites=SITES, canaries=COUNT, epsilon=0.5, delta=1e-5)
    assert audit.bound > 0.5, audit.sentence
    assert audit.verdict == "failed"
    assert found.advantage > 0.25


@pytest.mark.promise("unit-is-private")
def test_with_dp_sgd_the_bound_is_below_the_ledger_s_epsilon(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    document = recipe(
        tiny["bert"], unit="record", mechanism="dp-sgd", epsilon=2.0, delta=1e-5, record_clip=1.0
    )
    terms = unit_terms(document, CONFIG.public_size)
    assert terms is not None
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.reserve(
        run="r1",
        digest="0" * 64,
        project="1" * 64,
        population="default",
        unit="record",
        epsilon=2.0,
        delta=1e-5,
        attempts=terms.attempts,
        budget=BUDGET,
    )
    ledger.spend("r1")
    spent = ledger.summary()["default"]

    found = attack(document, tiny["bert"], sampling(document, terms))
    audit = Audit.of_sum(
        found.total,
        sites=SITES,
        canaries=COUNT,
        epsilon=float(spent.spent_epsilon),
        delta=float(spent.spent_delta),
    )
    assert audit.epsilon == 2.0
    assert audit.possible > 2.0, "these canaries could have shown more"
    assert audit.bound <= 1.0, audit.sentence
    assert audit.verdict == "passed"
    assert abs(found.advantage) < 0.4, "5 standard deviations of mere guessing"
