"""The peer of ``link``: real processes, and none of them left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.peers import flower_link


def sleeper(home: Path) -> subprocess.Popen[bytes]:
    """Start a process that carries the mark of *home* and will not end on SIGTERM."""
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"import signal, time; {ignore}; print(flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "FLWR_HOME": str(home)}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_fewer_than_three_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds is 2; at least 3"):
        flower_link.measure(2)


def test_the_free_ports_are_distinct() -> None:
    assert len(set(flower_link._free_ports(8))) == 8


def test_only_marked_processes_are_ended(tmp_path: Path) -> None:
    with sleeper(tmp_path / "mine") as mine, sleeper(tmp_path / "other") as other:
        flower_link._end_processes(tmp_path / "mine", patience_s=0.3)
        assert not psutil.pid_exists(mine.pid)
        assert other.poll() is None
        other.kill()


def test_a_failed_start_raises_with_the_log_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    homes: list[Path] = []

    class Broken(flower_link.FlowerFederation):
        def __init__(self, home: Path, *, tls: bool) -> None:
            super().__init__(home, tls=tls)
            homes.append(home)
            self._key.write_text("no key", encoding="utf-8")

    monkeypatch.setattr(flower_link, "FlowerFederation", Broken)
    with pytest.raises(
        RuntimeError, match="flower-superlink ended while waiting for the SuperLink to answer"
    ):
        flower_link.measure(3)
    assert not homes[0].exists()
    assert list(flower_link._marked_processes(homes[0])) == []


@pytest.mark.slow
def test_a_real_federation_is_measured_and_leaves_nothing() -> None:
    before = {process.pid for process in psutil.process_iter()}
    started_s = time.monotonic()
    figures = flower_link.measure(3)
    elapsed_s = time.monotonic() - started_s
    assert len(figures.round_s) == 3
    assert 0 < figures.fastest_round_s <= figures.steady_round_s < elapsed_s
    assert sum(figures.round_s[1:]) < figures.start_to_three_rounds_s < elapsed_s
    left = [process for process in psutil.process_iter() if process.pid not in before]
    assert not [process for process in left if "flwr" in process.name() or "flower" in process.name()]
