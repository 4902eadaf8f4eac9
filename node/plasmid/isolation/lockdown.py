"""A process that gives up everything but its memory and the descriptors that it holds.

Rules
-----
1. seccomp with an allow-list (``man 2 seccomp``): reading, writing and closing what is open, its own memory,
   the time, random numbers, its own end. Anything else fails with EPERM: it opens no file, no socket, starts
   nothing, signals nobody, shares no memory.
2. It cannot be undone, also not by a program that the process would start (``no_new_privs``).
3. The list is one of numbers, which differ by machine. On one that is not listed here there is no lock, and
   what needs it is refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_ALLOWED = ("read", "write", "close", "mmap", "mprotect", "munmap", "mremap", "brk", "rt_sigreturn", "futex",
            "sched_yield", "getpid", "gettid", "clock_gettime", "clock_getres", "gettimeofday", "getrandom",
            "restart_syscall", "exit", "exit_group")  # fmt: skip

# From the kernel's arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h, in the order
# of _ALLOWED.
_NUMBERS = {
    "x86_64": (
        0xC000003E,
        (0, 1, 3, 9, 10, 11, 25, 12, 15, 202, 24, 39, 186, 228, 229, 96, 318, 219, 60, 231),
    ),
    "aarch64": (
        0xC00000B7,
        (63, 64, 57, 222, 226, 215, 216, 214, 139, 98, 124, 172, 178, 113, 114, 169, 278, 128, 93, 94),
    ),
}

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ZEROS = (ctypes.c_ulong(0), ctypes.c_ulong(0))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def lacking() -> str | None:
    """Return why this host cannot lock a process, None if it can."""
    if sys.platform != "linux" or platform.machine() not in _NUMBERS:
        return f"there is no lock for {sys.platform} on {platform.machine()}"
    if sys.maxsize <= 2**32:
        return "a Python of 32 bits cannot be locked"
    return None if _has_seccomp() else "the kernel has no seccomp filters"


def _has_seccomp() -> bool:
    # With a null program a kernel that has filters says EFAULT; nothing is installed.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), None, *_ZEROS)
    return ctypes.get_errno() == errno.EFAULT


def lock() -> None:
    """Lock this process, for good. Raises OSError where it cannot be; it is not locked then."""
    machine, numbers = _NUMBERS[platform.machine()]
    code = _program(machine, numbers)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, mode, argument in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program)),
    ):
        if libc.prctl(option, ctypes.c_ulong(mode), argument, *_ZEROS) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _program(machine: int, numbers: tuple[int, ...]) -> bytes:
    """Return the filter: the wrong machine is killed, a listed call goes on, any other one fails."""
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for place, number in enumerate(numbers):
        steps.append((_EQUAL, len(numbers) - place, 0, number))
    steps += [(_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
