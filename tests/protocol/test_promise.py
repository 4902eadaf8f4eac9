"""Before a run: the facts of the plan are those that the run would use."""

from __future__ import annotations

from typing import Any

import pytest

from plasmid.bases.store import BaseModel
from plasmid.computations import finetune
from plasmid.core.errors import UsageError
from plasmid.dp.accounting import dp_sgd_noise
from plasmid.dp.claims import statement
from plasmid.planner.attempts import attempt_plan
from plasmid.planning.privacy import planned_facts, site_facts
from plasmid.protocol.messages import Planned
from plasmid.recipes.schema import Recipe
from support.tiny.tiny_task import tiny_recipe

RECORD = {"unit": "record", "mechanism": "dp-sgd", "epsilon": 4.0, "delta": 1e-5, "record_clip": 1.0}


def recipe(base: BaseModel, privacy: dict[str, Any], **training: Any) -> Recipe:
    document = tiny_recipe(base, **training).model_dump()
    return Recipe.model_validate({**document, "privacy": privacy})


@pytest.mark.usefixtures("at_home")
def test_a_site_is_calibrated_over_all_attempts(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], RECORD)
    facts = site_facts(document, "a", 160)
    # 2 rounds, 2 spare attempts, 4 steps each; 16 of 160 units in a sample
    assert (facts.rate, facts.public_size) == (0.1, 160)
    assert facts.noise_multiplier == dp_sgd_noise(rate=0.1, steps=16, epsilon=4.0, delta=1e-5)
    assert site_facts(document, "b", 8).rate == 1.0
    found = planned_facts(document, None, sites=4, c=1, participants=[facts])
    assert (found.theta, found.min_sites, found.attempts, found.steps) == (3, 3, 4, 4)
    assert found.spent()["a"] <= 4.0
    assert statement(found)[0].endswith("Each site's ledger is charged epsilon 4.")


@pytest.mark.usefixtures("at_home")
def test_shared_noise_is_the_plans(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], {**RECORD, "mechanism": "dp-fedsgd"}, steps=1)
    shape = finetune.shape(document, tiny["esm"])
    sites = [site_facts(document, "a", 160), site_facts(document, "b", 320)]
    assert [site.noise_multiplier for site in sites] == [None, None]
    found = planned_facts(document, shape, sites=5, c=1, participants=sites)
    plan = attempt_plan(document, shape, sites=5, c=1, planned=Planned(sites=5, c=1, noise_rate=0.1))
    assert (found.noise_std, found.scale_log2) == (plan.noise_std, plan.encoding.scale_log2)
    assert found.length == shape.schema.size
    assert found.spent()["b"] < found.spent()["a"] <= 4.0


@pytest.mark.usefixtures("at_home")
def test_without_a_unit_a_site_needs_no_size(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], {})
    found = planned_facts(document, None, sites=3, c=1, participants=[site_facts(document, "a", None)])
    assert found.spent() == {}
    assert statement(found)[0].startswith("There is no differential privacy")


@pytest.mark.usefixtures("at_home")
def test_sizes_and_sites_that_cannot_be(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], RECORD)
    for size, what in ((None, "unit record needs"), (0, "at least 1, not 0"), (200_000, "below 1/200000")):
        with pytest.raises(UsageError, match=what) as caught:
            site_facts(document, "a", size)
        assert caught.value.code == "usage.privacy"
    for sites, c in ((3, 2), (2, 1), (4, 0)):
        with pytest.raises(UsageError, match="a mask hides nothing"):
            planned_facts(document, None, sites=sites, c=c, participants=[])
