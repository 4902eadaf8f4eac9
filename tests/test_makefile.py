"""The chores: each makes .venv itself, does nothing twice, and fails when its command fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# Stands for Python: notes what it is asked, says its version is new enough unless told otherwise, and
# makes a virtual environment whose every command is itself.
FAKE_PYTHON = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$1 $2" in
  "-c "*) exit "${TOO_OLD:-0}" ;;
  "-m venv")
    mkdir -p "$3/bin"
    for name in python plasmid ruff mypy lint-imports; do cp "$0" "$3/bin/$name"; done ;;
esac
"""
INSTALL = "python -m pip install --editable .[platform,demo,dev]"


class Checkout:
    """A folder with the Makefile, and the calls that its targets made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls = folder / "calls.txt"
        for name in ("Makefile", "pyproject.toml", ".ci/run"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
        python = folder / "fake-python"
        python.write_text(FAKE_PYTHON, encoding="utf-8")
        python.chmod(0o755)

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run *command* in the checkout with nothing but *environment* and a PATH."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "CALLS": str(self._calls), **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make with the fake Python."""
        return self.call("make", f"PYTHON={self.folder / 'fake-python'}", *arguments, **environment)

    def calls(self) -> list[str]:
        """Return what the fake Python was asked since the last time, version checks left out."""
        lines = self._calls.read_text(encoding="utf-8").splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return [line for line in lines if " -c " not in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_setup_installs_once_and_again_when_the_dependencies_change(checkout: Checkout) -> None:
    assert checkout.make("setup").returncode == 0
    assert checkout.calls() == ["fake-python -m venv .venv", INSTALL]
    assert checkout.make("setup").returncode == 0
    assert checkout.calls() == []
    stamp = (checkout.folder / ".venv/.installed").stat().st_mtime
    os.utime(checkout.folder / "pyproject.toml", (stamp + 10, stamp + 10))
    assert checkout.make("setup").returncode == 0
    assert checkout.calls() == [INSTALL]


@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("demo", ["plasmid run tcr-covid --set federation.rounds=24 --yes"]),
        ("test", ["python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder"]),
        ("test-all", ["python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "]),
        (
            "lint",
            ["ruff check", "ruff format --check", "mypy ", "lint-imports ", "python tests/promises.py"],
        ),
        ("fuzz", ["python -m fuzz"]),
        ("constraints", ["python tools/constraints.py"]),
        ("audit", ["python tools/audit.py"]),
        ("sbom", ["python tools/sbom.py"]),
    ],
)
def test_every_target_makes_its_environment_first(
    checkout: Checkout, target: str, commands: list[str]
) -> None:
    assert checkout.make(target).returncode == 0
    assert checkout.calls() == ["fake-python -m venv .venv", INSTALL, *commands]
    assert checkout.make(target).returncode == 0
    assert checkout.calls() == commands


def test_bench_installs_its_peers_passes_the_name_on_and_adds_nothing_to_stdout(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.calls()
    peers = "python -m pip install --quiet --editable .[platform,demo,dev,bench]"
    assert checkout.make("bench", "NAME=link").stdout == ""
    assert checkout.calls() == [peers, "python -m bench link"]
    assert checkout.make("bench").returncode == 0
    assert checkout.calls() == ["python -m bench"]


def test_fuzz_passes_a_name_of_several_words_on(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.calls()
    assert checkout.make("fuzz", "NAME=message manifest").returncode == 0
    assert checkout.calls() == ["python -m fuzz message manifest"]


@pytest.mark.parametrize("trouble", ["older", "missing"])
def test_a_python_that_will_not_do_is_named(checkout: Checkout, trouble: str) -> None:
    if trouble == "missing":
        (checkout.folder / "fake-python").unlink()
    result = checkout.make("setup", TOO_OLD="1")
    assert result.returncode != 0
    assert re.search(
        r"Plasmid needs Python 3\.11 or later, but '.*fake-python' is missing or older", result.stderr
    )
    assert "make setup PYTHON=python3.11" in result.stderr
    assert not (checkout.folder / ".venv").exists()


def test_clean_removes_what_was_made(checkout: Checkout) -> None:
    checkout.make("setup")
    for root in ("models", "recipes", "node", "platform", "tests", "benchmarks", "tools"):
        (checkout.folder / root / "package/__pycache__").mkdir(parents=True)
    assert checkout.make("clean").returncode == 0
    assert not (checkout.folder / ".venv").exists()
    assert not list(checkout.folder.rglob("__pycache__"))


@pytest.mark.parametrize("broken", [None, "lint", "test", "audit"])
def test_ci_runs_all_and_fails_when_one_does(checkout: Checkout, broken: str | None) -> None:
    folder = checkout.folder / "bin"
    folder.mkdir()
    make = folder / "make"
    make.write_text('#!/bin/sh\necho "make $1"\ntest "$1" != "$BROKEN"\n', encoding="utf-8")
    make.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    result = checkout.call("bash", ".ci/run", PATH=path, BROKEN=broken or "")
    assert result.stdout == "make lint\nmake test\nmake audit\n"
    assert result.returncode == (0 if broken is None else 1)
