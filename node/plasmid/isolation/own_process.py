"""A process of ours that locks itself in, before it touches what may take it over: the reader.

Rules
-----
1. It has no guard and cannot be locked from outside, for it is to hold its files when it starts: it gives up
   capabilities, new privileges and core dumps, then takes Landlock rules and a filter of system calls.
2. Landlock and the filter hold for the thread that asks, and what it starts: another thread would stay free,
   so that there must be none. Libraries that start one (numpy's does) are imported afterwards.
3. What the host lacks is told, never passed over in silence.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from plasmid.isolation import enter
from plasmid.isolation.filter import unguarded
from plasmid.isolation.landlock import LEAST_ABI, NET_ABI, abi, of_the_host, ruleset
from plasmid.isolation.port import libraries_of
from plasmid.isolation.syscalls import NUMBERS, SECCOMP, machine

_READ_SEARCH = 1 << 2
"""CAP_DAC_READ_SEARCH: a site that runs as root reads files of other users, as far as Landlock lets it."""


def lock_in(*, read: Iterable[Path], write: Iterable[Path], ports: Sequence[int] | None) -> list[str]:
    """Lock this process in, for good; return what this host cannot deny it, a sentence each.

    Parameters
    ----------
    read
        Files and folders that it may read beside its own libraries.
    write
        Files and folders that it may write, too.
    ports
        Where it may connect to by TCP, at any host; None for no socket at all.

    Raises
    ------
    OSError
        The kernel refuses a part of it, or there is another thread.
    """
    if sys.platform != "linux" or machine() not in NUMBERS:
        return [f"the reader is not locked in: there is no lock for {sys.platform} on {machine()}."]
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - names alone
        raise OSError("another thread is running, which would stay free")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    enter.drop_capabilities(keep=_READ_SEARCH)
    enter.prctl(enter.NO_NEW_PRIVS, 1)
    version = abi()
    lacks = []
    if version >= LEAST_ABI:
        libraries = libraries_of([sys.prefix, sys.base_prefix, sys.executable, *sys.path])
        enter.landlock(
            ruleset([*libraries, *of_the_host(), *read], [*write, Path(os.devnull)], ports=ports or ())
        )
    else:
        lacks.append(f"the reader may open any file of its user: the kernel has Landlock ABI {version}.")
    if ports is not None and version < NET_ABI:
        lacks.append(f"the reader may connect to any port: the kernel has Landlock ABI {version}.")
    code = unguarded(machine(), process=os.getpid(), network=ports is not None)
    enter.install(SECCOMP[machine()], code, 0)
    return lacks
