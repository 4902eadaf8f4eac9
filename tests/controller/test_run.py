"""One run from its creation to its end: who is asked, what the result says, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controller.conftest import NAMES, TINY_TABLES, Scene
from plasmid.bases.store import BaseModel
from plasmid.coordinator import run as run_module
from plasmid.dp.claims import PrivacyFacts, statement
from plasmid.recipes.protection import Limits, Protection
from plasmid.recipes.query import MEAN_NORM, PingDocument, QueryDocument
from plasmid.recipes.schema import Recipe
from plasmid.release.result import privacy_facts
from support.federation.virtual_link import fails, meanwhile, vanish
from support.tiny.tiny_task import tiny_recipe

Make = Callable[..., Scene]
Start = Callable[[Scene], dict[str, Any]]


def ping(rounds: int = 3, **limits: Any) -> PingDocument:
    return PingDocument(length=6, rounds=rounds, federation=Limits(**limits))


def facts(made: Scene, shown: dict[str, Any]) -> PrivacyFacts:
    """Return the facts as the client makes them, from what crossed the database and the wire."""
    result = json.loads(json.dumps(shown["result"]))
    found = privacy_facts(result, shown["document"], rehearsal=False)
    assert PrivacyFacts.from_json(json.loads(json.dumps(found.as_json()))) == found
    return found


# -- to the end ------------------------------------------------------------------------------------


def test_a_run_without_incident(scene: Make, start: Start) -> None:
    made = scene(5, ping(), admitted=False)
    shown = start(made)
    assert (shown["state"], shown["error"], shown["rounds_done"]) == ("SUCCEEDED", None, 3)
    result = shown["result"]
    names = list(NAMES[:5])
    assert (result["participants"], result["survivors"]) == (names, [names] * 3)
    assert (result["n"], result["c"], result["theta"], result["attempts_used"]) == (5, 1, 4, 3)
    assert result["epochs"] == [{"n": 5, "c": 1, "theta": 4, "m": 4}]
    assert (result["protocol"], result["answer"], result["audit"]) == ("plasmid-sa/2", None, None)
    state = made.link.bodies.published(result["state"]).read_bytes()
    assert len(state) == result["state_bytes"]
    log = made.log()
    ways = ["ADMITTING: asking 5 sites", "SETTING_UP: 5 sites", "RUNNING: 3 rounds", "FINISHING", "SUCCEEDED"]
    assert [text for text in log if text.isupper() or text.split(":")[0].isupper()] == ways
    assert "nothing bounds what its sums" in " ".join(statement(facts(made, shown)))


def test_a_result_says_who_took_part(scene: Make, start: Start) -> None:
    made = scene(5, ping(spare_attempts=1), admitted=False)
    made.link.on("beta", "contribution", vanish, round=1)
    made.link.on("eta", "contribution", vanish, round=2)
    made.link.on("alpha", "contribution", vanish, round=2)
    shown = start(made)
    assert shown["state"] == "FAILED"  # two are left, and masks need three
    assert shown["error"]["code"] == "recipe.too_few_sites"
    for site in ("alpha", "beta", "eta"):
        assert f"\n  {site}: it has been silent for 20 s" in shown["error"]["message"]


def test_the_participants_are_those_of_any_sum_and_the_survivors_those_of_each(
    scene: Make, start: Start
) -> None:
    made = scene(5, ping(), admitted=False)
    made.link.on("beta", "contribution", vanish, round=1)
    made.link.on("eta", "contribution", vanish, round=2)
    result = start(made)["result"]
    assert result["participants"] == ["alpha", "delta", "epsilon", "eta"]
    assert result["survivors"] == [["alpha", "delta", "epsilon", "eta"]] + 2 * [["alpha", "delta", "epsilon"]]
    assert (result["n"], result["attempts_used"]) == (3, 4)
    assert [epoch["n"] for epoch in result["epochs"]] == [5, 3]


def test_a_site_that_refuses_is_left_out_and_named(scene: Make, start: Start) -> None:
    made = scene(4, ping(), admitted=False)
    made.federation.allow("beta", [])
    shown = start(made)
    assert shown["state"] == "SUCCEEDED"
    assert shown["result"]["participants"] == ["alpha", "delta", "epsilon"]
    assert shown["sites"]["beta"] == {
        "accepted": False,
        "code": "policy.digest_not_allowed",
        "sentence": "The site's policy does not name this digest.",
        "approvals": None,
    }


def test_a_site_that_is_not_there_is_left_out(scene: Make, start: Start) -> None:
    made = scene(4, ping(), admitted=False)
    made.link.kill("delta")
    made.link.now += 60
    made.link.pump()
    shown = start(made)
    assert shown["result"]["participants"] == ["alpha", "beta", "epsilon"]


def test_too_few_that_accept_end_the_run_before_a_key_epoch(scene: Make, start: Start) -> None:
    made = scene(3, ping(), admitted=False)
    made.federation.allow("beta", [])
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "recipe.too_few_sites")
    assert shown["error"]["message"] == (
        "2 sites accept, federation.min_sites is 3.\n  beta: The site's policy does not name this digest. "
        "[policy.digest_not_allowed]"
    )
    assert made.events("alpha", "epoch") == []


def test_so_many_of_one_organisation_that_a_mask_hides_nothing(scene: Make, start: Start) -> None:
    made = scene(3, ping(), admitted=False, organisations=dict.fromkeys(NAMES[:2], "one house"))
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "recipe.colluders")


# -- under a unit ----------------------------------------------------------------------------------


def query(epsilon: float = 2.0, **limits: Any) -> QueryDocument:
    return QueryDocument(
        name="mean",
        column="age",
        bounds=(0.0, 100.0),
        max_rows=1000,
        federation=Limits(**limits),
        privacy=Protection(
            unit="record", mechanism="dp-fedsgd", epsilon=epsilon, delta=1e-6, record_clip=MEAN_NORM
        ),
    )


def dp_scene(scene: Make, document: QueryDocument, *, n: int = 5, budget: float = 2.0) -> Scene:
    def compute(made: Scene, site: str, manifest: Any) -> np.ndarray:
        return np.array([0.0, 500.0, 1000.0])  # a mean of 50, a standard deviation of 50 / sqrt(2)

    return scene(
        n,
        document,
        admitted=False,
        compute=compute,
        tables=dict.fromkeys(NAMES[:n], "age\n50\n"),
        public_size=1000,
        budgets={"default": {"unit": "record", "epsilon": budget, "delta": 1e-6}},
    )


def test_a_noised_query_answers_and_says_what_it_promises(scene: Make, start: Start) -> None:
    made = dp_scene(scene, query())
    shown = start(made)
    answer = shown["result"]["answer"]
    assert 0 < abs(answer["mean"] - 50.0) < 2.0  # the count is rounded: it may come out right
    assert abs(answer["count"] - 5000) < 200
    found = facts(made, shown)
    assert (found.unit, found.epsilon, found.attempts, found.survivors) == ("record", 2.0, 1, (5,))
    said = " ".join(statement(found))
    assert "differential privacy for any one record at a site" in said
    assert "(m - c = 4 - 1)" in said


def test_after_a_smaller_key_epoch_the_noise_that_is_told_is_that_of_the_first_plan(
    scene: Make, start: Start
) -> None:
    """What the run's first epoch planned holds for all of it; epsilon follows from it, and two attempts."""
    made = dp_scene(scene, query(spare_attempts=2))
    planned = made.job.plan(5, 1, made.job.planned(5, 1, 1.0))["noise_std"]
    for site in ("beta", "eta"):
        made.link.on(site, "consent", vanish)
    shown = start(made)
    assert shown["state"] == "SUCCEEDED"
    found = facts(made, shown)
    assert (found.noise_std, found.attempts, found.n, found.min_sites) == (planned, 2, 3, 3)
    other = made.job.plan(3, 1, made.job.planned(3, 1, 1.0))["noise_std"]
    assert other != planned  # what the last epoch alone would have planned
    assert max(found.spent().values()) <= 2.0


