"""The site's log: whole lines, durable, and nothing happens without it."""

from __future__ import annotations

import json
import math
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plasmid.core.errors import StorageError
from plasmid.gateway.journal import Journal


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_and_when(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    before = datetime.now(UTC)
    journal.write("epoch", run="run-1", epoch=1, roster=["alpha", "beta"], norm=1.5, masked=True, rho=None)
    (line,) = lines(tmp_path / "journal.jsonl")
    when = datetime.fromisoformat(str(line.pop("time")))
    assert before <= when <= before + timedelta(minutes=5)
    assert line == {
        "event": "epoch",
        "run": "run-1",
        "epoch": 1,
        "roster": ["alpha", "beta"],
        "norm": 1.5,
        "masked": True,
        "rho": None,
    }


def test_lines_are_appended_across_openings(tmp_path: Path) -> None:
    for event in ("one", "two"):
        Journal(tmp_path / "journal.jsonl").write(event)
    assert [line["event"] for line in lines(tmp_path / "journal.jsonl")] == ["one", "two"]


def test_a_line_is_on_disk_before_the_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    Journal(tmp_path / "journal.jsonl").write("one")
    assert synced == [(tmp_path / "journal.jsonl").stat().st_size]


def test_threads_do_not_tear_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    journal = Journal(tmp_path / "journal.jsonl")

    def write(name: str) -> None:
        for number in range(50):
            journal.write(name, number=number, text="x" * 9000)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(tmp_path / "journal.jsonl")
    assert len(found) == 200
    for name in "abcd":
        assert [line["number"] for line in found if line["event"] == name] == list(range(50))


def test_a_full_disk_is_an_error() -> None:
    with pytest.raises(StorageError) as caught:
        Journal(Path("/dev/full")).write("one")
    assert caught.value.code == "storage.full"


def test_a_log_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        Journal(tmp_path).write("one")
    assert caught.value.code == "storage.unwritable"


def test_a_value_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Journal(tmp_path / "journal.jsonl").write("one", norm=math.nan)
    assert not (tmp_path / "journal.jsonl").exists()
