"""Landlock: the kernel's own list of files, TCP ports and processes that a process has left; no namespaces.

Rules
-----
1. What is not on the list cannot be opened, made, removed or executed; no privilege is needed to give it up.
2. Landlock says nothing of UDP, of Unix sockets with a path, of a file's mode, owner and attributes, nor,
   before ABI 6, of signals: the filter denies those, and the guard judges signals by process number.
3. ABI 3 (Linux 6.2) is the least: before it, files could be truncated. Newer rights are asked for as far as
   the kernel knows them.
4. What it leaves open is said in docs/gateway/sandbox.md: names, sizes and times of files can be seen (stat),
   and the worker shares the process table, so that a child of its own outlives a gateway that is killed.

landlock(7), https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from plasmid.isolation.filter import program
from plasmid.isolation.port import Prepared, Spec, asked_at_once, door, inside, limits_of_a_process
from plasmid.isolation.syscalls import NUMBERS, SECCOMP, machine
from plasmid.isolation.trial import try_it
from plasmid.secagg.statements import IsolationLevel

LEAST_ABI, NET_ABI = 3, 4
_CREATE_RULESET, _VERSION = 444, 1

_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FOLDER, _REMOVE_FILE, _MAKE_FOLDER, _MAKE_FILE = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_MAKE_LINK, _MOVE, _TRUNCATE, _DEVICE = 1 << 12, 1 << 13, 1 << 14, 1 << 15
_OF_A_FILE = _EXECUTE | _WRITE | _READ | _TRUNCATE | _DEVICE
_SCRATCH = (_READ | _WRITE | _LIST | _REMOVE_FOLDER | _REMOVE_FILE | _MAKE_FOLDER | _MAKE_FILE | _MAKE_LINK
            | _MOVE | _TRUNCATE)  # fmt: skip
_OWN_PROCESS = (
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "limits",
    "maps",
    "smaps",
    "stat",
    "statm",
    "status",
    "fd",
)
"""Of ``/proc/self``; not all of it, for it also shows the host's connections (``net``) and mounts."""
_OF_THE_HOST = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/loadavg",
                "/proc/sys/vm/overcommit_memory", "/dev/zero", "/dev/random", "/dev/urandom")  # fmt: skip
_OF_A_DRIVER = ("/proc/driver", "/proc/devices", "/proc/modules")


def abi() -> int:
    """Return the version of Landlock that this kernel has; 0 without it."""
    call = ctypes.CDLL(None).syscall
    return max(
        0, int(call(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION)))
    )


class Landlock:
    """See the module."""

    level: IsolationLevel = "landlock"

    def unavailable(self) -> str | None:
        """See :class:`~plasmid.isolation.port.Isolation`."""
        if machine() not in NUMBERS:
            return f"its filter does not know the machine {machine()}"
        found = abi()
        if found < LEAST_ABI:
            return f"the kernel has Landlock ABI {found}, and {LEAST_ABI} (Linux 6.2) is the least"
        return try_it(self)

    def wrap(self, spec: Spec) -> Prepared:
        """See :class:`~plasmid.isolation.port.Isolation`."""
        libraries = spec.readable()
        drivers = [path for path in map(Path, _OF_A_DRIVER) if spec.devices and path.exists()]
        orders = {
            "parent": os.getpid(),
            "first": False,
            "limits": limits_of_a_process(spec.limits, spec.devices),
            "landlock": ruleset(
                [*libraries, *of_the_host(), *drivers],
                [spec.scratch, Path("/dev/null"), *spec.device_files()],
                programs=libraries,
                devices=spec.device_files(),
            ),
            "seccomp": SECCOMP[machine()],
            "filter": program(
                machine(),
                names_others=True,
                memory_bytes=asked_at_once(spec.limits, spec.devices),
                driver=bool(spec.devices),
            ).hex(),
            "command": list(spec.command),
        }
        environment = inside(spec.environment, spec.scratch)
        return Prepared(tuple(door()), environment, orders, scratch=spec.scratch)


def ruleset(
    read: Iterable[Path],
    write: Iterable[Path],
    *,
    programs: Collection[Path] = (),
    devices: Collection[Path] = (),
    ports: Iterable[int] = (),
) -> dict[str, Any]:
    """Return what ``enter.py`` makes a ruleset of: nothing but this can be opened, or connected to by TCP.

    Parameters
    ----------
    programs
        Of *read*, where programs may be started from.
    devices
        Of *write*, which are devices.
    ports
        Where TCP connections may go, to any host: the kernel does not judge addresses. ABI 4 and later.
    """
    version = abi()
    reading = [_rule(path, _READ | _LIST | (_EXECUTE if path in programs else 0)) for path in read]
    writing = [
        _rule(path, (_SCRATCH | (_DEVICE if path in devices else 0)) & _files(version)) for path in write
    ]
    return {
        "attributes": _attributes(version).hex(),
        "paths": reading + writing,
        "ports": list(ports) if version >= NET_ABI else [],
    }


def of_the_host() -> list[Path]:
    """Return what a process may read of itself and of the machine, as far as it is there."""
    named = [f"/proc/self/{name}" for name in _OWN_PROCESS] + list(_OF_THE_HOST)
    return [path for path in map(Path, named) if path.exists()]


def _files(version: int) -> int:
    """Return every right on files that *version* knows."""
    return (1 << (16 if version >= 5 else 15)) - 1


def _attributes(version: int) -> bytes:
    """Return ``struct landlock_ruleset_attr``: files, TCP, and signals and abstract sockets outside."""
    fields = [_files(version)]
    if version >= NET_ABI:
        fields.append(0b11)
    if version >= 6:
        fields.append(0b11)
    return struct.pack(f"={len(fields)}Q", *fields)


def _rule(path: Path, access: int) -> tuple[str, int]:
    return str(path), access if path.is_dir() else access & _OF_A_FILE
