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
        assert federation.log(donor, action="refused", rule="policy.absent")


def test_tcr_covid_runs_without_shared_files(federation: Deployment, data: dict[str, Any]) -> None:
    assert data["sites"] == list(DONORS)
    assert 0.5 < data["metrics"]["federated"] < 1.0
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
    assert (facts.protocol, facts.rehearsal) == ("plasmid-sa/1", False)
    shown = federation.cli("researcher", "runs", "show", data["run_id"], "--coordinator", federation.url)
    assert shown["data"]["state"] == "SUCCEEDED"


def test_each_home_is_its_owners_alone(federation: Deployment) -> None:
    for party in PARTIES:
        folder = federation.home(party)
        assert folder.stat().st_mode & 0o077 == 0
        if federation.users:
            assert folder.stat().st_uid == federation.users[party]


def test_what_leaves_is_in_the_log(federation: Deployment, data: dict[str, Any]) -> None:
    for donor in DONORS:
        events = [line["action"] for line in federation.log(donor, run=data["run_id"])]
        assert [event for event in events if event not in ("notice", "end")] == [
            "admit",
            "view.opened",
            "accepted",
            "epoch",
            "ready",
            *2 * ["manifest", "released", "consent", "shares"],
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
    asked = federation.cli("outsider", "run", "tcr-covid", *QUICK, *how, "--yes", check=False)
    assert asked["error"]["code"] == "project.unknown"
    named = [*how, "--yes", "--project", federation.project]
    asked = federation.cli("outsider", "run", "tcr-covid", *QUICK, *named, check=False)
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
