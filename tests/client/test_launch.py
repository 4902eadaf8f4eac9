"""Plan, confirm, run: what a launcher reads into the sites' answers, and what it tells meanwhile."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plasmid.cli.output import Format, Reply
from plasmid.client.launch import check_project, check_tables, dry_run, plan_and_run, show_plan
from plasmid.client.run import Run
from plasmid.core.errors import DataError, RecipeError, RunFailed, UsageError
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import PingDocument, mean_from_bounds, noised
from support.federation.in_memory import document_of

DOCUMENT, DIGEST = document_of(PingDocument(length=4))
YES = {"accepted": True, "code": "", "sentence": "", "terms": None, "pending": None}


def no(code: str) -> dict[str, Any]:
    return {"accepted": False, "code": code, "sentence": "It says no.", "terms": None, "pending": None}


def plan(**sites: dict[str, Any]) -> dict[str, Any]:
    return {
        "digest": DIGEST,
        "trainable_parameters": 4,
        "bytes_up_per_round": 100,
        "bytes_down_per_round": 100,
        "rounds": 1,
        "protect": "masked",
        "n": 3,
        "c": 1,
        "theta": 3,
        "min_sites": 3,
        "survives": 0,
        "unit": "none",
        "mechanism": None,
        "epsilon": None,
        "delta": None,
        "attempts": 3,
        "sites": {name: dict(said) for name, said in sites.items()},
    }


class Notes(Reply):
    """A reply that keeps what it would print."""

    def __init__(self) -> None:
        super().__init__(Format.json)
        self.notes: list[str] = []
        self.lines: list[str] = []

    def note(self, line: Any) -> None:
        self.notes.append(str(line))

    def say(self, *lines: Any) -> None:
        self.lines += map(str, lines)


class FakeRun:
    """A run that is shown *states*, one after the other, and then has its result."""

    id = "run-1"
    withheld = False

    def __init__(self, states: list[str]) -> None:
        self.states, self.stopped = states, False

    def wait(self, watch: Any) -> None:
        for state in self.states:
            watch({"run_id": "run-1", "state": state, "rounds": 1, "rounds_done": 0, "progress": {}})

    def stop(self) -> None:
        self.stopped = True

    def result(self) -> dict[str, Any]:
        return {"participants": ["alpha", "beta"]}


def launch(
    answers: dict[str, Any],
    *,
    own: tuple[str, ...] = (),
    ended: list[dict[str, RunFailed]] | None = None,
    yes: bool = True,
    isolation: tuple[str, str] = ("landlock", ""),
) -> tuple[FakeRun, Notes, list[str]]:
    """Run a plan embedded; return the run, what was said, and the digests that were allowed."""
    run, answer, allowed = FakeRun(["RUNNING"] * 3 + ["SUCCEEDED"]), Notes(), []
    left = list(ended or [])
    embedded: Any = SimpleNamespace(
        sites=sorted(answers["sites"]),
        project="e" * 64,
        isolation=isolation,
        has_own_policy=lambda site: site in own,
        allow=lambda document, digest: allowed.append(digest),
        ended=lambda: left.pop(0) if left else {},
    )
    coordinator: Any = SimpleNamespace(plan=lambda *_, **__: answers, start=lambda *_, **__: run)
    plan_and_run(coordinator, embedded, DOCUMENT, invited=None, project=None, yes=yes, answer=answer)
    return run, answer, allowed


@pytest.mark.parametrize("code", ["policy.absent", "policy.digest_not_allowed", "data.no_public_size"])
def test_what_is_written_on_confirmation_is_no_refusal(code: str) -> None:
    _, answer, allowed = launch(plan(alpha=YES, beta=no(code), gamma=no(code)))
    assert allowed == [DIGEST]
    assert answer.data["sites"] == ["alpha", "beta"]  # as the result says, not as was planned
    assert any("when you confirm" in line for line in answer.lines)


@pytest.mark.parametrize(
    ("code", "own", "accepted"),
    [
        ("policy.digest_not_allowed", True, False),
        ("policy.absent", True, False),
        ("data.no_public_size", True, True),
        ("policy.budget", False, False),
        ("data.invalid", False, False),
    ],
)
def test_an_owner_s_own_refusal_counts(code: str, own: bool, accepted: bool) -> None:
    answers = plan(alpha=YES, beta=YES, gamma=no(code))
    if accepted:
        assert launch(answers, own=("gamma",))[2] == [DIGEST]
        return
    with pytest.raises(RecipeError) as caught:
        launch(answers, own=("gamma",) if own else ())
    assert caught.value.code == "recipe.too_few_sites"
    assert caught.value.message == (
        f"2 sites accept, federation.min_sites is 3.\n  gamma: It says no. [{code}]"
    )


def test_a_survivor_set_larger_than_min_sites_does_not_refuse_a_smaller_roster() -> None:
    """m follows from who accepts; what they must be is the document's."""
    answers = plan(alpha=YES, beta=YES, gamma=YES, delta=no("policy.budget")) | {"min_sites": 4}
    assert launch(answers)[2] == [DIGEST]


