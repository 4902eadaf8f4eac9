"""The list of system calls: complete for both machines, without what names others."""

from __future__ import annotations

import errno
import struct

import pytest

from plasmid.isolation.allowed import OF_A_DRIVER, OF_A_NETWORK, READER, WORKER
from plasmid.isolation.filter import _ESCAPE, RULINGS, program, unguarded
from plasmid.isolation.syscalls import AUDIT_ARCH, NEWEST, NUMBERS

ALLOW, NOTIFY, KILL, ERRNO = 0x7FFF0000, 0x7FC00000, 0x80000000, 0x00050000
LOAD, EQUAL, GREATER, AND, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
ONLY_X86_64 = {
    "open", "creat", "stat", "lstat", "access", "readlink", "getdents", "dup2", "pipe", "rename", "mkdir",
    "rmdir", "unlink", "link", "symlink", "time", "alarm", "poll", "select", "epoll_create", "epoll_wait",
    "eventfd", "pause", "getpgrp", "arch_prctl",
}  # fmt: skip
machines = pytest.mark.parametrize("machine", NUMBERS)


def ruled(code: bytes, machine: str, number: int, *arguments: int) -> int:
    """Return what the program answers to one call, as the kernel would."""
    data = struct.pack("<iIQ6Q", number, AUDIT_ARCH[machine], 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("<HBBI", code))
    at = loaded = 0
    while True:
        operation, yes, no, value = steps[at]
        at += 1
        match operation:
            case 0x20:
                (loaded,) = struct.unpack_from("<I", data, value)
            case 0x06:
                return value
            case 0x15:
                at += yes if loaded == value else no
            case 0x25:
                at += yes if loaded > value else no
            case 0x45:
                at += yes if loaded & value else no


def worker(machine: str, *, driver: bool = False) -> bytes:
    return program(machine, names_others=True, memory_bytes=None, driver=driver)


@machines
def test_each_listed_call_has_a_number(machine: str) -> None:
    listed = WORKER | OF_A_DRIVER | OF_A_NETWORK | READER
    assert listed <= NUMBERS["x86_64"].keys()
    assert {name for name in listed if name not in NUMBERS["aarch64"]} == ONLY_X86_64
    assert set(RULINGS) <= NUMBERS["x86_64"].keys()
    numbers = NUMBERS[machine].values()
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) == NEWEST == 469


@machines
def test_every_call_has_one_answer(machine: str) -> None:
    code, absent = worker(machine), ERRNO | errno.ENOSYS
    assert len(code) // 8 < 4096
    for name, number in NUMBERS[machine].items():
        found = ruled(code, machine, number, *[0xFFFF] * 6)
        if name in RULINGS and name != "mmap":
            assert found in (NOTIFY, ALLOW), name
        elif name == "clone3":
            assert found == absent
        else:
            assert found == (ALLOW if name in WORKER else NOTIFY), name
    assert ruled(code, machine, NEWEST + 1) == absent
    assert ruled(code, machine, 0x40000000) == absent
    other = next(one for one in NUMBERS if one != machine)
    assert ruled(code, other, 0) == KILL


@machines
def test_no_call_that_reaches_others_is_on_a_list(machine: str) -> None:
    for code in (worker(machine), worker(machine, driver=True)):
        for name in _ESCAPE:
            if name in NUMBERS[machine]:
                assert ruled(code, machine, NUMBERS[machine][name], 1, 1, 1) == NOTIFY
    for name in ("connect", "bind", "listen", "accept4", "inotify_init1", "pidfd_open", "seccomp", "setuid"):
        assert ruled(worker(machine), machine, NUMBERS[machine][name]) == NOTIFY
    assert ruled(worker(machine), machine, NUMBERS[machine]["memfd_create"]) == NOTIFY
    assert ruled(worker(machine, driver=True), machine, NUMBERS[machine]["memfd_create"]) == ALLOW


@machines
@pytest.mark.parametrize("network", [False, True])
def test_a_process_without_a_guard_is_never_left_waiting(machine: str, network: bool) -> None:
    """Nobody would answer a notification."""
    numbers = NUMBERS[machine]
    code = unguarded(machine, process=77, network=network)
    assert NOTIFY not in {value for operation, _, _, value in struct.iter_unpack("<HBBI", code)
                          if operation == RETURN}  # fmt: skip
    denied = ERRNO | errno.EPERM
    assert ruled(code, machine, numbers["ptrace"]) == KILL
    assert ruled(code, machine, numbers["msgsnd"]) == KILL
    assert ruled(code, machine, numbers["execve"]) == ERRNO | errno.ENOSYS
    assert ruled(code, machine, numbers["clone"], 0x00010000) == ALLOW
    assert ruled(code, machine, numbers["clone"], 17) == denied
    assert ruled(code, machine, numbers["tgkill"], 77) == ALLOW
    assert ruled(code, machine, numbers["tgkill"], 78) == denied
    assert ruled(code, machine, numbers["connect"]) == (ALLOW if network else ERRNO | errno.ENOSYS)
    for family, allowed in ((1, network), (2, network), (10, network), (16, False), (40, False)):
        assert ruled(code, machine, numbers["socket"], family) == (ALLOW if allowed else denied)
