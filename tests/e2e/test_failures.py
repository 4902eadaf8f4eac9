"""What goes wrong in a run: a clear error, no half-written adapter, no process left, no row in any text."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from e2e.conftest import LONG, QUICK, Home, until

CANARY = "CWCANARYWC"


def _adapters(home: Home) -> set[str]:
    folder = home.folder / "adapters"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _start_long_run(home: Home) -> tuple[object, str]:
    """Start a run that would take hours and return it and its id once every site is training."""
    process = home.start("run", "tcr-covid", "--sites", str(home.sites), *LONG, "--no-baselines", "--yes")
    found: list[str] = []

    def training() -> bool:
        assert process.poll() is None, process.communicate()
        status, answer, _ = home.run("runs", "ls")
        found[:] = [run["run_id"] for run in answer["data"].get("runs", []) if run["state"] == "RUNNING"]
        if status or not found:
            return False
        _, shown, _ = home.run("runs", "show", found[0])
        progress = shown["data"].get("progress", {})
        return len(progress) == 3 and all(site["step"] > 0 for site in progress.values())

    until(training, 120.0, lambda: f"never trained: {found}")
    return process, found[0]


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


def test_a_site_that_dies_in_a_round_ends_the_run(home: Home) -> None:
    before = _adapters(home)
    process, run = _start_long_run(home)
    for candidate in psutil.process_iter():
        try:
            line = " ".join(candidate.cmdline())
        except psutil.Error:
            continue
        if "site start" in line and line.split()[-2].endswith("home/sites/donor_1886"):
            candidate.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    answer = json.loads(out.splitlines()[-1])
    assert process.returncode != 0
    assert answer["error"]["code"] == "run.process_died"
    assert "donor_1886" in answer["error"]["message"]
    assert answer["data"]["run_id"] == run
    assert _adapters(home) == before
    home.wait_until_gone(5.0)
    _, shown, _ = home.run("runs", "show", run)
    assert shown["data"]["state"] in ("FAILED", "STOPPED", "INTERRUPTED")


def test_a_second_run_leaves_the_first_alone_and_stop_ends_it_within_ten_seconds(home: Home) -> None:
    process, run = _start_long_run(home)
    status, second, _ = home.run("run", "tcr-covid", "--sites", str(home.sites), *QUICK, "--yes")
    assert (status != 0, second["error"]["code"]) == (True, "storage.in_use")
    _, shown, _ = home.run("runs", "show", run)
    assert shown["data"]["state"] == "RUNNING"
    asked = time.monotonic()
    status, _, _ = home.run("runs", "stop", run)
    assert status == 0
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20.0  # ten for the training, the rest for all processes to go
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "run.stopped"
    home.wait_until_gone(5.0)
    _, shown, _ = home.run("runs", "show", run)
    assert shown["data"]["state"] == "STOPPED"


def test_ctrl_c_leaves_nothing_after_five_seconds(home: Home) -> None:
    before = _adapters(home)
    process, _ = _start_long_run(home)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=15)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "usage.interrupted"
    home.wait_until_gone(5.0)
    assert _adapters(home) == before


def test_a_killed_launcher_takes_everything_with_it(home: Home) -> None:
    process, run = _start_long_run(home)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=15)
    home.wait_until_gone(15.0, ray=False)
    home.wait_until_gone(90.0)
    _, shown, _ = home.run("runs", "show", run)
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
    status, answer, _ = home.run("run", "tcr-covd", "--yes")
    assert status != 0
    assert answer["error"]["code"] == "recipe.unknown"
    assert "tcr-covid" in answer["error"]["message"]
    status, answer, _ = home.run("run", "tcr-covid", "--set", "training.stepps=3", "--yes")
    assert answer["error"]["code"] == "recipe.invalid"
    assert "steps" in answer["error"]["message"]
    status, answer, _ = home.run("run", "tcr-covid", "--set", "federation.server.strategy=Krum", "--yes")
    assert (status != 0, answer["error"]["code"]) == (True, "recipe.strategy")
    status, answer, _ = home.run("run", "tcr-covid", "--sites", str(home.sites), *QUICK)
    assert (status != 0, answer["error"]["code"]) == (True, "usage.not_confirmed")
