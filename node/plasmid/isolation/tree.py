"""What a process and its descendants use, read from ``/proc``: no privilege needed, nothing written.

proc(5). Processes that end while they are read count as nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_COUNTED = ("RssAnon:", "RssShmem:", "VmSwap:")
MAX_ENTRIES = 100_000
"""Files and folders in a scratch folder, at most."""


@dataclass(frozen=True)
class Usage:
    """What a group of processes uses. ``cpu_s`` includes children that have ended and were waited for."""

    memory_bytes: int = 0
    cpu_s: float = 0.0
    threads: int = 0


def descendants(root: int) -> list[int]:
    """Return *root* and the processes below it, parents first."""
    found = [root]
    for process in found:  # it grows while it is walked
        found += [child for child in _children(process) if child not in found]
    return found


def _children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task")
    found: list[int] = []
    try:
        for task in tasks.iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return found
    return found


def usage(processes: Iterable[int]) -> Usage:
    """Return what *processes* use together; memory that they share counts once for each."""
    memory, cpu_s, threads = 0, 0.0, 0
    for process in processes:
        try:
            status = Path(f"/proc/{process}/status").read_text()
            stat = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            name, _, value = line.partition("\t")
            if name in _COUNTED:
                memory += int(value.split()[0]) * 1024
            elif name == "Threads:":
                threads += int(value)
        # the name of the program, in brackets, may hold anything; user, system, and both of dead children
        cpu_s += sum(int(ticks) for ticks in stat.rpartition(")")[2].split()[11:15]) / _TICKS_PER_S
    return Usage(memory, cpu_s, threads)


def process_of(task: int) -> int | None:
    """Return the process that a thread belongs to, or None if there is no such thread."""
    try:
        status = Path(f"/proc/{task}/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:"))


def named_inside(processes: Iterable[int]) -> set[int]:
    """Return the numbers that *processes* and their threads have in a namespace below this process's own."""
    depth, found = len(_numbers(Path("/proc/self/status"))), set()
    for process in processes:
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                numbers = _numbers(task / "status")
                if len(numbers) > depth:
                    found.add(numbers[-1])
        except OSError:  # it has ended
            continue
    return found


def _numbers(status: Path) -> list[int]:
    """Return the numbers of a task, in this process's namespace first, in its own last."""
    lines = status.read_text().splitlines()
    return next([int(number) for number in line.split()[1:]] for line in lines if line.startswith("NSpid:"))


def parent_of(process: int) -> int | None:
    """Return the parent of *process*, or None if there is no such process."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))


def folder_bytes(folder: Path) -> int | None:
    """Return the bytes of disk under *folder*, links not followed; None for too many entries to count."""
    total, entries, waiting = 0, 0, [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    entries += 1
                    if entries > MAX_ENTRIES:
                        return None
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
        except OSError:  # it has gone, or nobody may read it
            continue
    return total
