"""Bubblewrap: namespaces of its own for files, processes, network, users, IPC and host name.

Rules
-----
1. The worker's file system is empty but for what is mounted: everything read-only, one size-limited folder in
   memory to write.
2. It has no network device but its own loopback, and no number for any process outside.
3. It has no capability, in a user namespace in which it cannot get one.
4. The filter, the limits and the guard come on top: what namespaces leave open is denied there.
5. Process 1 is the door, not bwrap's own: that could be written to from inside, and has no filter.

bwrap(1). Needs unprivileged user namespaces, or root.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from plasmid.isolation.filter import program
from plasmid.isolation.port import (
    SHARED_MEMORY_BYTES,
    Prepared,
    Spec,
    asked_at_once,
    door,
    inside,
    limits_of_a_process,
)
from plasmid.isolation.syscalls import NUMBERS, SECCOMP, machine
from plasmid.isolation.trial import try_it
from plasmid.secagg.statements import IsolationLevel

SCRATCH = Path("/scratch")


class Bubblewrap:
    """See the module."""

    level: IsolationLevel = "bubblewrap"

    def unavailable(self) -> str | None:
        """See :class:`~plasmid.isolation.port.Isolation`."""
        if machine() not in NUMBERS:
            return f"its filter does not know the machine {machine()}"
        if shutil.which("bwrap") is None:
            return "the program bwrap is not installed (package bubblewrap)"
        return try_it(self)

    def wrap(self, spec: Spec) -> Prepared:
        """See :class:`~plasmid.isolation.port.Isolation`."""
        program_path = shutil.which("bwrap") or "bwrap"
        environment = inside(spec.environment, SCRATCH)
        mounts: list[str] = []
        for path in spec.readable():
            mounts += ["--ro-bind", str(path), str(path)]
        devices: list[str] = []
        for path in spec.device_files():
            devices += ["--dev-bind", str(path), str(path)]
        argv = [
            program_path,
            "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
            "--unshare-cgroup-try", "--hostname", "worker",
            "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL",
            *mounts,
            "--proc", "/proc",
            "--dev", "/dev", *devices,
            "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm",  # noqa: S108 - the sandbox's own
            "--remount-ro", "/dev",
            "--size", str(spec.limits.scratch_bytes), "--tmpfs", str(SCRATCH),
            "--remount-ro", "/",
            "--chdir", str(SCRATCH),
            *door(),
        ]  # fmt: skip
        orders = {
            "parent": None,
            "first": True,
            "limits": limits_of_a_process(spec.limits, spec.devices),
            "landlock": None,
            "seccomp": SECCOMP[machine()],
            "filter": program(
                machine(),
                names_others=False,
                memory_bytes=asked_at_once(spec.limits, spec.devices),
                driver=bool(spec.devices),
            ).hex(),
            "command": list(spec.command),
        }
        return Prepared(tuple(argv), environment, orders)
