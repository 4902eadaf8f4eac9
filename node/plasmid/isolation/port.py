"""The ``Isolation`` port: what a worker needs from the host, and everything else denied.

Rules
-----
1. Levels are ordered, strongest first. A worker never runs at a lower level than was said: ``best`` is
   chosen by trying, once, when the site starts; after that a level that fails is an error.
2. Inside there are: the interpreter and its libraries and one base model, to read; one private folder, to
   write, which goes with the run; the channel to the gateway; the devices that the owner lends. No network,
   no other file, no other process.
3. What the site's folder holds is never among what may be read: a layout in which it would be is refused.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from plasmid.core.errors import SiteFailed
from plasmid.isolation.levels import Device, Limits
from plasmid.secagg.statements import IsolationLevel

OPEN_FILES = 1024
SHARED_MEMORY_BYTES = 64 * 2**20
"""Of ``/dev/shm``, where there is one."""

_SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache",
           "/usr/share/zoneinfo", "/sys/devices/system/cpu", "/sys/devices/system/node")  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """One worker to start.

    Attributes
    ----------
    command
        The program, by its absolute path, and its arguments.
    read
        Files and folders that it may read, besides those of :func:`interpreter`.
    environment
        All of its environment.
    scratch
        An empty folder of its own on this host; a level may put another in its place.
    """

    command: tuple[str, ...]
    read: tuple[Path, ...]
    environment: Mapping[str, str]
    scratch: Path
    limits: Limits = field(default_factory=Limits)
    devices: tuple[Device, ...] = ()

    def readable(self) -> list[Path]:
        """Return every file and folder that it may read, parents alone, each as it is spelt and resolved."""
        given = [*interpreter(), *self.read]
        if "nvidia" in self.devices:
            given.append(Path("/sys"))
        spelt = {path.absolute() for path in given} | {path.resolve() for path in given}
        found = sorted(path for path in spelt if path.exists())
        return [
            path for path in found if not any(path != above and path.is_relative_to(above) for above in found)
        ]

    def device_files(self) -> list[Path]:
        """Return the device files to pass through."""
        return sorted(Path("/dev").glob("nvidia*")) if "nvidia" in self.devices else []


@dataclass(frozen=True)
class Prepared:
    """How to start it.

    Attributes
    ----------
    argv, environment
        Of the process to start; its standard input is the channel.
    orders
        What ``enter.py`` is told before it becomes the worker; None where the level does without it.
    scratch
        The folder on this host whose size the guard watches; None where something else limits it.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    orders: Mapping[str, Any] | None = None
    scratch: Path | None = None


class Isolation(Protocol):
    """One way to lock a worker in."""

    @property
    def level(self) -> IsolationLevel:
        """Its level."""

    def unavailable(self) -> str | None:
        """Return why it cannot be had here, or None; found out by starting something in it."""

    def wrap(self, spec: Spec) -> Prepared:
        """Return how to start *spec* in it."""


def asked_at_once(limits: Limits, devices: Sequence[Device]) -> int | None:
    """Return the most private memory that may be asked for at once; None for any, as in the limits below."""
    return None if devices else limits.memory_bytes


def limits_of_a_process(limits: Limits, devices: Sequence[Device]) -> dict[str, int]:
    """Return the limits that the kernel keeps for each process by itself, by the names of ``resource``.

    Private memory that can be written counts, used or not (RLIMIT_DATA); a GPU's driver reserves far more of
    it than it uses, so that there the guard alone watches memory.
    """
    found = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_FSIZE": limits.scratch_bytes,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_MSGQUEUE": 0,
    }
    if not devices:
        found["RLIMIT_DATA"] = limits.memory_bytes
    return found


def inside(environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Return *environment* with every place that a library may write to in *scratch*."""
    return {
        **environment,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "USER": "plasmid",
        "LOGNAME": "plasmid",
    }


def door() -> list[str]:
    """Return the command that takes orders from the guard and becomes the worker; see ``enter.py``."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("enter.py"))]


@functools.cache
def interpreter() -> tuple[Path, ...]:
    """Return what this interpreter needs to start and to import: its own folders, and the system's libraries.

    Asked of a child without this process's working folder, which would be on its path otherwise.
    """
    code = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.executable, *sys.path]))"
    answer = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_absolute("PYTHONPATH"))},
        timeout=60,
    )
    return libraries_of(json.loads(answer.stdout))


def libraries_of(own: Sequence[str]) -> tuple[Path, ...]:
    """Return an interpreter's *own* folders and files and the system's libraries, those that are there."""
    named = [*own, *_absolute("LD_LIBRARY_PATH"), *_SYSTEM]
    return tuple(path for path in map(Path, filter(None, named)) if path.exists() and path != Path("/"))


def _absolute(variable: str) -> list[str]:
    """Return the entries of a variable that mean the same everywhere: "." would be the host's root."""
    return [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry.startswith("/")]


def check_apart(spec: Spec, site: Path) -> None:
    """Refuse a layout in which the worker could read the site's own folder.

    Raises
    ------
    SiteFailed
        ``site.isolation``.
    """
    private = site.resolve()
    for path in spec.readable():
        if private.is_relative_to(path) or (path.is_relative_to(private) and path not in spec.read):
            raise SiteFailed(
                "site.isolation",
                f"the site's folder {private} and {path}, which its worker must read, lie in one another.",
                "Move the site's folder elsewhere.",
            )
