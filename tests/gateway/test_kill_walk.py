"""The gateway, killed at every step of ``contribute`` and of sending, by :mod:`support.federation.kill_walk`.

After each restart: no slot has masked or sent a second vector, no epsilon was lost, whatever was sent has its
line, log and ledger verify, and the site takes part in the next key epoch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]


def walk(folder: Path, *options: str) -> list[dict[str, Any]]:
    """Return what each death left, by the walker's lines."""
    done = subprocess.run(
        [sys.executable, "-m", "support.federation.kill_walk", str(folder), *options],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800 if "calls" in options else 240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def bad(deaths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [death for death in deaths if death["wrong"]]


@pytest.mark.parametrize("unit", [pytest.param("none", marks=pytest.mark.slow), "record"])
def test_no_death_at_a_step_gives_a_second_vector_or_loses_epsilon(tmp_path: Path, unit: str) -> None:
    deaths = walk(tmp_path, "--unit", unit)
    assert bad(deaths) == []
    steps = [death["step"] for death in deaths if death["how"] == "before"]
    # what it must have found: write-ahead before the computation, the line before the sending
    assert steps[-2:] == ["upload", "post"]
    assert steps.count("mask") == steps.count("compute") == 1
    begun, sent = steps.index("compute"), steps.index("upload")
    assert steps[:begun].count("fsync") >= (3 if unit == "record" else 1)
    assert "fsync" in steps[steps.index("mask") : sent]
    assert {death["how"] for death in deaths} == {"before", "after", "lost", "torn"}


@pytest.mark.slow
@pytest.mark.timeout(2000)
@pytest.mark.parametrize("unit", ["none", "record"])
def test_nor_does_a_death_at_any_call(tmp_path: Path, unit: str) -> None:
    deaths = walk(tmp_path, "--unit", unit, "--grain", "calls")
    assert bad(deaths) == []
    assert len(deaths) > 100


@pytest.mark.parametrize(
    ("defence", "found"),
    [
        ("epochs", "vectors of slot (1, 0)"),
        ("charge", "0 charged"),
        ("log", "left without a line"),
    ],
)
def test_the_walk_finds_a_missing_defence(tmp_path: Path, defence: str, found: str) -> None:
    """The positive control: each defence switched off shows."""
    unit = "record" if defence == "charge" else "none"
    deaths = walk(tmp_path, "--unit", unit, "--without", defence, "--until", found)
    assert any(found in wrong for wrong in deaths[-1]["wrong"])
