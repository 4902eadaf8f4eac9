"""End-to-end tests start real processes: a home for the whole session, and a way to see what is left over."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from plasmid.recipes.catalogue import get
from support.federation.deployed import Deployment
from support.servers import warm

ROWS = 160
QUICK = ("--set", "federation.rounds=2", "--set", "training.steps=2")
DP_SGD = {
    "privacy.unit": "record",
    "privacy.mechanism": "dp-sgd",
    "privacy.epsilon": "8",
    "privacy.delta": "1e-5",
    "privacy.record_clip": "1.0",
    "training.batch": "16",
}
LONG = ("--set", "federation.rounds=3", "--set", "training.steps=100000")


@dataclass(frozen=True)
class Home:
    """One PLASMID_HOME, in which the base model has been imported, with small tables of real donors."""

    folder: Path
    sites: Path
    test: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "plasmid.cli.main", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PLASMID_HOME": str(self.folder), "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: str, timeout_s: float = 280.0) -> tuple[int, dict[str, Any], str]:
        """Return exit status, JSON answer and standard error."""
        done = subprocess.run(
            self.command(*arguments, "--format", "json"),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr

    def ask(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Return what :meth:`run` does, of a command that starts no federation: it starts warm."""
        done = warm.run("plasmid.cli.main", [*arguments, "--format", "json"], env=self.environment)
        return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, as a shell does."""
        return subprocess.Popen(
            self.command(*arguments, "--format", "json"),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Whoever runs the tests in the background has SIGINT ignored, and children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def processes(self, *, ray: bool = True) -> list[str]:
        """Return the command lines of all processes that belong to this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PLASMID_HOME") != str(self.folder):
                    continue
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            is_ray = "/ray/" in line or line.startswith("ray::")
            if line and process.status() != psutil.STATUS_ZOMBIE and (ray or not is_ray):
                found.append(line)
        return found

    def kill(self) -> None:
        """End all processes that belong to this home, so that one failed test does not fail the next."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("PLASMID_HOME") == str(self.folder):
                    process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue

    def wait_until_gone(self, within_s: float, *, ray: bool = True) -> None:
        until(lambda: not self.processes(ray=ray), within_s, lambda: f"left over: {self.processes(ray=ray)}")


def until(
    condition: Callable[[], bool], within_s: float, otherwise: Callable[[], str], *, pause_s: float = 0.1
) -> None:
    """Wait for *condition*; fail with *otherwise* after *within_s*."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(pause_s)


def excerpt(source: Path, target: Path, rows: int) -> None:
    """Copy the first and last rows of a table sorted by label, so that both labels are in it."""
    with source.open(newline="") as file:
        reader = csv.reader(file)
        header, *body = list(reader)
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([*body[: rows // 2], *body[-(rows - rows // 2) :]])


DONORS = ("donor_1005703", "donor_1886", "donor_3646")
PARTIES = ("coordinator", "researcher", *DONORS)


def _users() -> dict[str, int]:
    """Return a user id per party where this process may switch to one that can run this interpreter."""
    if os.geteuid() != 0:
        return {}
    users = {party: 61000 + number for number, party in enumerate(PARTIES)}
    probe = [sys.executable, "-c", "import plasmid.cli.main"]
    try:
        subprocess.run(
            probe, user=61000, group=61000, extra_groups=[], cwd="/", check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):  # an interpreter in root's own home
        return {}
    return users


@pytest.fixture(scope="module")
def federation() -> Iterator[Deployment]:
    """A coordinator and three donors, each with its own folder and, as root, its own user of the system."""
    root = Path(tempfile.mkdtemp(prefix="plasmid-deployed-"))
    root.chmod(0o755)
    tables = {}
    for donor in DONORS:
        tables[donor] = root / f"{donor}.csv"
        excerpt(get("tcr-covid").parent / "data" / f"{donor}.csv", tables[donor], ROWS)
    try:
        with Deployment(root, tables, _users(), public_size=ROWS) as made:
            made.start_sites()
            made.wait_online()
            yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    root = tmp_path_factory.mktemp("e2e")
    data = get("tcr-covid").parent / "data"
    sites = root / "sites"
    sites.mkdir()
    for donor in DONORS:
        excerpt(data / f"{donor}.csv", sites / f"{donor}.csv", ROWS)
    test = root / "unseen.csv"
    excerpt(data / "donor_178.csv", test, ROWS)
    made = Home(root / "home", sites, test)
    yield made
    made.kill()
