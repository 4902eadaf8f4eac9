"""A container: rootless Podman with the host's interpreter in an otherwise empty, read-only file system.

Rules
-----
1. No image is needed or fetched: the root is an empty folder, and what is in it are the mounts of the
   worker's ``Spec``, each read-only, and one size-limited folder in memory to write.
2. No network, no capability, no new privileges, Podman's own filter of system calls, namespaces of its own
   for users, processes, IPC and host name. The door's filter and the guard come on top.
3. Rootless alone: as root the container's root would be the host's.
4. Channel and guard are passed as descriptors 3 and 4, for Podman replaces the standard ones by pipes.
   Process 1 is the door, which ends everything when the guard has gone: the container's processes are not
   below this one.

podman-run(1). For a cluster's own form of it see :mod:`plasmid.training.isolation.pod`.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from plasmid.privacy.statements import IsolationLevel
from plasmid.training.isolation.filter import program
from plasmid.training.isolation.port import (
    OPEN_FILES,
    SHARED_MEMORY_BYTES,
    Prepared,
    Spec,
    asked_at_once,
    door,
    inside,
    limits_of_a_process,
)
from plasmid.training.isolation.syscalls import NUMBERS, SECCOMP, machine
from plasmid.training.isolation.trial import try_it

SCRATCH = Path("/scratch")
_PASSING = 'exec "$@" 3<&0 4<&1 </dev/null >/dev/null'
_THREADS = 1024
"""Podman's limit counts threads; the guard's own counts processes."""


class Container:
    """See the module."""

    level: IsolationLevel = "container"

    def unavailable(self) -> str | None:
        """See :class:`~plasmid.training.isolation.port.Isolation`."""
        if machine() not in NUMBERS:
            return f"its filter does not know the machine {machine()}"
        if shutil.which("podman") is None:
            return "the program podman is not installed"
        if os.geteuid() == 0:
            return "only rootless Podman is used, and this is root"
        return try_it(self)

    def wrap(self, spec: Spec) -> Prepared:
        """See :class:`~plasmid.training.isolation.port.Isolation`."""
        program_path = shutil.which("podman") or "podman"
        command = podman(spec, limited=Path("/sys/fs/cgroup/cgroup.controllers").exists())
        argv = ("/bin/sh", "-c", _PASSING, "sh", program_path, *command)
        orders = {
            "parent": None,
            "first": True,
            "limits": limits_of_a_process(spec.limits, spec.devices),
            "landlock": None,
            "seccomp": SECCOMP[machine()],
            "filter": program(
                machine(), names_others=False, memory_bytes=asked_at_once(spec.limits, spec.devices)
            ).hex(),
            "command": list(spec.command),
        }
        return Prepared(argv, _of_podman(os.environ), orders, detached=True)


def podman(spec: Spec, *, limited: bool) -> tuple[str, ...]:
    """Return the arguments of ``podman``.

    Parameters
    ----------
    spec
        Its ``scratch`` becomes the container's root, which stays empty.
    limited
        Whether the host has cgroups of version 2, without which rootless Podman can limit nothing and the
        guard alone does.
    """
    memory = str(spec.limits.memory_bytes)
    limits = ["--memory", memory, "--memory-swap", memory, "--pids-limit", str(_THREADS)]
    environment = inside(spec.environment, SCRATCH)
    return (
        "run", "--rm", "--interactive=false", "--pull=never", "--log-driver=none", "--preserve-fds=2",
        "--name", f"plasmid-{secrets.token_hex(8)}",
        "--network=none", "--no-hosts", "--http-proxy=false", "--hostname=worker",
        "--read-only", "--read-only-tmpfs=false",
        "--cap-drop=all", "--security-opt=no-new-privileges", "--security-opt=label=disable",
        "--ipc=private", "--pid=private", "--uts=private",
        f"--shm-size={SHARED_MEMORY_BYTES}",
        f"--tmpfs={SCRATCH}:rw,nosuid,nodev,noexec,mode=0700,size={spec.limits.scratch_bytes}",
        f"--workdir={SCRATCH}",
        "--ulimit=core=0:0", f"--ulimit=nofile={OPEN_FILES}:{OPEN_FILES}",
        *(limits if limited else ["--cgroups=disabled"]),
        *(f"--mount={_bind(path)}" for path in spec.readable()),
        *(f"--device={path}" for path in spec.device_files()),
        "--unsetenv-all",
        *(f"--env={name}={value}" for name, value in environment.items()),
        "--rootfs", str(spec.scratch),
        *door(), "3", "4",
    )  # fmt: skip


def _bind(path: Path) -> str:
    """Return one mount, as a line of CSV."""
    fields = ("type=bind", f"source={path}", f"destination={path}", "ro=true")
    return ",".join(
        '"' + field.replace('"', '""') + '"' if set(field) & set('",') else field for field in fields
    )


def _of_podman(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what Podman itself needs of *environment*; the worker gets none of it."""
    needed = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME",
              "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "DBUS_SESSION_BUS_ADDRESS")  # fmt: skip
    return {name: environment[name] for name in needed if name in environment}
