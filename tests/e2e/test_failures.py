"""What goes wrong in a run: a clear error, no half-written adapter, no process left, no row in any text."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from e2e.conftest import LONG, QUICK, Home, until
from support.federation.bundle_recipes import write_recipe

CANARY = "CWCANARYWC"
SLEEPER = """
computation: bundle
name: sleeper
title: It sleeps
data:
  columns: {age: {type: number, bounds: [0, 120], missing: allowed}}
  max_rows: 1000
bundle: {entry: hostile, half: per_record, tensors: {counts: [3]}}
federation: {spare_attempts: 0}
"""
SLEEPS = """
    import time

    def per_record(state, row, settings):
        time.sleep(600)
        return [0.0, 0.0, 0.0]
"""


@pytest.fixture(autouse=True)
def _nothing_stays(home: Home) -> Iterator[None]:
    yield
    home.kill()


def _adapters(home: Home) -> set[str]:
    folder = home.folder / "adapters"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _start_long_run(home: Home) -> tuple[Any, str]:
    """Start a run that would take hours and return it and its id once every site is training."""
    process = home.start("run", "tcr-covid", "--sites", str(home.sites), *LONG, "--no-baselines", "--yes")
    return process, _wait_for_training(home, process)


def _wait_for(home: Home, process: Any, condition: Callable[[str], bool]) -> str:
    """Wait until there is a run for which *condition* holds, and return its id."""
    found: list[str] = []

    def holds() -> bool:
        assert process.poll() is None, process.communicate()
        _, answer, _ = home.ask("runs", "ls")
        found[:] = [run["run_id"] for run in answer["data"].get("runs", []) if run["state"] == "RUNNING"]
        return bool(found) and condition(found[0])

    until(holds, 120.0, lambda: f"it never came so far: {found}", pause_s=0.5)
    return found[0]


def _wait_for_training(home: Home, process: Any, *, sites: int = 3) -> str:
    """Wait until every site has trained a step, and return the run's id."""

    def training(run: str) -> bool:
        _, shown, _ = home.ask("runs", "show", run)
        progress = shown["data"].get("progress", {})
        return len(progress) == sites and all(site["step"] > 0 for site in progress.values())

    return _wait_for(home, process, training)


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recipe whose workers are at their rows for ten minutes, and cost next to nothing."""
    return str(write_recipe(tmp_path_factory.mktemp("recipes") / "sleeper", SLEEPER, hostile=SLEEPS))


def _start_sleeper(home: Home, sleeper: str) -> tuple[Any, str]:
    """Start a run of *sleeper*; return it and its id once the workers have been given their rows."""
    process = home.start("run", sleeper, "--sites", str(home.sites), "--yes")

    def computing(run: str) -> bool:
        logs = [folder / "audit" / "log.jsonl" for folder in (home.folder / "sites").iterdir()]
        lines = [line for log in logs for line in log.read_text().splitlines() if f'"{run}"' in line]
        return sum('"manifest"' in line for line in lines) == len(list(home.sites.iterdir()))

    return process, _wait_for(home, process, computing)


@pytest.mark.slow
def test_a_policy_that_refuses_is_named_with_its_reason(home: Home, tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    shutil.copytree(home.sites, sites)
    (sites / "donor_1886.policy.yaml").write_text("allow: []\n")
    before = _adapters(home)
    status, answer, _ = home.run("run", "tcr-covid", "--sites", str(sites), *QUICK, "--yes")
    assert status != 0
    assert answer["error"]["code"] == "recipe.too_few_sites"
    assert (
        "donor_1886: The site's policy does not name this digest. [policy.digest_not_allowed]"
        in (answer["error"]["message"])
    )
    assert _adapters(home) == before
    home.wait_until_gone(5.0)


def _kill(home: Home, *start: str) -> None:
    """Kill the process of *home* whose command holds the words *start*."""
    killed = 0
    for candidate in psutil.process_iter():
        try:
            line = " ".join(candidate.cmdline())
            if candidate.environ().get("PLASMID_HOME") != str(home.folder) or " ".join(start) not in line:
                continue
        except psutil.Error:
            continue
        candidate.send_signal(signal.SIGKILL)
        killed += 1
    assert killed == 1


@pytest.mark.slow
def test_too_many_sites_that_die_end_the_run(home: Home) -> None:
    """Of three, masks need all: the run fails when one has been silent for long enough, and names it."""
    before = _adapters(home)
    how = ["--set", "federation.rounds=3", "--set", "training.steps=150", "--no-baselines", "--yes"]
    process = home.start("run", "tcr-covid", "--sites", str(home.sites), *how)
    run = _wait_for_training(home, process)
    _kill(home, "site start --home", str(home.folder / "sites" / "donor_1886"))
    out, errors = process.communicate(timeout=240)
    answer = json.loads(out.splitlines()[-1])
    assert process.returncode != 0
    assert answer["error"]["code"] in ("recipe.too_few_sites", "run.sum_lost")
    assert "\n  donor_1886: it has been silent for 20 s" in answer["error"]["message"]
    told = " ".join(errors.split())
    assert "the process of donor_1886 ended with status -9." in told
    assert "donor_1886.log. The run goes on without it, if it can." in told
    assert answer["data"]["run_id"] == run
    assert _adapters(home) == before
    home.wait_until_gone(5.0)
    _, shown, _ = home.ask("runs", "show", run)
    assert shown["data"]["state"] == "FAILED"


@pytest.mark.slow
def test_a_run_goes_on_without_a_site_that_dies(home: Home, tmp_path: Path) -> None:
    """Of four, masks need three: the adapter is that of the others, and says so."""
    sites = tmp_path / "sites"
    shutil.copytree(home.sites, sites)
    shutil.copy(home.test, sites / "donor_178.csv")
    how = ["--set", "federation.rounds=2", "--set", "training.steps=60", "--no-baselines", "--yes"]
    process = home.start("run", "tcr-covid", "--sites", str(sites), *how)
    run = _wait_for_training(home, process, sites=4)
    _kill(home, "site start --home", str(home.folder / "sites" / "donor_1886"))
    out, errors = process.communicate(timeout=280)
    answer = json.loads(out.splitlines()[-1])
    assert process.returncode == 0, (answer, errors)
    others = ["donor_1005703", "donor_178", "donor_3646"]
    assert answer["data"]["sites"] == others
    provenance = json.loads((Path(answer["data"]["adapter"]) / "provenance.json").read_text())
    assert (provenance["run"], provenance["participants"]) == (run, others)
    assert provenance["survivors"] == [others, others]
    assert provenance["key_epochs"] == [{"n": 4, "c": 1, "theta": 3, "m": 3}]
    card = (Path(answer["data"]["adapter"]) / "README.md").read_text()
    assert "2 sums were opened, over 3 sites; m = 3 are required." in card
    home.wait_until_gone(5.0)


@pytest.mark.slow
def test_a_coordinator_that_dies_ends_the_run_at_once(home: Home) -> None:
    process, run = _start_long_run(home)
    _kill(home, "coordinator start --home")
    out, _ = process.communicate(timeout=120)
    answer = json.loads(out.splitlines()[-1])
    assert process.returncode != 0
    assert answer["error"]["code"] in ("run.process_died", "link.unreachable")
    assert answer["data"]["run_id"] == run
    home.wait_until_gone(15.0, ray=False)
    home.wait_until_gone(90.0)
    _, shown, _ = home.ask("runs", "show", run)
    assert shown["data"]["state"] != "SUCCEEDED"


@pytest.mark.slow
def test_a_second_run_leaves_the_first_alone_and_stop_ends_it_within_ten_seconds(home: Home) -> None:
    process, run = _start_long_run(home)
    status, second, _ = home.run("run", "tcr-covid", "--sites", str(home.sites), *QUICK, "--yes")
    assert (status != 0, second["error"]["code"]) == (True, "storage.in_use")
    _, shown, _ = home.ask("runs", "show", run)
    assert shown["data"]["state"] == "RUNNING"
    asked = time.monotonic()
    status, _, _ = home.ask("runs", "stop", run)
    assert status == 0
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20.0  # ten for the training, the rest for all processes to go
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "run.stopped"
    home.wait_until_gone(5.0)
    _, shown, _ = home.ask("runs", "show", run)
    assert shown["data"]["state"] == "STOPPED"


def test_ctrl_c_leaves_nothing_after_five_seconds(home: Home, sleeper: str) -> None:
    before = _adapters(home)
    process, _ = _start_sleeper(home, sleeper)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=15)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "usage.interrupted"
    home.wait_until_gone(5.0)
    assert _adapters(home) == before


def test_a_killed_launcher_takes_everything_with_it(home: Home, sleeper: str) -> None:
    process, run = _start_sleeper(home, sleeper)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=15)
    home.wait_until_gone(15.0, ray=False)
    home.wait_until_gone(90.0)
    _, shown, _ = home.ask("runs", "show", run)
    assert shown["data"]["state"] == "INTERRUPTED"


def test_a_taken_port_is_said_before_anything_starts(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, answer, _ = home.run(
            "run", "tcr-covid", "--sites", str(home.sites), *QUICK, "--port", port, "--yes"
        )
    assert status != 0
    assert answer["error"]["code"] == "link.port_taken"
    assert port in answer["error"]["message"]
    home.wait_until_gone(5.0)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda text: text.replace("cdr3", "sequence", 1), "data.column_missing"),
        (lambda text: text.rsplit(",", 1)[0] + f",{CANARY}\n", "data.label_unknown"),
        (lambda text: text + f"{CANARY}*,TRBV28*01,TRBJ2-7*01,30,F,1\n", "data.residue_invalid"),
        (lambda text: text.split("\n", 1)[0] + "\n", "data.empty"),
    ],
)
def test_bad_rows_are_told_without_showing_them(
    home: Home, tmp_path: Path, damage: object, code: str
) -> None:
    sites = tmp_path / "sites"
    shutil.copytree(home.sites, sites)
    table = sites / "donor_3646.csv"
    table.write_text(damage(table.read_text()))
    status, answer, errors = home.run("run", "tcr-covid", "--sites", str(sites), *QUICK, "--yes")
    assert status != 0
    assert answer["error"]["code"] == code
    assert "donor_3646" in answer["error"]["message"]
    assert answer["error"]["hint"]
    assert CANARY not in json.dumps(answer) + errors


def test_usage_is_explained(home: Home) -> None:
    status, answer, _ = home.ask("run", "tcr-covd", "--yes")
    assert status != 0
    assert answer["error"]["code"] == "recipe.unknown"
    assert "tcr-covid" in answer["error"]["message"]
    status, answer, _ = home.ask("run", "tcr-covid", "--set", "training.stepps=3", "--yes")
    assert answer["error"]["code"] == "recipe.invalid"
    assert "steps" in answer["error"]["message"]
    status, answer, _ = home.ask(
        "run", "tcr-covid", "--set", "federation.min_sites=4", *QUICK, "--yes", "--sites", str(home.sites)
    )
    assert answer["error"]["code"] == "data.too_few_sites"


@pytest.mark.slow
def test_what_only_the_plan_shows_ends_it_before_anything_runs(home: Home) -> None:
    """It starts a federation; tests/client/test_launch.py needs none."""
    status, answer, _ = home.run("run", "tcr-covid", "--sites", str(home.sites), *QUICK)
    assert (status != 0, answer["error"]["code"]) == (True, "usage.not_confirmed")
