"""``tcr-covid`` as deployed: every party with its own folder and, as root, its own operating-system user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployed import Deployment
from e2e.conftest import DONORS, PARTIES, QUICK
from plasmid.privacy.facts import PrivacyFacts
from plasmid.recipes.load import load_recipe


def _digest() -> str:
    settings = dict(pair.split("=", 1) for pair in QUICK if "=" in pair)
    return load_recipe("tcr-covid", overrides=settings, seed=None).digest


def _run(federation: Deployment, *, check: bool) -> dict[str, Any]:
    how = ["--coordinator", federation.url, "--yes"]
    return federation.cli("researcher", "run", "tcr-covid", *QUICK, *how, check=check)


@pytest.fixture(scope="module")
def data(federation: Deployment) -> dict[str, Any]:
    """What a run that every site allows answers."""
    federation.allow([_digest()])
    return dict(_run(federation, check=True)["data"])


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
        assert federation.journal(donor, event="refused", code="policy.absent")


def test_tcr_covid_runs_without_shared_files(federation: Deployment, data: dict[str, Any]) -> None:
    assert data["sites"] == list(DONORS)
    assert 0.5 < data["metrics"]["federated"] < 1.0
    assert data["metrics"]["local"] == {}
    assert data["metrics"]["central"] is None
    provenance = json.loads((Path(data["adapter"]) / "provenance.json").read_text())
    assert provenance["participants"] == list(DONORS)
    assert provenance["survivors"] == [list(DONORS)] * 2
    assert provenance["key_epochs"] == [{"n": 3, "c": 1, "theta": 3, "m": 3}]
    facts = PrivacyFacts.from_json(provenance["privacy"])
    assert (facts.protocol, facts.rehearsal) == ("plasmid-sa/1", False)
    shown = federation.cli("researcher", "runs", "show", data["run_id"], "--coordinator", federation.url)
    assert shown["data"]["state"] == "SUCCEEDED"


def test_each_home_is_its_owners_alone(federation: Deployment) -> None:
    for party in PARTIES:
        folder = federation.home(party)
        assert folder.stat().st_mode & 0o077 == 0
        if federation.users:
            assert folder.stat().st_uid == federation.users[party]


def test_what_leaves_is_in_the_journal(federation: Deployment, data: dict[str, Any]) -> None:
    for donor in DONORS:
        events = [line["event"] for line in federation.journal(donor, run=data["run_id"])]
        assert [event for event in events if event not in ("notice", "end")] == [
            "admit",
            "accepted",
            "epoch",
            "ready",
            *2 * ["manifest", "contributed", "consent", "shares"],
        ]
