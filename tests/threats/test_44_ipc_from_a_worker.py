"""Row 44. Attack: a worker hands rows to another local user by what processes share without a file.

System V queues, semaphores and memory are reached by a number, POSIX queues by a name, and a folder can be
watched without being opened: Landlock judges none of them. Must hold: another local user receives nothing,
and the site's log says what was tried. Without a sandbox each attempt gets through.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from plasmid.isolation.filter import _ESCAPE, RULINGS, Ruling
from plasmid.isolation.port import Isolation
from plasmid.isolation.syscalls import NUMBERS
from support.servers.sandboxed import ALL, run

ROW = b"ROW-OF-A-PATIENT"
NOBODY = 65534
_CREATE, _REMOVE, _NO_WAIT = 0o1000, 0, 0o4000
_libc = ctypes.CDLL(None, use_errno=True)
_REAL_TIME = ctypes.CDLL("librt.so.1", use_errno=True)

SENDS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
class Message(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_long), ("text", ctypes.c_char * 64)]
message = Message(1, ROW)
done(libc.msgsnd(queue, ctypes.byref(message), ctypes.c_size_t(len(ROW)), 0) == 0)
"""
_CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def works(name, *arguments):
    return getattr(libc, name)(*arguments) >= 0
"""
ATTEMPTS = {
    "msgrcv": _CALLS
    + "room = ctypes.create_string_buffer(80)\n"
    + "done(works('msgrcv', queue, room, ctypes.c_size_t(64), ctypes.c_long(0), 0o4000))",
    "msgctl": _CALLS + "done(works('msgctl', queue, 0, None))",
    "msgget": _CALLS + "done(works('msgget', 0, 0o1600))",
    "semctl": _CALLS + "done(works('semctl', semaphore, 0, 0))",
    "semop": _CALLS
    + "import struct\n"
    + "done(works('semop', semaphore, struct.pack('Hhh', 0, 1, 0), ctypes.c_size_t(1)))",
    "semtimedop": _CALLS
    + "import struct\n"
    + "done(works('semtimedop', semaphore, struct.pack('Hhh', 0, 1, 0), ctypes.c_size_t(1), None))",
    "semget": _CALLS + "done(works('semget', 0, 1, 0o1600))",
    "shmget": _CALLS + "done(works('shmget', 0, ctypes.c_size_t(4096), 0o1600))",
    "shmat": _CALLS
    + "libc.shmat.restype = ctypes.c_ssize_t\n"
    + "done(libc.shmat(memory, None, 0o10000) > 0)",
    "shmctl": _CALLS + "done(works('shmctl', memory, 0, None))",
    "mq_open": "import ctypes\ndone(ctypes.CDLL('librt.so.1').mq_open(name.encode(), 2) >= 0)",
    "mq_unlink": "import ctypes\ndone(ctypes.CDLL('librt.so.1').mq_unlink(name.encode()) == 0)",
}
"""What ends the worker, by the call."""
WATCH = _CALLS + "done(works('inotify_add_watch', libc.inotify_init1(0), home.encode(), 0x100))"


@dataclass(frozen=True)
class Shared:
    """What an accomplice has made for everybody on this host."""

    queue: int
    semaphore: int
    memory: int
    name: str

    @property
    def received(self) -> bytes:
        """What another user, who may do nothing but this, finds in the queue."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(NOBODY, NOBODY, NOBODY)
                    os.setresuid(NOBODY, NOBODY, NOBODY)
                room = ctypes.create_string_buffer(8 + 64)
                size = _libc.msgrcv(self.queue, room, ctypes.c_size_t(64), ctypes.c_long(0), _NO_WAIT)
                os.write(writing, room.raw[8 : 8 + max(0, size)])
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as found:
            return found.read()


@pytest.fixture
def shared() -> Iterator[Shared]:
    name = f"/plasmid-{os.getpid()}-{time.monotonic_ns()}"
    queue = _libc.msgget(0, _CREATE | 0o666)
    semaphore = _libc.semget(0, 1, _CREATE | 0o666)
    memory = _libc.shmget(0, ctypes.c_size_t(4096), _CREATE | 0o666)
    posix = _REAL_TIME.mq_open(name.encode(), 0o102, 0o666, None)
    assert min(queue, semaphore, memory, posix) >= 0, "this host has no such thing"
    os.close(posix)
    yield Shared(queue, semaphore, memory, name)
    _libc.msgctl(queue, _REMOVE, None)
    _libc.semctl(semaphore, 0, _REMOVE)
    _libc.shmctl(memory, _REMOVE, None)
    _REAL_TIME.mq_unlink(name.encode())


levels = pytest.mark.parametrize("isolation", ALL, ids=lambda isolation: isolation.level)


@levels
def test_another_local_user_receives_nothing(tmp_path: Path, isolation: Isolation, shared: Shared) -> None:
    outcome = run(isolation, tmp_path, SENDS, given={"queue": shared.queue, "ROW": ROW})
    real = isolation.level != "none"
    assert (outcome.got_through, shared.received) == (not real, b"" if real else ROW)
    if real:
        assert outcome.reason == "it called msgsnd"
        assert outcome.notices == ["the worker was ended: it called msgsnd"]


@levels
@pytest.mark.parametrize("call", ATTEMPTS)
def test_no_queue_semaphore_or_memory_is_reached(
    tmp_path: Path, isolation: Isolation, shared: Shared, call: str
) -> None:
    if call == "msgrcv":
        message = ctypes.create_string_buffer(b"\1\0\0\0\0\0\0\0" + ROW)
        assert _libc.msgsnd(shared.queue, message, ctypes.c_size_t(len(ROW)), _NO_WAIT) == 0
    given = {key: getattr(shared, key) for key in ("queue", "semaphore", "memory", "name")}
    outcome = run(isolation, tmp_path, ATTEMPTS[call], given=given)
    assert outcome.got_through == (isolation.level == "none"), outcome
    if isolation.level != "none":
        asked = {call, "semtimedop"} if call == "semop" else {call}  # by which some C libraries do it
        assert outcome.reason in {f"it called {name}" for name in asked}


@levels
def test_the_site_s_folder_cannot_be_watched(tmp_path: Path, isolation: Isolation) -> None:
    """It would tell when an approval or a charge happens; that it has tried is in the log, and it goes on."""
    home = tmp_path / "home"
    home.mkdir()
    outcome = run(isolation, tmp_path, WATCH, given={"home": str(home)})
    assert outcome.got_through == (isolation.level == "none")
    if isolation.level != "none":
        assert (outcome.status, outcome.reason) == (0, None)
        assert "inotify_init1 was refused" in outcome.notices


def test_both_machines_have_a_number_for_each_such_call() -> None:
    shared = {name for name in NUMBERS["x86_64"] if name.startswith(("msg", "sem", "shm", "mq_"))}
    assert len(shared) == 18
    assert shared <= {*_ESCAPE}
    for numbers in NUMBERS.values():
        assert shared <= numbers.keys()
    assert {RULINGS[name] for name in shared} == {Ruling.END}
