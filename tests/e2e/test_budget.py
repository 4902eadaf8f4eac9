"""Privacy budgets of deployed sites: spent, kept, and refused before anything is computed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

import pytest

from deployed import Deployment
from e2e.conftest import DONORS, ROWS
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.query import mean_from_bounds, noised

DELTA = 1e-6


def digest(epsilon: float, delta: float) -> str:
    document = mean_from_bounds("age", (0.0, 120.0), privacy=noised(epsilon, delta))
    return recipe_digest(document.model_dump(mode="json"), "mean")


def ask(
    federation: Deployment, epsilon: float, delta: float = DELTA, *, check: bool = False
) -> dict[str, Any]:
    """Ask for a noised mean as the researcher."""
    privacy = ["--epsilon", str(epsilon), "--delta", str(delta)]
    how = ["--bounds", "0,120", "--coordinator", federation.url, "--yes"]
    return federation.cli("researcher", "query", "mean", "--column", "age", *privacy, *how, check=check)


def ledger(federation: Deployment, donor: str) -> dict[str, Any]:
    """Return what ``plasmid privacy ledger`` tells a site's owner."""
    return dict(federation.cli(donor, "privacy", "ledger")["data"])


@pytest.fixture(scope="module")
def spent(federation: Deployment) -> Iterator[dict[str, Any]]:
    """The answer to a first question of epsilon 1, where each site's budget is 1.5."""
    digests = [digest(1.0, DELTA), digest(0.25, DELTA), digest(0.25, 0.01)]
    budget = {"unit": "record", "epsilon": 1.5, "delta": 0.1}
    federation.allow(digests, budgets={"default": budget})
    yield ask(federation, 1.0, check=True)["data"]
    federation.allow([])


def refused(federation: Deployment, answer: dict[str, Any], code: str, sentence: str) -> None:
    """Assert that every site refused in constant words, and computed nothing since the first question."""
    assert answer["error"]["code"] == "recipe.too_few_sites"
    for donor in DONORS:
        assert f"\n  {donor}: {sentence} [{code}]" in answer["error"]["message"]
        assert len(federation.log(donor, action="manifest")) == len(federation.log(donor, action="released"))
    assert "run_id" not in answer["data"]


def test_a_question_is_answered_with_noise_and_its_promise(
    federation: Deployment, spent: dict[str, Any]
) -> None:
    ages = []
    for donor in DONORS:
        with (federation.root / f"{donor}.csv").open(newline="") as file:
            ages += [float(row["age"]) for row in csv.DictReader(file) if row["age"]]
    result = spent["result"]
    assert result["sites"] == 3
    assert (
        0 < abs(result["count"] - len(ages)) < 200
    )  # of 480; the noise of three has a deviation of about 20
    assert abs(result["mean"] - sum(ages) / len(ages)) < 20
    said = " ".join(spent["privacy"])
    assert f", {DELTA:g})-differential privacy for any one record at a site" in said
    assert "Each site's ledger is charged epsilon 1." in said
    assert f"N = {ROWS} declared by its owner" in said
    assert "rehearsal" not in said


def test_what_was_spent_is_in_every_ledger(federation: Deployment, spent: dict[str, Any]) -> None:
    for donor in DONORS:
        (population,) = ledger(federation, donor)["populations"]
        assert (population["population"], population["unit"]) == ("default", "record")
        assert population["epsilon"] == {"budget": 1.5, "spent": 1.0, "reserved": 0.0, "left": 0.5}


def test_a_budget_that_would_be_exceeded_refuses_before_any_compute(
    federation: Deployment, spent: dict[str, Any]
) -> None:
    before = {donor: len(federation.log(donor, action="manifest")) for donor in DONORS}
    answer = ask(federation, 1.0)
    refused(federation, answer, "policy.budget", "The site's privacy budget has too little left for the run.")
    assert "0.5" not in answer["error"]["message"]  # how much is left is the owner's to know
    for donor in DONORS:
        told = federation.log(donor, action="refused", rule="policy.budget")[-1]["reason"]
        assert "population 'default' has left epsilon 0.5 of 1.5" in told
        assert len(federation.log(donor, action="manifest")) == before[donor]


def test_a_delta_that_would_allow_publishing_a_record_is_refused(
    federation: Deployment, spent: dict[str, Any]
) -> None:
    answer = ask(federation, 0.25, 0.01)
    refused(federation, answer, "policy.delta", "The site asks for a smaller delta.")
    told = federation.log(DONORS[0], action="refused", rule="policy.delta")[-1]["reason"]
    assert f"not below 1/{ROWS}" in told


def test_a_damaged_ledger_refuses_everything_until_it_is_mended(
    federation: Deployment, spent: dict[str, Any]
) -> None:
    donor = DONORS[0]
    path = federation.home(donor) / "site" / "ledger.jsonl"
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b'"epsilon":1,', b'"epsilon":0,', 1))
    assert path.read_bytes() != sound
    answer = ask(federation, 0.25)
    assert answer["error"]["code"] == "recipe.too_few_sites"
    assert (
        f"{donor}: The site's privacy ledger is damaged, so nothing runs there. [storage.ledger_damaged]"
        in answer["error"]["message"]
    )
    told = federation.log(donor, action="refused", rule="storage.ledger_damaged")[-1]["reason"]
    assert "is damaged" in told
    path.write_bytes(sound)
    assert ask(federation, 0.25, check=True)["data"]["result"]["sites"] == 3
    for site in DONORS:
        assert ledger(federation, site)["populations"][0]["epsilon"]["spent"] == 1.25


def test_every_contribution_was_charged(federation: Deployment, spent: dict[str, Any]) -> None:
    for donor in DONORS:
        lines = (federation.home(donor) / "site" / "ledger.jsonl").read_text().splitlines()
        attempts = [json.loads(line) for line in lines if json.loads(line)["event"] == "attempt"]
        assert len(attempts) == len({entry["run"] for entry in attempts}) >= 1