def test_sites_on_a_machine_without_the_weights_refuse_whatever_is_confirmed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    resolved, answer = load_recipe("capsid-esm2-3b"), Notes()
    answers = plan(alpha=YES, beta=no("policy.absent"), gamma=no("policy.absent"))
    coordinator: Any = SimpleNamespace(plan=lambda *_, **__: answers)
    embedded: Any = SimpleNamespace(
        sites=["alpha", "beta", "gamma"],
        project="e" * 64,
        isolation=("landlock", ""),
        has_own_policy=lambda _site: False,
    )
    dry_run(coordinator, embedded, resolved, invited=None, project=None, answer=answer)
    assert {said["code"] for said in answer.data["plan"]["sites"].values()} == {"model.not_imported"}
    assert answer.data["would_run"] is False
    assert "0 sites would take part, 3 must" in "\n".join(answer.lines)


@pytest.mark.parametrize("named", [None, "trial"])
def test_plan_and_run_are_asked_for_in_one_project(named: str | None) -> None:
    """Without a name it is looked up once, so that plan and run cannot be in two."""
    asked: list[Any] = []
    run, answer = FakeRun(["SUCCEEDED"]), Notes()
    run.withheld = True  # the result goes to others
    answers = plan(alpha=YES, beta=YES, gamma=YES)
    coordinator: Any = SimpleNamespace(
        project=lambda: asked.append("looked up") or SimpleNamespace(digest="e" * 64),
        plan=lambda *_, **how: asked.append(how) or answers,
        start=lambda *_, **how: asked.append(how) or run,
    )
    plan_and_run(coordinator, None, DOCUMENT, invited=["alpha"], project=named, yes=True, answer=answer)
    how = {"sites": ["alpha"], "project": named or "e" * 64}
    assert asked == [*([] if named else ["looked up"]), how, how]
    assert answer.data["sites"] == ["alpha", "beta", "gamma"]  # as planned: who took part is not for her


def test_a_project_is_named_at_a_deployed_coordinator_alone() -> None:
    check_project(None, None)
    check_project("https://localhost", "trial")
    with pytest.raises(UsageError) as caught:
        check_project(None, "trial")
    assert caught.value.code == "usage.project_embedded"


def test_without_a_confirmation_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(UsageError) as caught:
        launch(plan(alpha=YES, beta=YES, gamma=YES), yes=False)
    assert caught.value.code == "usage.not_confirmed"


def test_a_site_whose_process_ends_is_told_once_and_the_run_goes_on() -> None:
    gone = {
        "beta": RunFailed("run.process_died", "the process of beta ended with status -9.", "Its log is L.")
    }
    run, answer, _ = launch(plan(alpha=YES, beta=YES, gamma=YES), ended=[{}, gone, gone])
    assert [note for note in answer.notes if "beta" in note] == [
        "the process of beta ended with status -9. Its log is L. The run goes on without it, if it can."
    ]
    assert not run.stopped


