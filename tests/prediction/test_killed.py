"""`plasmid predict` in a process of its own that is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.predict import app
from support.tiny.tiny_adapter import tiny_adapter, tiny_rows

pytestmark = pytest.mark.usefixtures("at_home")
ROWS, BLOCK = 1200, 16


def journal_lines(parts: Path) -> list[bytes]:
    """Return the whole lines of a journal, none before there is one."""
    path = parts / "journal.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def test_a_kill_costs_one_block_at_most_and_changes_nothing(
    tiny: dict[str, BaseModel], model_home: Path, tmp_path: Path
) -> None:
    adapter, data = (
        tiny_adapter(tmp_path / "adapter", tiny["esm"]),
        tiny_rows(tmp_path / "rows.parquet", ROWS),
    )
    out, parts = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"

    def arguments(out: Path) -> list[str]:
        given = ["--data", str(data), "--out", str(out), "--batch-rows", str(BLOCK), "--keep", "id"]
        return [str(adapter), *given, "--format", "json"]

    process = subprocess.Popen(
        [sys.executable, "-m", "plasmid.cli.main", "predict", *arguments(out)],
        env={**os.environ, "PLASMID_HOME": str(model_home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        give_up = time.monotonic() + 120
        while len(journal_lines(parts)) < 12 and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    blocks = len(journal_lines(parts)) - 2
    assert 10 <= blocks < ROWS // BLOCK
    assert not out.exists()
    assert len(list(parts.glob("*.arrow"))) - blocks in (0, 1)

    answers = {}
    for name in ("out.parquet", "whole.parquet"):
        answer = CliRunner().invoke(app, arguments(tmp_path / name))
        answers[name] = json.loads(answer.stdout.splitlines()[-1])["data"]
    assert answers["out.parquet"]["rows_resumed"] == blocks * BLOCK
    assert answers["whole.parquet"]["rows_resumed"] == 0
    assert answers["out.parquet"]["rows"] == answers["whole.parquet"]["rows"] == ROWS
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
