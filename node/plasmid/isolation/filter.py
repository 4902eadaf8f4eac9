"""The filter of system calls inside a sandbox: a classic BPF program, and what a stopped call means.

Rules
-----
1. A list of what is allowed (:mod:`plasmid.isolation.allowed`). What is not on it is not there
   (ENOSYS): libraries fall back to what was before it.
2. A call that is judged, or on no list, is stopped and shown to the guard in the gateway's process
   (``SECCOMP_RET_USER_NOTIF``), which refuses it, ends the worker, or lets it go on: so that an attempt is
   seen, and named, in the log.
3. Only numbers in registers are judged, never memory that a second thread could change meanwhile.
4. Another machine's calls end the process; calls newer than the table do not exist, nor does ``clone3``,
   whose flags lie in memory (libraries fall back to ``clone``).
5. A process without a guard (:mod:`plasmid.isolation.own_process`) is judged by the kernel alone: what
   would end a worker ends it, what would be refused is.

seccomp(2), seccomp_unotify(2), Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Sequence
from enum import Enum

from plasmid.isolation.allowed import OF_A_DRIVER, OF_A_NETWORK, READER, WORKER
from plasmid.isolation.syscalls import AUDIT_ARCH, NEWEST, NUMBERS


class Ruling(Enum):
    """What the guard does with a stopped call."""

    ABSENT = "is not there"
    REFUSE = "refused"
    END = "ends the worker"
    COUNT = "goes on while fewer processes are running than may be"
    OWN = "goes on if it is about a process of the sandbox"
    MEMORY = "refused, as memory that there is not"


_NETWORK = ("socket", "socketpair", "io_uring_setup", "io_uring_enter", "io_uring_register")
_ESCAPE = (
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise",
    "process_mrelease", "mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "open_tree",
    "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "keyctl",
    "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "init_module", "finit_module",
    "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "open_by_handle_at",
    "fanotify_init", "fanotify_mark", "iopl", "ioperm", "modify_ldt",
    # queues, semaphores and memory that other users' processes reach by a number or a name
    "msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semtimedop", "semctl", "shmget", "shmat",
    "shmctl", "shmdt", "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify",
    "mq_getsetattr",
)  # fmt: skip
_REFUSED = (
    # of files that it may read but not change, under Landlock: mode, owner, times and attributes
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "setxattr",
    "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
    "file_setattr", "utime", "utimes", "futimesat", "utimensat",
    # stopped for some arguments alone, see _CONDITIONS
    "prlimit64", "fcntl", "ioctl", "personality", "prctl", "getpgid", "getsid",
)  # fmt: skip
_PROCESSES = ("fork", "vfork", "clone")
_OF_A_PROCESS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "sched_setparam",
                 "sched_setscheduler", "sched_setaffinity", "sched_setattr", "migrate_pages",
                 "move_pages")  # fmt: skip
_OF_MANY = ("setpriority", "ioprio_set", "setsid", "setpgid")
"""By these it could reach processes outside, or leave the group by which the guard ends it."""

_MEMORY = "mmap"
"""Stopped for more private memory at once than there may be in all: the kernel would refuse it, unseen."""

RULINGS: dict[str, Ruling] = {
    **dict.fromkeys(_NETWORK + _REFUSED + _OF_MANY, Ruling.REFUSE),
    **dict.fromkeys(_ESCAPE, Ruling.END),
    **dict.fromkeys(_PROCESSES, Ruling.COUNT),
    **dict.fromkeys(_OF_A_PROCESS, Ruling.OWN),
    _MEMORY: Ruling.MEMORY,
}
_ABSENT = ("clone3",)

_THREAD, _NAMESPACES = 0x00010000, 0x7E020000
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_SETOWN, _SETSIG, _SETOWN_EX = 8, 10, 15
_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX = 0x8901, 0x8902, 0x5412, 0x541C

_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6."""

_PROT_WRITE, _MAP_ANONYMOUS, _MAP_PRIVATE = 2, 0x20, 2

_LOAD, _JEQ, _JGT, _JSET, _RET = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _NOTIFY, _KILL, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x80000000, 0x00050000
_Code = list[tuple[int, int, int, int]]


def _argument(index: int) -> tuple[int, int, int, int]:
    """Load the low half of an argument; the kernel itself reads only that of the ones that are judged."""
    return (_LOAD, 0, 0, 16 + 8 * index)


def _stopped_if(index: int, values: Sequence[int]) -> _Code:
    code = [_argument(index)]
    for value in values:
        code += [(_JEQ, 0, 1, value), (_RET, 0, 0, _NOTIFY)]
    return [*code, (_RET, 0, 0, _ALLOW)]


def _allowed_if(index: int, values: Sequence[int]) -> _Code:
    code = [_argument(index)]
    for value in values:
        code += [(_JEQ, 0, 1, value), (_RET, 0, 0, _ALLOW)]
    return [*code, (_RET, 0, 0, _NOTIFY)]


