"""A private ``tcr-covid`` as deployed: each party with its own folder and, as root, its own user of the host.

Then privacy budgets of the same sites: spent, kept, and refused before anything is computed.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import DONORS, DP_SGD, PARTIES, QUICK, ROWS, excerpt
from plasmid.dp.claims import statement
from plasmid.dp.privacy_statement import PrivacyFacts
from plasmid.gateway.ledger import Ledger
from plasmid.recipes.catalogue import get
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import mean_from_bounds, noised
from support.federation.deployed import Deployment

DELTA = 1e-6
BUDGET = {"unit": "record", "epsilon": 9.5, "delta": 0.1}
"""For the run, a question of epsilon 1, and half of another."""
HOW = (*QUICK, *(word for path, value in DP_SGD.items() for word in ("--set", f"{path}={value}")))


def _digest() -> str:
    settings = dict(pair.split("=", 1) for pair in HOW if "=" in pair)
    return load_recipe("tcr-covid", overrides=settings, seed=None).digest


def _run(federation: Deployment, *, check: bool) -> dict[str, Any]:
    unseen = federation.home("researcher") / "unseen.csv"
    if not unseen.exists():
        excerpt(get("tcr-covid").parent / "data" / "donor_178.csv", unseen, ROWS)
        unseen.chmod(0o644)
    how = ["--coordinator", federation.url, "--eval", str(unseen), "--yes"]
    return federation.cli("researcher", "run", "tcr-covid", *HOW, *how, check=check)


@pytest.fixture(scope="module")
def data(federation: Deployment) -> dict[str, Any]:
    """What a run that every site allows answers."""
    federation.allow([_digest()], budgets={"default": BUDGET})
    federation.cli("researcher", "models", "import", "antiberty")
    for donor in DONORS[1:]:  # the first imports the base model itself; it takes six seconds of CPU
        _copy_models(federation, "researcher", donor)
    return dict(_run(federation, check=True)["data"])


def _copy_models(federation: Deployment, source: str, party: str) -> None:
    """Give *party* the base models that *source* has imported, as its administrator would."""
    folder = federation.home(party) / "models"
    shutil.copytree(federation.home(source) / "models", folder)
    for path in (folder, *folder.rglob("*")):
        if party in federation.users:
            os.chown(path, federation.users[party], federation.users[party])


def test_without_a_policy_nothing_runs(federation: Deployment) -> None:
    for donor in DONORS:
        (federation.home(donor) / "site" / "policy.yaml").unlink(missing_ok=True)
    answer = _run(federation, check=False)
    assert answer["error"]["code"] == "recipe.too_few_sites"
    for donor in DONORS:
        assert (
            f"{donor}: The site has no policy, so nothing runs there. [policy.absent]"
            in answer["error"]["message"]
        )
        assert federation.log(donor, action="refused", rule="policy.absent")


def test_tcr_covid_runs_without_shared_files(federation: Deployment, data: dict[str, Any]) -> None:
    assert data["sites"] == list(DONORS)
    assert 0.0 < data["metrics"]["federated"] < 1.0
    assert data["metrics"]["local"] == {}
    assert data["metrics"]["central"] is None
    provenance = json.loads((Path(data["adapter"]) / "provenance.json").read_text())
    assert provenance["participants"] == list(DONORS)
    assert provenance["survivors"] == [list(DONORS)] * 2
    project = {"name": "trial", "digest": federation.project, "purpose": "vaccine-research"}
    assert (provenance["project"], provenance["requester"]) == (project, "researcher")
    assert (
        f"Project `trial`, for vaccine-research, digest `{federation.project}`. "
        "The run was asked for by `researcher`." in (Path(data["adapter"]) / "README.md").read_text()
    )
    assert provenance["key_epochs"] == [{"n": 3, "c": 1, "theta": 3, "m": 3}]
    assert (sorted(provenance["countersigned"]), provenance["not_countersigned"]) == (list(DONORS), [])
    facts = PrivacyFacts.from_json(provenance["privacy"])
    assert (facts.protocol, facts.rehearsal) == ("plasmid-sa/2", False)
    shown = federation.cli("researcher", "runs", "show", data["run_id"], "--coordinator", federation.url)
    assert shown["data"]["state"] == "SUCCEEDED"


def test_the_card_and_the_provenance_say_what_holds(federation: Deployment, data: dict[str, Any]) -> None:
    folder = Path(data["adapter"])
    provenance = json.loads((folder / "provenance.json").read_text())
    facts = PrivacyFacts.from_json(provenance["privacy"])  # which recomputes every epsilon
    assert (facts.unit, facts.mechanism, facts.epsilon, facts.delta) == ("record", "dp-sgd", 8.0, 1e-5)
    assert (facts.rounds, facts.steps, facts.attempts, facts.survivors) == (2, 2, 2, (3, 3))
    spent = facts.spent()
    assert sorted(spent) == list(DONORS)
    assert all(0 < epsilon <= 8.0 for epsilon in spent.values())
    assert {site.public_size for site in facts.participants} == {ROWS}
    assert {site.rate for site in facts.participants} == {16 / ROWS}
    card = (folder / "README.md").read_text()
    section = card[card.index("## Privacy") :]
    for sentence in statement(facts):
        assert f"- {sentence}\n" in section
    assert "adds Gaussian noise in each of 2 steps of a round" in section
    changed = provenance["privacy"] | {"attempts": 40}
    with pytest.raises(Exception, match="epsilon"):
        PrivacyFacts.from_json(changed)


def test_the_whole_plan_was_charged_spare_attempts_included(
    federation: Deployment, data: dict[str, Any]
) -> None:
    for donor in DONORS:
        # as root sees it: a site's folder is its owner's alone
        book = Ledger(federation.home(donor) / "site" / "ledger.jsonl")
        entries = [entry for entry in book.entries() if entry["run"] == data["run_id"]]
        assert [entry["event"] for entry in entries] == ["reserve", "spend", "attempt", "attempt"]
        assert entries[0]["attempts"] == 4
        assert float(book.summary()["default"].spent_epsilon) == 8.0


def test_each_home_is_its_owners_alone(federation: Deployment) -> None:
    for party in PARTIES:
        folder = federation.home(party)
        assert folder.stat().st_mode & 0o077 == 0
        if federation.users:
            assert folder.stat().st_uid == federation.users[party]


def test_what_leaves_is_in_the_log(federation: Deployment, data: dict[str, Any]) -> None:
    for donor in DONORS:
        events = [line["action"] for line in federation.log(donor, run=data["run_id"])]
        # a library of the worker that finds another one installed may try a socket, in vain
        assert [event for event in events if event not in ("notice", "end", "sandbox")] == [
            "admit",
            "view.opened",
            "epsilon.reserved",
            "accepted",
            "epoch",
            "ready",
            "epsilon.spent",
            *2 * ["epsilon.attempt", "manifest", "released", "consent", "shares"],
            "countersigned",
        ]


def test_every_site_has_read_who_is_in_the_project(federation: Deployment, data: dict[str, Any]) -> None:
    for donor in DONORS:
        (known,) = federation.cli(donor, "project", "ls")["data"]["projects"]
        assert (known["digest"], known["missing"], known["signed_here"]) == (federation.project, [], True)
        assert known["confirmed"] == [name for name in DONORS if name != donor]
        assert federation.log(donor, action="project.signed", object=federation.project)
        accepted = federation.log(donor, action="accepted", run=data["run_id"])
        assert {(line["project"], line["requester"]) for line in accepted} == {
            (federation.project, "researcher")
        }


def test_whoever_is_in_no_project_neither_launches_nor_sees_a_run(
    federation: Deployment, data: dict[str, Any]
) -> None:
    federation.join_person("outsider")
    how = ["--coordinator", federation.url]
    asked = federation.cli("outsider", "run", "tcr-covid", *HOW, *how, "--yes", check=False)
    assert asked["error"]["code"] == "project.unknown"
    named = [*how, "--yes", "--project", federation.project]
    asked = federation.cli("outsider", "run", "tcr-covid", *HOW, *named, check=False)
    assert asked["error"]["code"] == "project.unknown"
    assert federation.cli("outsider", "runs", "ls", *how)["data"]["runs"] == []
    for verb in ("show", "logs", "stop", "fetch"):
        answer = federation.cli("outsider", "runs", verb, data["run_id"], *how, check=False)
        assert answer["error"]["code"] == "run.unknown"
    # control: the researcher fetches what was fetched before
    fetched = federation.cli("researcher", "runs", "fetch", data["run_id"], *how)["data"]["adapter"]
    assert (Path(fetched) / "adapter_model.safetensors").read_bytes() == (
        Path(data["adapter"]) / "adapter_model.safetensors"
    ).read_bytes()


def test_a_site_that_has_left_the_project_takes_part_in_none_of_its_runs(federation: Deployment) -> None:
    federation.allow([_digest()])
    donor = DONORS[0]
    federation.cli(donor, "project", "leave", "trial", "--yes")
    try:
        answer = _run(federation, check=False)
    finally:
        federation.cli(donor, "project", "sign", "trial", "--yes")
    assert answer["error"]["code"] == "recipe.too_few_sites"
    why = f"{donor}: The site has not signed the project of this run. [project.not_signed_here]"
    assert why in answer["error"]["message"]
    assert federation.log(donor, action="refused", rule="project.not_signed_here")
    assert federation.log(donor, action="project.left", object=federation.project)


# -- privacy budgets -------------------------------------------------------------------------------


def _asked_digest(epsilon: float, delta: float) -> str:
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
def spent(federation: Deployment, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answer to a first question of epsilon 1, where the run has left 1.5 of each site's budget."""
    digests = [_asked_digest(1.0, DELTA), _asked_digest(0.25, DELTA), _asked_digest(0.25, 0.01)]
    federation.allow(digests, budgets={"default": BUDGET})
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
    mean = sum(ages) / len(ages)
    variance = sum((age - mean) ** 2 for age in ages) / len(ages)
    assert abs(result["count"] - len(ages)) < 200  # of 480; the noise of three has a deviation of about 20
    assert 1e-6 < abs(result["mean"] - mean) < 20
    assert abs(result["variance"] - variance) > 1e-6
    said = " ".join(spent["privacy"])
    assert f", {DELTA:g})-differential privacy for any one record at a site" in said
    assert "Each site's ledger is charged epsilon 1." in said
    assert f"N = {ROWS} declared by its owner" in said
    assert "rehearsal" not in said