def test_a_coordinator_whose_process_ends_is_the_end() -> None:
    gone = {"coordinator": RunFailed("run.process_died", "the process of coordinator ended with status 1.")}
    with pytest.raises(RunFailed) as caught:
        launch(plan(alpha=YES, beta=YES, gamma=YES), ended=[gone])
    assert caught.value.code == "run.process_died"


def test_a_rehearsal_says_how_workers_are_locked_in() -> None:
    _, answer, _ = launch(plan(alpha=YES, beta=YES, gamma=YES))
    assert "  every site's worker is kept in a sandbox: landlock" in answer.lines
    assert answer.data["isolation"] == "landlock"
    _, answer, _ = launch(plan(alpha=YES, beta=YES, gamma=YES), isolation=("none", "no bwrap here"))
    assert any("no sandbox" in line and "you may read" in line for line in answer.lines)
    assert "no sandbox: no bwrap here" in answer.notes
    assert answer.data["isolation"] == "none"


def shown(changes: dict[str, Any], document: dict[str, Any] = DOCUMENT) -> str:
    answer = Notes()
    show_plan(plan(alpha=YES, beta=YES, gamma=YES) | changes, document, rehearsal=False, answer=answer)
    return "\n".join(answer.lines)


def test_the_plan_says_n_c_theta_and_what_it_survives() -> None:
    figures = {"n": 6, "c": 1, "theta": 4, "min_sites": 4, "survives": 2}
    assert (
        "masked sums over n = 6 sites, safe against the coordinator and c = 1 of them; theta = 4, m = 4: "
        "survives 2 drop-out(s)"
    ) in shown(figures)
    assert "differential privacy" not in shown(figures)
    assert "the coordinator sees every site's contribution" in shown({"protect": "none"})


def test_the_plan_says_what_is_promised_over_all_attempts() -> None:
    document, _ = document_of(mean_from_bounds("age", (0.0, 120.0), privacy=noised(1.0, 1e-6)))
    unit = {"unit": "record", "mechanism": "dp-fedsgd", "epsilon": 1.0, "delta": 1e-6, "attempts": 3}
    told = "for one record: epsilon 1, delta 1e-06 (dp-fedsgd), for 3 attempts at 1 round(s)"
    assert f"differential privacy {told}" in shown(unit, document)


@pytest.mark.parametrize("rehearsal", [True, False])
def test_every_run_of_an_embedded_coordinator_is_a_rehearsal(rehearsal: bool) -> None:
    """One that is fetched later, too: card and provenance say so."""
    coordinator: Any = SimpleNamespace(rehearsal=rehearsal)
    assert Run(coordinator, "run-1", {}).rehearsal is rehearsal


@pytest.mark.parametrize("refusing", [0, 1])
def test_a_dry_run_shows_plan_and_origins_and_starts_nothing(refusing: int) -> None:
    resolved = load_recipe("tcr-covid", overrides={"adapter.lora.rank": "4"})
    others = {"gamma": no("policy.budget")} if refusing else {"gamma": YES}
    answers, answer = plan(alpha=YES, beta=YES, **others), Notes()
    coordinator: Any = SimpleNamespace(plan=lambda *_, **__: answers)  # it has no start
    dry_run(coordinator, None, resolved, invited=None, project="trial", answer=answer)
    assert answer.data["would_run"] is (not refusing)
    assert answer.data["values"]["adapter.lora.rank"] == {"value": 4, "origin": "--set"}
    assert answer.data["plan"] == answers
    told = "\n".join(answer.lines)
    assert "--set     adapter.lora.rank = 4" in told
    assert f"{3 - refusing} sites would take part, 3 must. Nothing was started." in told


def test_what_the_covariates_need_is_asked_for_before_a_table_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rdkit" else found(name))
    check_tables({}, load_recipe("water-solubility").document, Notes())
    with pytest.raises(DataError) as caught:
        check_tables({"a": tmp_path / "not-read.csv"}, load_recipe("target-affinity").document, Notes())
    assert caught.value.code == "data.library_missing"
    assert "plasmid[molecules]" in caught.value.hint
