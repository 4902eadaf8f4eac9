"""A locked process keeps its memory, its descriptors, the time and its end. Everything else fails."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from plasmid.isolation import lockdown

ATTEMPTS = {
    "read a file": "open('/etc/hostname').read()",
    "write a file": "open('written', 'w').close()",
    "see a name": "os.stat('/etc')",
    "read its own past": "open('/proc/self/environ').read()",
    "make a folder": "os.mkdir('made')",
    "TCP": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "an abstract socket": "socket.socket(socket.AF_UNIX).bind(chr(0) + 'plasmid-lockdown')",
    "a pair of sockets": "socket.socketpair()",
    "a process": "os.waitpid(os.fork() or os._exit(0), 0)",
    "a thread": "_thread.start_new_thread(id, (1,))",
    "a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "a signal": "os.kill(os.getppid(), 0)",
    "its priority": "os.nice(1)",
    "its limits": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "shared memory": "called('shmget', 0, 4096, 0o1600)",
    "a message queue": "called('msgget', 0, 0o1600)",
    "memory of another": "called('process_vm_readv', os.getppid(), None, 0, None, 0, 0)",
    "a pipe": "os.pipe()",
}
"""Each ends without an error where nothing is locked."""

_PRELUDE = """
import _thread, ctypes, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def called(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
"""


def succeeds(attempt: str, *, locked: bool) -> bool:
    """Return whether a child process, locked or not, carries out *attempt*."""
    namespace: dict[str, object] = {}
    exec(dedent(_PRELUDE), namespace)
    code = compile(attempt, "<attempt>", "exec")
    child = os.fork()
    if child == 0:
        status = 2
        try:
            if locked:
                lockdown.lock()
            status = 1
            exec(code, namespace)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1), status
    return status == 0


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_a_locked_process_cannot_do(
    attempt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert succeeds(ATTEMPTS[attempt], locked=False), "the attempt is none"
    assert not succeeds(ATTEMPTS[attempt], locked=True)


@pytest.mark.parametrize(
    "attempt",
    ["bytearray(2**26)", "__import__('time').time()", "os.urandom(8)", "os.getpid()", "sum(range(999))"],
)
def test_what_it_still_can(attempt: str) -> None:
    assert succeeds(attempt, locked=True)


def test_it_cannot_unlock_itself() -> None:
    assert succeeds("called('prctl', 38, 1, 0, 0, 0)", locked=False)
    assert not succeeds("called('prctl', 38, 1, 0, 0, 0)", locked=True)


def test_both_tables_have_a_number_for_every_call() -> None:
    for _, numbers in lockdown._NUMBERS.values():
        assert len(numbers) == len(set(numbers)) == len(lockdown._ALLOWED)


def test_a_call_of_another_machine_ends_the_process() -> None:
    """The filter's first rule; the numbers after it mean other calls there."""
    code = lockdown._program(0xC00000B7, (1,))
    assert len(code) == 8 * 7
    assert code[16:24] == b"\x06\0\0\0\0\0\0\x80"  # return, kill the process


def test_a_host_without_a_lock_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lockdown.lacking() is None
    changes: list[Callable[[pytest.MonkeyPatch], None]] = [
        lambda patch: patch.setattr(platform, "machine", lambda: "riscv64"),
        lambda patch: patch.setattr(sys, "platform", "darwin"),
        lambda patch: patch.setattr(lockdown, "_has_seccomp", lambda: False),
    ]
    for change in changes:
        with monkeypatch.context() as patch:
            change(patch)
            assert lockdown.lacking() is not None
