"""``plasmid run`` on real donors' rows, embedded: what it answers, what it leaves, what it leaves behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import DONORS, QUICK, ROWS, Home
from plasmid.client.provenance import project_line
from plasmid.dp.claims import PrivacyFacts, statement
from plasmid.gateway.home import SiteHome
from plasmid.log.audit_log import AuditLog
from plasmid.release.folder import Trust, verify_release
from support.federation.in_memory import flat

SITES = list(DONORS)


@pytest.fixture(scope="session")
def answer(home: Home) -> dict[str, Any]:
    status, answer, errors = home.run(
        "run", "tcr-covid", "--sites", str(home.sites), "--eval", str(home.test), *QUICK, "--yes"
    )
    assert status == 0, (answer, errors)
    return answer


def test_the_answer_has_the_words_of_the_machine_interface(answer: dict[str, Any]) -> None:
    assert answer["schema"] == "plasmid.cli/1"
    assert answer["status"] == "ok"
    assert answer["error"] is None
    data = answer["data"]
    assert data["rounds"] == 2
    assert data["sites"] == SITES
    assert data["trainable_parameters"] == 50_820
    assert data["bytes_up_per_round"] == 4 * (50_820 + 4) + 80  # a header of 80 bytes
    metrics = data["metrics"]
    assert metrics["metric"] == "auc"
    assert sorted(metrics["local"]) == SITES
    values = [
        metrics["federated"],
        metrics["central"],
        *metrics["local"].values(),
        *metrics["simple"].values(),
    ]
    assert all(0.0 <= value <= 1.0 for value in values)
    assert sorted(metrics["simple"]) == ["central", "local"]


def test_nothing_is_left_running(answer: dict[str, Any], home: Home) -> None:
    home.wait_until_gone(5.0)


@pytest.mark.slow
def test_the_adapter_scores_as_the_run_said(answer: dict[str, Any], home: Home) -> None:
    folder = answer["data"]["adapter"]
    status, evaluated, _ = home.run("evaluate", folder, "--data", str(home.test))
    assert status == 0
    assert evaluated["data"]["rows"] == ROWS
    assert evaluated["data"]["metrics"]["metric"] == "auc"
    assert evaluated["data"]["metrics"]["value"] == pytest.approx(
        answer["data"]["metrics"]["federated"], abs=1e-6
    )
    status, predicted, _ = home.run("predict", folder, "--data", str(home.test))
    assert status == 0
    scores = predicted["data"]["scores"]
    assert len(scores) == ROWS
    with home.test.open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    ones = [score for score, label in zip(scores, labels, strict=True) if label == "1"]
    zeros = [score for score, label in zip(scores, labels, strict=True) if label == "0"]
    auc = sum((a > b) + 0.5 * (a == b) for a in ones for b in zeros) / (len(ones) * len(zeros))
    assert auc == pytest.approx(answer["data"]["metrics"]["federated"], abs=1e-6)


def test_provenance_says_what_was_done(answer: dict[str, Any], home: Home) -> None:
    folder = Path(answer["data"]["adapter"])
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["run"] == answer["data"]["run_id"]
    assert provenance["participants"] == SITES
    assert (provenance["project"]["name"], provenance["requester"]) == ("rehearsal", "launcher")
    assert provenance["key_epochs"] == [{"n": 3, "c": 1, "theta": 3, "m": 3}]
    assert provenance["survivors"] == [SITES] * 2
    facts = PrivacyFacts.from_json(provenance["privacy"])
    assert (facts.protocol, facts.unit, facts.rehearsal) == ("plasmid-sa/2", "none", True)
    assert provenance["rounds"] == len(provenance["manifests"]) == 2
    assert provenance["metrics"] == answer["data"]["metrics"]
    card = (folder / "README.md").read_text()
    assert project_line(provenance["project"], "launcher") in card
    assert str(home.folder) not in card + json.dumps(provenance)
    assert not list(folder.parent.glob(".*"))
    for sentence in statement(facts):
        assert f"- {sentence}\n" in card


def test_every_signature_holds_down_to_the_keys_in_the_sites_own_folders(
    answer: dict[str, Any], home: Home
) -> None:
    folder = Path(answer["data"]["adapter"])
    keys = {site: SiteHome(home.folder / "sites" / site).public for site in SITES}
    coordinator = json.loads((home.folder / "coordinator" / "launcher" / "coordinator.json").read_text())
    found = verify_release(folder, Trust(coordinator=coordinator["key"], sites=keys))
    assert (found.countersigned, found.missing, found.server_step) == (tuple(SITES), (), "re-run")
    assert found.pinned == (*SITES, "coordinator")
    assert (found.person, found.privacy[0].split(":")[0]) == ("launcher", "This is a rehearsal")
    for site in SITES:
        (entry,) = [
            flat(entry)
            for entry in AuditLog(SiteHome(home.folder / "sites" / site).audit).entries()
            if (entry["run"], entry["action"]) == (answer["data"]["run_id"], "countersigned")
        ]
        assert (entry["contributed"], entry["rerun"]) == (2, 2)
    assert "Every server step was re-run by" in (folder / "README.md").read_text()


def test_runs_tell_of_it_afterwards(answer: dict[str, Any], home: Home) -> None:
    run = answer["data"]["run_id"]
    _, listed, _ = home.ask("runs", "ls")
    assert [known["state"] for known in listed["data"]["runs"] if known["run_id"] == run] == ["SUCCEEDED"]
    _, shown, _ = home.ask("runs", "show", run)
    assert shown["data"]["rounds_done"] == 2
    _, logged, _ = home.ask("runs", "logs", run)
    texts = [line["text"] for line in logged["data"]["lines"]]
    assert [text.split(":")[0] for text in texts if text.isupper() or ":" in text][-1] == "SUCCEEDED"


@pytest.mark.slow
def test_a_run_is_reproducible_and_moved_by_its_seed(answer: dict[str, Any], home: Home) -> None:
    again = [
        "run",
        "tcr-covid",
        "--sites",
        str(home.sites),
        "--eval",
        str(home.test),
        *QUICK,
        "--no-baselines",
    ]
    _, same, _ = home.run(*again, "--yes")
    assert same["data"]["metrics"]["federated"] == answer["data"]["metrics"]["federated"]
    assert same["data"]["metrics"]["local"] == {}
    assert same["data"]["metrics"]["central"] is None
    assert same["data"]["metrics"]["simple"] == {"central": None, "local": None}
    _, other, _ = home.run(*again, "--yes", "--seed", "1")
    assert other["data"]["metrics"]["federated"] != answer["data"]["metrics"]["federated"]
