"""What the sandbox costs a run: the time from the order to a program's first instruction, once per run.

Rules
-----
1. The program is this interpreter, which writes one byte to its channel; its own start is in every figure.
2. Every level that this host has, through guard and door, in turns with a bare child process.
3. CPU time is that of this process and of all that it started, to their end: what a busy host does not move.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.harness import Result
from plasmid.isolation.choice import every
from plasmid.isolation.levels import Limits
from plasmid.isolation.port import Isolation, Spec, interpreter
from plasmid.isolation.supervisor import Guard

LIMIT_MS = 150.0
_STARTS = 15
_PROGRAM = (sys.executable, "-I", "-S", "-c", "import os; os.write(0, b'1'); os.read(0, 1)")
_LIMITS = Limits(memory_mib=1024, cpu_s=60)


def sandbox_figures() -> list[Result]:
    """The start at every level that works here, wall time and CPU time, beside the limit."""
    interpreter()  # asked once in a site's life
    levels = [level for level in every() if level.level != "none" and level.unavailable() is None]
    wall: dict[str, list[float]] = {level.level: [] for level in every()}
    cpu: dict[str, list[float]] = {level.level: [] for level in every()}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_STARTS):
            for name, start in [
                ("none", _bare_ms),
                *(
                    (level.level, _starting(level, Path(folder) / f"{level.level}-{number}"))
                    for level in levels
                ),
            ]:
                before = _cpu_ms()
                wall[name].append(start())
                cpu[name].append(_cpu_ms() - before)
    found = []
    for level in levels:
        for what, taken in (("first instruction in", wall), ("CPU of it in", cpu)):
            p50, bare = statistics.median(taken[level.level]), statistics.median(taken["none"])
            label = f"{what} {level.level}, p50; bare {bare:.0f} ms"
            found.append(Result.share(label, ours=p50, peer=LIMIT_MS, unit="ms", goal=1.0))
    return found


def _cpu_ms() -> float:
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used) * 1e3


def _starting(isolation: Isolation, folder: Path) -> Callable[[], float]:
    return lambda: _locked_ms(isolation, folder)


def _bare_ms() -> float:
    ours, theirs = socket.socketpair()
    start = time.perf_counter()
    with theirs:
        process = subprocess.Popen(_PROGRAM, stdin=theirs.fileno(), env={})
    with ours:
        taken = _first_byte_ms(ours, start)
    process.wait()
    return taken


def _locked_ms(isolation: Isolation, folder: Path) -> float:
    folder.mkdir()
    scratch = folder / "scratch"
    scratch.mkdir()
    ours, theirs = socket.socketpair()
    spec = Spec(_PROGRAM, (), dict(os.environ), scratch, _LIMITS)
    start = time.perf_counter()
    with contextlib.closing(ours):
        guard = Guard(isolation, spec, channel=theirs.detach(), log=folder / "log", notice=lambda _: None)
        guard.launch()
        taken = _first_byte_ms(ours, start)
    guard.join()
    return taken


def _first_byte_ms(channel: socket.socket, start: float) -> float:
    channel.settimeout(30)
    if channel.recv(1) != b"1":
        raise RuntimeError("the program did not start")
    return (time.perf_counter() - start) * 1e3