_CONDITIONS: dict[str, _Code] = {
    # a thread goes on; a new process, and anything in a new namespace, is for the guard
    "clone": [
        _argument(0),
        (_JSET, 0, 1, _NAMESPACES),
        (_RET, 0, 0, _NOTIFY),
        (_JSET, 0, 1, _THREAD),
        (_RET, 0, 0, _ALLOW),
        (_RET, 0, 0, _NOTIFY),
    ],
    "socketpair": _allowed_if(0, (1,)),  # AF_UNIX: two ends of one's own
    "prlimit64": _allowed_if(0, (0,)),  # its own limits
    "fcntl": _stopped_if(1, (_SETOWN, _SETSIG, _SETOWN_EX)),  # signals to others by way of a file
    "ioctl": _stopped_if(1, (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX)),
    "personality": _allowed_if(0, (0, 0xFFFFFFFF)),
    **dict.fromkeys(("getpgid", "getsid"), _allowed_if(0, (0,))),
    "prctl": _stopped_if(0, (_SET_PDEATHSIG, _SET_CHILD_SUBREAPER)),
}


def _more_memory_than(limit: int) -> _Code:
    """Stop a private, writable mapping of more than *limit* bytes that is no file's."""
    high, low = limit >> 32, limit & 0xFFFFFFFF
    goes_on, stopped = (_RET, 0, 0, _ALLOW), (_RET, 0, 0, _NOTIFY)
    code = []
    for index, flag in ((2, _PROT_WRITE), (3, _MAP_ANONYMOUS), (3, _MAP_PRIVATE)):
        code += [_argument(index), (_JSET, 1, 0, flag), goes_on]
    length_high, length_low = (_LOAD, 0, 0, 16 + 8 + 4), _argument(1)
    code += [length_high, (_JGT, 0, 1, high), stopped, (_JEQ, 1, 0, high), goes_on]
    return [*code, length_low, (_JGT, 0, 1, low), stopped, goes_on]


def program(machine: str, *, names_others: bool, memory_bytes: int | None, driver: bool = False) -> bytes:
    """Return the filter of a worker as an array of ``struct sock_filter``.

    Parameters
    ----------
    machine
        A key of :data:`~plasmid.isolation.syscalls.NUMBERS`.
    names_others
        Whether processes outside the sandbox have a number inside: not so in a PID namespace, where
        priorities and groups need no judge. Signals have one all the same, so that they are seen.
    memory_bytes
        The most private memory that may be asked for at once; None for any.
    driver
        Whether a GPU is lent.
    """
    blocks = {name: _CONDITIONS.get(name, [(_RET, 0, 0, _NOTIFY)]) for name in RULINGS}
    allowed = WORKER | OF_A_DRIVER if driver else WORKER
    if not names_others:
        blocks = {name: block for name, block in blocks.items() if name not in _OF_MANY}
        allowed = allowed.union(_OF_MANY)
    del blocks[_MEMORY]
    if memory_bytes is not None:
        blocks[_MEMORY] = _more_memory_than(memory_bytes)
    return _assembled(machine, blocks, allowed, _NOTIFY)


def unguarded(machine: str, *, process: int, network: bool) -> bytes:
    """Return the filter of a process of ours that opens an owner's data, and that no guard watches.

    Parameters
    ----------
    process
        Its own number: it may signal nobody else.
    network
        Whether it may make connections; to where is not for the filter to say.
    """
    blocks = {name: [(_RET, 0, 0, _KILL)] for name in _ESCAPE}
    for name in _REFUSED:
        blocks[name] = _CONDITIONS.get(name, [(_RET, 0, 0, _NOTIFY)])
    blocks["clone"] = _CONDITIONS["clone"]
    blocks["socketpair"] = _CONDITIONS["socketpair"]
    blocks |= dict.fromkeys(("kill", "tgkill"), _allowed_if(0, (process,)))
    blocks["socket"] = _allowed_if(0, _FAMILIES if network else ())
    refused = {
        name: [(code, t, f, _ERRNO | errno.EPERM if (code, value) == (_RET, _NOTIFY) else value)
               for code, t, f, value in block]
        for name, block in blocks.items()
    }  # fmt: skip
    return _assembled(machine, refused, READER | OF_A_NETWORK if network else READER, _ERRNO | errno.ENOSYS)


def _assembled(machine: str, blocks: dict[str, _Code], allowed: Collection[str], otherwise: int) -> bytes:
    """Return a program: *blocks* judge calls by name, *allowed* ones go on, of others comes *otherwise*."""
    numbers = NUMBERS[machine]
    judged = {name: [(_RET, 0, 0, _ERRNO | errno.ENOSYS)] for name in _ABSENT} | blocks
    judged |= {name: [(_RET, 0, 0, _ALLOW)] for name in sorted(set(allowed) - set(judged))}
    code: _Code = [
        (_LOAD, 0, 0, 4),
        (_JEQ, 1, 0, AUDIT_ARCH[machine]),
        (_RET, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_JGT, 0, 1, NEWEST),
        (_RET, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for name, block in judged.items():
        if name in numbers:
            code += [(_JEQ, 0, len(block), numbers[name]), *block]
    code.append((_RET, 0, 0, otherwise))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def name_of(machine: str, number: int) -> str:
    """Return the name of a call."""
    names = {known: name for name, known in NUMBERS[machine].items()}
    return names.get(number, str(number))