def test_what_was_spent_is_in_every_ledger(federation: Deployment, spent: dict[str, Any]) -> None:
    for donor in DONORS:
        (population,) = ledger(federation, donor)["populations"]
        assert (population["population"], population["unit"]) == ("default", "record")
        assert population["epsilon"] == {"budget": 9.5, "spent": 9.0, "reserved": 0.0, "left": 0.5}


def test_a_budget_that_would_be_exceeded_refuses_before_any_compute(
    federation: Deployment, spent: dict[str, Any]
) -> None:
    before = {donor: len(federation.log(donor, action="manifest")) for donor in DONORS}
    answer = ask(federation, 1.0)
    refused(federation, answer, "policy.budget", "The site's privacy budget has too little left for the run.")
    assert "0.5" not in answer["error"]["message"]  # how much is left is the owner's to know
    for donor in DONORS:
        told = federation.log(donor, action="refused", rule="policy.budget")[-1]["reason"]
        assert "population 'default' has left epsilon 0.5 of 9.5" in told
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
        assert ledger(federation, site)["populations"][0]["epsilon"]["spent"] == 9.25


def test_every_contribution_was_charged(federation: Deployment, spent: dict[str, Any]) -> None:
    for donor in DONORS:
        lines = (federation.home(donor) / "site" / "ledger.jsonl").read_text().splitlines()
        attempts = [json.loads(line) for line in lines if json.loads(line)["event"] == "attempt"]
        contributions = [line["run"] for line in federation.log(donor, action="released")]
        assert sorted(entry["run"] for entry in attempts) == sorted(contributions)
        assert len(contributions) == 4  # two rounds, two answers