def test_a_budget_that_is_too_small_refuses_before_anything_is_computed(scene: Make, start: Start) -> None:
    made = dp_scene(scene, query(), budget=1.5)
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "recipe.too_few_sites")
    sentence = "The site's privacy budget has too little left for the run. [policy.budget]"
    assert shown["error"]["message"].count(sentence) == 5
    (refused,) = made.events("alpha", "refused")
    assert "1.5" in refused["reason"]
    assert made.events("alpha", "manifest") == []
    assert made.federation.gateways["alpha"].ledger.summary() == {}


# -- the audit -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("gate", [True, False])
def test_an_audit_that_fails_is_a_gate_or_a_sentence(
    scene: Make, start: Start, tiny: dict[str, BaseModel], gate: bool
) -> None:
    values = tiny_recipe(tiny["esm"]).model_dump(mode="json")
    values["privacy"]["audit"] = {"canaries": 400, "gate": gate, "max_audited_epsilon": 2.0}
    document = Recipe.model_validate(values)

    def compute(made: Scene, site: str, manifest: Any) -> np.ndarray:
        if manifest.phase == "audit":
            return np.array([100.0, 100.0])
        return made.vectors[site] * np.float32(0.01)

    made = scene(3, document, admitted=False, compute=compute, tables=TINY_TABLES)
    shown = start(made)
    assert any(text.startswith("Canary audit FAILED: 300 of 300 guesses") for text in made.log())
    if gate:
        assert (shown["state"], shown["error"]["code"]) == ("FAILED", "run.audit_failed")
        assert shown["result"] is None
        return
    assert shown["state"] == "SUCCEEDED"
    assert shown["result"]["audit"]["verdict"] == "failed"
    found = facts(made, shown)
    assert found.audit is not None
    assert statement(found)[-1] == found.audit.sentence


# -- other ends ------------------------------------------------------------------------------------


def test_a_run_that_is_stopped(scene: Make, start: Start) -> None:
    made = scene(4, ping(), admitted=False)
    stop = meanwhile(lambda link: link.board.stop_run(made.federation.run))
    made.link.on("alpha", "contribution", stop, round=2)
    shown = start(made)
    assert (shown["state"], shown["error"]["code"], shown["rounds_done"]) == ("STOPPED", "run.stopped", 1)


def test_a_disk_that_is_full_is_said(scene: Make, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scene(3, ping(), admitted=False)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "/coordinator/bodies")

    monkeypatch.setattr(run_module, "Rounds", full)
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "storage.full")


def test_a_defect_is_no_silent_end(scene: Make, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scene(3, ping(), admitted=False)
    monkeypatch.setattr(run_module, "Rounds", lambda *_: 1 / 0)
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "run.internal")
    assert "ZeroDivisionError" in shown["error"]["message"]


def test_sites_that_fail_one_after_the_other_are_all_named(scene: Make, start: Start) -> None:
    made = scene(4, ping(), admitted=False)
    for site in ("beta", "delta"):
        made.link.on(site, "contribution", fails, times=9)
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "run.no_attempts")
    for site in ("beta", "delta"):
        assert f"\n  {site}: The worker ended. [site.worker_died]" in shown["error"]["message"]
