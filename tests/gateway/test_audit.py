"""The audit log on disk: whole entries, durable, signed, and no entry without them."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import PlasmidError, ProtocolError, SiteFailed, StorageError
from plasmid.core.merkle import leaf_hash, root_of
from plasmid.log.audit_log import INNER, AuditLog
from plasmid.log.entries import MAX_REASON
from plasmid.protocol.checkpoint import parse_note
from plasmid.protocol.identity import Identity

ALPHA = Identity.generate("alpha")
START = datetime(2026, 11, 25, 10, 0, 0, tzinfo=UTC)


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def turn(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def log(folder: Path, clock: Hands) -> AuditLog:
    return AuditLog(folder, ALPHA, clock=clock)


def actions(log: AuditLog) -> list[str]:
    return [entry["action"] for entry in log.entries()]


def refused(code: str, do: Callable[[], Any]) -> PlasmidError:
    with pytest.raises(PlasmidError) as caught:
        do()
    assert caught.value.code == code
    return caught.value


# -- entries ---------------------------------------------------------------------------------------


def test_an_entry_says_who_did_what_when_and_why(log: AuditLog, folder: Path) -> None:
    number = log.write(
        "refused",
        actor="coordinator",
        object="a" * 64,
        run="run-1",
        rule="policy.budget",
        reason="too little is left",
        result="refused",
        round=1,
        norm=1.5,
        masked=True,
        roster=["alpha", "beta"],
        rho=None,
    )
    text = (folder / "log.jsonl").read_bytes()
    assert number == 1
    assert text == (
        b'{"action":"refused","actor":"coordinator","facts":{"masked":true,"norm":1.5,"rho":null,"roster":'
        b'["alpha","beta"],"round":1},"object":"' + b"a" * 64 + b'","reason":"too little is left","result":'
        b'"refused","rule":"policy.budget","run":"run-1","seq":1,"time":"2026-11-25T10:00:00Z"}\n'
    )
    assert (folder / "log.jsonl").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_left_out_is_null_and_the_gateway_s(log: AuditLog) -> None:
    log.write("started")
    (entry,) = log.entries()
    assert entry == {
        "seq": 1,
        "time": "2026-11-25T10:00:00Z",
        "actor": "gateway",
        "action": "started",
        "object": None,
        "run": None,
        "rule": None,
        "reason": None,
        "result": "ok",
        "facts": {},
    }


def test_entries_go_on_across_openings(folder: Path) -> None:
    numbers = [AuditLog(folder, ALPHA).write(action) for action in ("one", "two", "three")]
    assert numbers == [1, 2, 3]
    assert actions(AuditLog(folder)) == ["one", "two", "three"]


def test_a_value_that_is_not_json_is_refused(log: AuditLog) -> None:
    for value in (math.nan, math.inf, object(), 2**60):
        with pytest.raises(ValueError):
            log.write("one", value=value)
    with pytest.raises(ValueError, match="a result is one of"):
        log.write("one", result="fine")
    assert log.entries() == []


def test_a_long_reason_is_cut_and_an_odd_one_kept_readable(log: AuditLog) -> None:
    log.write("one", reason="x" * (MAX_REASON + 10))
    log.write("two", reason="a file \udcff")
    first, second = log.entries()
    assert first["reason"] == "x" * MAX_REASON
    assert second["reason"] == "a file \\udcff"


# -- durable before it counts ----------------------------------------------------------------------


def test_an_entry_is_on_disk_before_the_decision(log: AuditLog, folder: Path) -> None:
    synced: dict[str, int] = {}
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced[path.name.split(".")[0] or path.name] = os.fstat(descriptor).st_size
        fsync(descriptor)

    log.write("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", noted)
        log.write("ask")
    assert synced == {"log": (folder / "log.jsonl").stat().st_size}


@pytest.mark.parametrize("action", ["ask", "released"])
def test_a_full_disk_is_an_error_and_nothing_is_lost(log: AuditLog, action: str) -> None:
    log.write("one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused("storage.full", lambda: log.write(action))
    log.write("two")
    assert actions(log)[0] == "one"
    assert actions(log)[-1] == "two"
    log.verify()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file")
    with pytest.raises(StorageError) as caught:
        AuditLog(tmp_path / "audit", ALPHA).write("one")
    assert caught.value.code == "storage.unwritable"


def test_threads_and_processes_append_to_one_log(folder: Path) -> None:
    log = AuditLog(folder, ALPHA)
    log.write("started")

    def write(name: str, own: AuditLog) -> None:
        for number in range(10):
            own.write("ask", run=name, number=number, text="x" * 5000)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=write, args=(name, AuditLog(folder))) for name in ("p", "q")]
    threads = [threading.Thread(target=write, args=(name, log)) for name in ("s", "t")]
    for one in (*children, *threads):
        one.start()
    for one in (*children, *threads):
        one.join()
    assert [child.exitcode for child in children] == [0, 0]
    found = log.entries()
    assert len(found) == 41
    for name in "pqst":
        assert [entry["facts"]["number"] for entry in found if entry["run"] == name] == list(range(10))
    assert log.write("end") == 42
    note = log.verify()
    assert note is not None
    assert note.checkpoint.size == 42


# -- checkpoints -----------------------------------------------------------------------------------


def newest(folder: Path) -> Any:
    return parse_note(json.loads((folder / "checkpoint.json").read_text())["note"])


def test_the_key_signs_after_everything_but_the_steps_of_a_run(log: AuditLog, folder: Path) -> None:
    sizes = []
    for action in ("started", "ask", "manifest", "released", "epsilon.spent", "end", "approval.signed"):
        log.write(action)
        sizes.append(newest(folder).checkpoint.size)
    assert sizes == [1, 1, 1, 4, 4, 6, 7]
    lines = (folder / "log.jsonl").read_bytes().splitlines()
    note = newest(folder)
    note.check("alpha", ALPHA.public)
    assert note.checkpoint.root == root_of([leaf_hash(line) for line in lines])
    assert {"released", "refused", "failed", "started", "end", "paused"} & INNER == set()


def test_a_checkpoint_is_made_where_one_is_asked_for(log: AuditLog) -> None:
    assert log.checkpoint().checkpoint.size == 0
    log.write("ask")
    assert log.checkpoint().checkpoint.size == 1
    assert log.checkpoint() == log.verify()


def test_without_the_key_nothing_is_signed_and_the_next_one_signs(folder: Path) -> None:
    AuditLog(folder, ALPHA).write("started")
    AuditLog(folder).write("paused", actor="person:ada")
    assert newest(folder).checkpoint.size == 1
    AuditLog(folder, ALPHA).write("resumed")
    assert newest(folder).checkpoint.size == 3


def test_a_log_that_began_without_the_key_is_taken_over_visibly(folder: Path) -> None:
    AuditLog(folder).write("approval.signed", actor="person:ada")
    AuditLog(folder).write("approval.signed", actor="person:bob")
    log = AuditLog(folder, ALPHA)
    log.write("started")
    assert actions(log) == ["approval.signed", "approval.signed", "adopted", "started"]
    assert log.entries()[2]["facts"] == {"entries": 2}
    assert log.entries()[2]["result"] == "noted"


# -- what a crash leaves ---------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [b'{"action":"rel', b"\x00" * 30, b"{}"])
@pytest.mark.parametrize("while_open", [True, False])
def test_a_torn_last_line_is_cut_off_and_logged(
    log: AuditLog, folder: Path, torn: bytes, *, while_open: bool
) -> None:
    log.write("released")
    with (folder / "log.jsonl").open("ab") as file:
        file.write(torn)
    again = log if while_open else AuditLog(folder, ALPHA)
    again.write("end")
    assert actions(again) == ["released", "recovered", "end"]
    assert again.entries()[1]["facts"]["bytes"] == len(torn)
    again.verify()


def test_a_whole_entry_that_was_not_signed_yet_is_kept(log: AuditLog, folder: Path) -> None:
    log.write("released")
    before = (folder / "checkpoint.json").read_bytes()
    log.write("end")
    (folder / "checkpoint.json").write_bytes(before)  # the crash came between the entry and its checkpoint
    again = AuditLog(folder, ALPHA)
    again.write("started")
    assert actions(again) == ["released", "end", "started"]
    again.verify()


# -- what nobody may do ----------------------------------------------------------------------------


def filled(log: AuditLog) -> AuditLog:
    for number in range(4):
        log.write("ask", number=number)
        log.write("released", number=number)
    return log


def edit(folder: Path) -> None:
    path = folder / "log.jsonl"
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"number":1', b'"number":7', 1))
    assert path.read_bytes() != text


def drop_a_line(folder: Path) -> None:
    path = folder / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))


def cut(folder: Path) -> None:
    path = folder / "log.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def swap(folder: Path) -> None:
    path = folder / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))


def remove(folder: Path) -> None:
    (folder / "log.jsonl").unlink()


def empty(folder: Path) -> None:
    (folder / "log.jsonl").write_bytes(b"")


def sign_anew(folder: Path) -> None:
    """Rewrite the whole log, checkpoint included, with another key."""
    shutil.rmtree(folder)
    filled(AuditLog(folder, Identity.generate("alpha")))


def remove_the_checkpoint(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()


def break_the_checkpoint(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("{")


def forge_the_tree(folder: Path) -> None:
    values = json.loads((folder / "checkpoint.json").read_text())
    values["peaks"] = ["0" * 64 for _ in values["peaks"]]
    (folder / "checkpoint.json").write_text(json.dumps(values))


CHANGES = [
    *(edit, drop_a_line, cut, swap, remove, empty, sign_anew),
    *(remove_the_checkpoint, break_the_checkpoint, forge_the_tree),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_log_that_was_changed_is_refused_in_full_verification(
    log: AuditLog, folder: Path, change: Callable[[Path], None]
) -> None:
    filled(log).verify()  # control
    change(folder)
    error = refused("storage.log_damaged", AuditLog(folder, ALPHA).verify)
    assert "plasmid audit restart" in error.hint


CHEAP = [change for change in CHANGES if change not in (edit, swap)]


@pytest.mark.parametrize("change", CHEAP)
def test_most_changes_are_seen_when_the_log_is_opened(
    log: AuditLog, folder: Path, change: Callable[[Path], None]
) -> None:
    """Opening reads what follows the newest checkpoint; an edit further up needs the full verification."""
    filled(log)
    change(folder)
    refused("storage.log_damaged", lambda: AuditLog(folder, ALPHA).write("ask"))
    refused("storage.log_damaged", lambda: AuditLog(folder, ALPHA).write("ask"))


@pytest.mark.parametrize("change", [cut, remove, empty, drop_a_line])
def test_a_log_that_shrinks_under_a_running_process_is_refused(
    log: AuditLog, folder: Path, change: Callable[[Path], None]
) -> None:
    filled(log)
    change(folder)
    refused("storage.log_damaged", lambda: log.write("ask"))
    refused("storage.log_damaged", lambda: log.write("ask"))


def test_an_entry_that_was_appended_by_nobody_is_refused(log: AuditLog, folder: Path) -> None:
    filled(log)
    last = (folder / "log.jsonl").read_bytes().splitlines(keepends=True)[-1]
    with (folder / "log.jsonl").open("ab") as file:
        file.write(last)
    refused("storage.log_damaged", lambda: log.write("ask"))
    refused("storage.log_damaged", log.entries)


def test_an_edit_in_place_under_a_running_process_shows_at_the_next_start(
    log: AuditLog, folder: Path
) -> None:
    """What the process signs is what it wrote, whatever the file says since."""
    filled(log)
    path = folder / "log.jsonl"
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(b'"number":1') + len(b'"number":'))
        file.write(b"7")
    log.write("released")
    refused("storage.log_damaged", AuditLog(folder, ALPHA).verify)


# -- going on without forgetting -------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_log_is_kept_and_a_new_one_names_it(
    log: AuditLog, folder: Path, change: Callable[[Path], None]
) -> None:
    filled(log)
    change(folder)
    again = AuditLog(folder, ALPHA)
    kept = again.restart(actor="owner", reason="the disk failed")
    assert kept is not None
    again.write("started")
    first = again.entries()[0]
    assert (first["action"], first["actor"], first["reason"]) == ("restarted", "owner", "the disk failed")
    assert first["facts"]["kept"] == kept.name
    note = again.verify()
    assert note is not None
    assert (note.checkpoint.generation, note.checkpoint.size) == (2, 2)
    if change is not remove:
        assert (kept / "log.jsonl").exists()
        assert first["object"] is not None
    refused("storage.log_damaged", lambda: log.write("ask"))  # a process that still had the old one open


def test_generations_rise(log: AuditLog) -> None:
    filled(log)
    for generation in (2, 3):
        log.restart(actor="owner", reason="again")
        assert log.checkpoint().checkpoint.generation == generation


@pytest.mark.parametrize("name", ["cosigned.json", "peers.json", "shown.note", "checkpoint.json"])
def test_a_file_that_cannot_be_read_is_damage_and_is_got_over(log: AuditLog, folder: Path, name: str) -> None:
    filled(log)
    (folder / name).write_text("{")
    refused("storage.log_damaged", AuditLog(folder, ALPHA).verify)
    again = AuditLog(folder, ALPHA)
    kept = again.restart(actor="owner", reason="a broken file")
    assert kept is not None
    assert (kept / name).read_text() == "{"
    again.verify()
    assert again.checkpoint().checkpoint.generation == 2


def test_a_restart_needs_the_key(folder: Path) -> None:
    for need in (lambda log: log.restart(actor="owner", reason="x"), lambda log: log.checkpoint()):
        with pytest.raises(ProtocolError, match="needs the site's own key"):
            need(AuditLog(folder))


# -- the clock -------------------------------------------------------------------------------------


def test_time_never_runs_backwards_in_the_log(log: AuditLog, clock: Hands) -> None:
    log.write("one")
    clock.turn(-59)
    log.write("two")
    assert [entry["time"] for entry in log.entries()] == ["2026-11-25T10:00:00Z"] * 2


def test_a_clock_that_was_set_back_lets_nothing_out_and_is_logged_once(log: AuditLog, clock: Hands) -> None:
    log.write("one")
    clock.turn(-61)
    for _ in range(3):
        with pytest.raises(SiteFailed, match="was set back") as caught:
            log.write("released")
        assert caught.value.code == "site.clock"
    assert actions(log) == ["one", "clock"]
    assert log.entries()[1] | {"facts": None} == log.entries()[0] | {
        "seq": 2,
        "action": "clock",
        "rule": "site.clock",
        "reason": "the clock says 2026-11-25T09:58:59Z",
        "result": "failed",
        "facts": None,
    }
    assert log.entries()[1]["facts"] == {"clock": "2026-11-25T09:58:59Z"}
    clock.turn(61)
    log.write("released")
    assert actions(log) == ["one", "clock", "released"]


def test_what_expires_is_judged_by_the_log_s_time(log: AuditLog, clock: Hands) -> None:
    assert log.log_time() == START
    log.write("one")
    clock.turn(-3600)
    assert log.log_time() == START
    clock.turn(7200)
    assert log.log_time() == START + timedelta(hours=1)


def test_a_clock_that_was_ahead_is_got_over_by_a_restart(log: AuditLog, clock: Hands) -> None:
    clock.turn(10**7)
    log.write("one")
    clock.turn(-(10**7))
    refused("site.clock", lambda: log.write("two"))
    log.restart(actor="owner", reason="the clock was ahead")
    log.write("two")
    assert actions(log) == ["restarted", "two"]


def test_what_was_found_damaged_takes_no_entry_until_it_is_sound(log: AuditLog, folder: Path) -> None:
    """Also where the edited entries are not signed yet: this process knows what it wrote."""
    log.write("started")
    for number in range(3):
        log.write("ask", number=number)
    sound = (folder / "log.jsonl").read_bytes()
    edit(folder)
    edited = (folder / "log.jsonl").read_bytes()
    assert AuditLog(folder, ALPHA).verify() is not None, "nobody has signed them: another process cannot know"
    for _ in range(2):
        refused("storage.log_damaged", log.verify)
        refused("storage.log_damaged", lambda: log.write("released"))
    assert (folder / "log.jsonl").read_bytes() == edited
    (folder / "log.jsonl").write_bytes(sound)
    log.verify()
    log.write("released")
    edit(folder)
    refused("storage.log_damaged", log.verify)
    log.restart(actor="owner", reason="a disk failed")
    log.write("released")
    log.verify()
