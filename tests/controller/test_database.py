"""The runs of a coordinator, in SQLite."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.coordinator.coordinator import CoordinatorHome
from plasmid.coordinator.database import Runs
from plasmid.coordinator.states import RunState
from plasmid.coordinator.verb import app
from plasmid.core.errors import RunFailed
from plasmid.link.engine import open_engine, sqlite_url
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admission, Pending, RunRequest, open_signed, sign
from plasmid.protocol.project import Project
from support.federation.in_memory import project_of

DOCUMENT = {"computation": "ping", "length": 4, "name": "tiny"}
D = "d" * 64
WAY = (RunState.ADMITTING, RunState.SETTING_UP, RunState.RUNNING, RunState.FINISHING, RunState.SUCCEEDED)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    engine = open_engine(sqlite_url(tmp_path))
    yield Runs(engine)
    engine.dispose()


ADA = Identity.generate("ada")
PROJECT = project_of({"alpha": Identity.generate("alpha")}, {"alpha": "A"}, ADA)
ENVELOPE = Envelope.of(PROJECT)


def create(
    runs: Runs, run: str = "run-1", *, document: dict[str, Any] = DOCUMENT, project: Project = PROJECT
) -> str:
    request = RunRequest(
        document=document,
        digest=D,
        project=project.digest(),
        requested="2026-11-25T10:00:00Z",
        nonce="0" * 32,
    )
    invited = ["alpha", "beta"]
    runs.create(run, request=sign(ADA, request), project=Envelope.of(project), invited=invited, rounds=2)
    return run


def texts(runs: Runs, run: str = "run-1") -> list[str]:
    return [line["text"] for line in runs.log(run)]


def test_a_run_is_there_from_its_creation(runs: Runs) -> None:
    assert create(runs) == "run-1"
    shown = runs.show("run-1")
    times = {name: shown.pop(name) for name in ("created", "updated")}
    assert all(time.endswith("Z") for time in times.values())
    assert shown == {
        "run_id": "run-1",
        "name": "tiny",
        "computation": "ping",
        "digest": D,
        "state": "CREATED",
        "rounds": 2,
        "requester": "ada",
        "project": {"name": "trial", "digest": PROJECT.digest(), "purpose": "research"},
        "error": None,
        "document": DOCUMENT,
        "result": None,
        "approvals": None,
        "sites": {},
        "rounds_done": 0,
        "round_log": [],
    }
    assert runs.document("run-1") == (DOCUMENT, D, ["alpha", "beta"])
    request, project = runs.asked("run-1")
    assert open_signed(request, ADA.public).document == DOCUMENT
    assert (project, runs.project("run-1")) == (ENVELOPE, PROJECT)
    assert texts(runs) == [f"created by ada in trial, digest {D}"]


def test_a_run_without_a_name_has_that_of_its_computation(runs: Runs) -> None:
    create(runs, document={"computation": "mean"})
    assert runs.show("run-1")["name"] == "mean"


def test_the_same_request_twice_is_one_run(runs: Runs) -> None:
    create(runs)
    runs.move("run-1", RunState.ADMITTING)
    create(runs)
    create(runs, "run-2")
    assert [run["run_id"] for run in runs.all()] == ["run-2", "run-1"]
    assert runs.show("run-1")["state"] == "ADMITTING"
    assert len(runs.log("run-1")) == 2


def test_the_runs_of_some_projects(runs: Runs) -> None:
    other = PROJECT.model_copy(update={"name": "other"})
    create(runs)
    create(runs, "run-2", project=other)
    assert [run["run_id"] for run in runs.all({PROJECT.digest()})] == ["run-1"]
    assert [run["run_id"] for run in runs.all({PROJECT.digest(), other.digest()})] == ["run-2", "run-1"]
    assert runs.all(set()) == []


def test_a_run_goes_along_its_path(runs: Runs) -> None:
    create(runs)
    for state in WAY[:-1]:
        runs.move("run-1", state, text=f"now {state.lower()}")
    runs.move("run-1", RunState.SUCCEEDED, result={"n": 3})
    shown = runs.show("run-1")
    assert (shown["state"], shown["result"], shown["error"]) == ("SUCCEEDED", {"n": 3}, None)
    assert texts(runs)[1:] == [
        "ADMITTING: now admitting",
        "SETTING_UP: now setting_up",
        "RUNNING: now running",
        "FINISHING: now finishing",
        "SUCCEEDED",
    ]


@pytest.mark.parametrize("done", range(6))
def test_a_step_off_the_path_is_refused_and_changes_nothing(runs: Runs, done: int) -> None:
    create(runs)
    for state in WAY[:done]:
        runs.move("run-1", state)
    before = runs.show("run-1"), texts(runs)
    for state in {*WAY, RunState.CREATED} - set(WAY[done : done + 1]):
        with pytest.raises(RunFailed, match=rf"cannot become {state}") as caught:
            runs.move("run-1", state, text="no", error={"code": "x", "message": "y"}, result={"z": 1})
        assert caught.value.code == "run.state"
    assert (runs.show("run-1"), texts(runs)) == before


@pytest.mark.parametrize("end", [RunState.FAILED, RunState.STOPPED, RunState.INTERRUPTED])
def test_an_end_keeps_its_reason_and_is_the_end(runs: Runs, end: RunState) -> None:
    create(runs)
    error = {"code": "run.deadline", "message": "beta did not answer.", "hint": "Leave it out."}
    runs.move("run-1", end, error=error)
    assert runs.show("run-1")["error"] == error
    assert texts(runs)[-1] == f"{end}: beta did not answer."
    for state in RunState:
        with pytest.raises(RunFailed):
            runs.move("run-1", state)


def test_what_was_left_unfinished_is_marked_interrupted(runs: Runs) -> None:
    for index, steps in enumerate((0, 1, 3, 5)):
        create(runs, f"run-{index}")
        for state in WAY[:steps]:
            runs.move(f"run-{index}", state)
    create(runs, "run-9")
    runs.move("run-9", RunState.FAILED)
    assert sorted(runs.interrupt_unfinished()) == ["run-0", "run-1", "run-2"]
    assert {run["run_id"]: run["state"] for run in runs.all()} == {
        "run-0": "INTERRUPTED",
        "run-1": "INTERRUPTED",
        "run-2": "INTERRUPTED",
        "run-3": "SUCCEEDED",
        "run-9": "FAILED",
    }
    assert texts(runs, "run-2")[-1] == "INTERRUPTED: the coordinator ended before the run did"
    assert runs.interrupt_unfinished() == []


def said(site: str, *, accepted: bool = False, **fields: Any) -> Admission:
    return Admission(run="run-1", site=site, accepted=accepted, **fields)


def test_who_takes_part_is_recorded(runs: Runs) -> None:
    create(runs)
    runs.admit("run-1", "beta", said("beta", code="policy.absent", sentence="No policy."))
    runs.admit("run-1", "alpha", said("alpha", accepted=True))
    assert runs.show("run-1")["sites"] == {
        "alpha": {"accepted": True, "code": "", "sentence": "", "approvals": None},
        "beta": {"accepted": False, "code": "policy.absent", "sentence": "No policy.", "approvals": None},
    }
    assert runs.show("run-1")["approvals"] is None
    assert texts(runs)[1:] == ["beta refuses: No policy. [policy.absent]", "alpha accepts"]


def waits(site: str, have: int, need: int) -> Admission:
    pending = Pending(have=have, need=need, expires="2026-12-09T10:00:00Z")
    return said(site, code="policy.awaiting_approval", sentence="People are to approve.", pending=pending)


def test_approvals_are_counted_over_all_sites(runs: Runs) -> None:
    create(runs)
    for answer in (waits("alpha", 0, 2), said("beta", accepted=True), waits("gamma", 1, 3)):
        runs.admit("run-1", answer.site, answer)
    assert runs.show("run-1")["approvals"] == {"have": 1, "need": 5}
    assert runs.awaited("run-1") == {
        answer.site: answer
        for answer in (waits("alpha", 0, 2), said("beta", accepted=True), waits("gamma", 1, 3))
    }
    assert texts(runs)[1] == "alpha waits for approvals (0 of 2) until 2026-12-09T10:00:00Z"
    runs.admit("run-1", "alpha", said("alpha", accepted=True))  # its people have signed
    runs.admit("run-1", "gamma", said("gamma", code="policy.approval_expired", sentence="Too late."))
    shown = runs.show("run-1")
    assert shown["sites"]["alpha"]["approvals"] == {"have": 2, "need": 2}
    assert shown["approvals"] == {"have": 2, "need": 5}
    assert set(runs.awaited("run-1")) == {"alpha", "beta"}


def test_a_run_that_waits_is_not_interrupted(runs: Runs) -> None:
    for state in (RunState.ADMITTING, RunState.AWAITING_APPROVAL):
        create(runs, state.lower())
        runs.move(state.lower(), RunState.ADMITTING)
    runs.move("awaiting_approval", RunState.AWAITING_APPROVAL)
    assert runs.interrupt_unfinished() == ["admitting"]
    assert runs.awaiting() == {"awaiting_approval": ["alpha", "beta"]}
    assert runs.state("awaiting_approval") is RunState.AWAITING_APPROVAL


def test_rounds_are_recorded_when_they_begin_and_end(runs: Runs) -> None:
    create(runs)
    runs.begin_round("run-1", 1, "a" * 64)
    runs.end_round("run-1", 1, "b" * 64)
    runs.begin_round("run-1", 2, "c" * 64)
    shown = runs.show("run-1")
    assert shown["rounds_done"] == 1
    assert [(r["round"], r["manifest"], r["state"]) for r in shown["round_log"]] == [
        (1, "a" * 64, "b" * 64),
        (2, "c" * 64, None),
    ]
    assert [r["ended"] is not None for r in shown["round_log"]] == [True, False]


def test_another_attempt_at_a_round_takes_the_place_of_the_one_that_failed(runs: Runs) -> None:
    create(runs)
    for manifest in "ab":
        runs.begin_round("run-1", 1, manifest * 64)
    runs.end_round("run-1", 1, "c" * 64)
    (done,) = runs.show("run-1")["round_log"]
    assert (done["manifest"], done["state"]) == ("b" * 64, "c" * 64)


def test_the_log_goes_on_from_a_number(runs: Runs) -> None:
    create(runs)
    create(runs, "run-2")
    for index in range(3):
        runs.say("run-1", f"line {index}")
        runs.say("run-2", "another run")
    lines = runs.log("run-1")
    assert [line["text"] for line in lines][1:] == ["line 0", "line 1", "line 2"]
    assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})
    assert [line["text"] for line in runs.log("run-1", after=lines[2]["seq"])] == ["line 2"]
    assert runs.log("run-1", after=lines[-1]["seq"]) == []


@pytest.mark.parametrize("ask", ["show", "log", "document", "asked", "project"])
def test_a_run_that_is_not_there_is_said(runs: Runs, ask: str) -> None:
    with pytest.raises(RunFailed, match="there is no run 'run-7'") as caught:
        getattr(runs, ask)("run-7")
    assert caught.value.code == "run.unknown"
    assert "plasmid runs ls" in caught.value.hint


def test_two_connections_write_at_once(runs: Runs, tmp_path: Path) -> None:
    """The run actor and the controller are two processes: a lock is waited for."""
    create(runs)
    other = open_engine(sqlite_url(tmp_path))
    second = Runs(other)
    threads = [
        threading.Thread(target=lambda who=who: [who.say("run-1", "x") for _ in range(20)])
        for who in (runs, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs.log("run-1")) == 41
    other.dispose()


BEFORE = """
CREATE TABLE runs (id VARCHAR(63) PRIMARY KEY, name VARCHAR(63), computation VARCHAR(63), digest VARCHAR(64),
  document TEXT, requester VARCHAR(63), nonce VARCHAR(32) UNIQUE, invited TEXT, state VARCHAR(16),
  rounds INTEGER, error TEXT, result TEXT, created DATETIME, updated DATETIME);
CREATE TABLE members (name VARCHAR(63) PRIMARY KEY, role VARCHAR(16), organisation VARCHAR(100),
  key VARCHAR(64), certificate VARCHAR(64), enrolled DATETIME);
INSERT INTO runs (id, name, state) VALUES ('mean-e6309671', 'mean', 'SUCCEEDED');
"""
"""What a coordinator's database looked like before runs belonged to projects."""


@pytest.mark.parametrize("command", [["start"], ["show"], ["invite", "alpha", "--organisation", "A"]])
def test_a_database_of_before_the_projects_is_refused_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    home = CoordinatorHome(tmp_path / "coordinator")
    home.create(["localhost"])
    with closing(sqlite3.connect(home.folder / "state.db")) as database:
        database.executescript(BEFORE)
        before = list(database.iterdump())
    done = CliRunner().invoke(app, [*command, "--format", "json"])
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["code"]) == (1, "storage.other_release")
    assert "was made by another release of Plasmid" in error["message"]
    with closing(sqlite3.connect(home.folder / "state.db")) as database:
        assert list(database.iterdump()) == before
