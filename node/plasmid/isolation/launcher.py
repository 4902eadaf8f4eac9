"""How a gateway gets a worker: the ``Launcher`` port, and the one launcher there is now.

A launcher starts ``python -m plasmid.worker.worker`` wherever the compute is, with one end of a
channel as its standard input. Slurm and Kubernetes are further launchers; nothing else knows where the
worker runs. How it is locked in there is the :class:`~plasmid.isolation.Isolation`'s.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from plasmid.core.errors import SiteFailed
from plasmid.core.files import home as state_folder
from plasmid.core.files import storage_error
from plasmid.isolation.port import Device, Isolation, Limits, Spec, check_apart
from plasmid.isolation.supervisor import Guard, Notice
from plasmid.isolation.tree import remove
from plasmid.protocol.channel import Channel
from plasmid.secagg.statements import IsolationLevel

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
              "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")  # fmt: skip
DIES_S = 5.0
"""How long a worker whose channel has closed may take to be gone."""


@dataclass
class Worker:
    """A running worker: its channel, and how to end it. Without a guard it is not locked in."""

    channel: Channel
    process: subprocess.Popen[bytes]
    guard: Guard | None = None

    def end(self, *, grace_s: float = 2.0) -> None:
        """Close the channel, which ends the worker; kill it if it has not gone after *grace_s*."""
        self.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        if self.guard is not None:
            self.guard.end()
            self.guard.join()
        elif self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def why(self) -> SiteFailed:
        """Return why a worker has gone whose channel has closed."""
        if self.guard is not None:
            self.guard.join(DIES_S)
            if self.guard.reason is not None:
                return SiteFailed(
                    "site.sandbox",
                    f"the worker was ended: {self.guard.reason}.",
                    "See the site's log; 'limits' in site.yaml says how much it may use.",
                )
        return SiteFailed(
            "site.worker_died", "The worker ended unexpectedly.", "See worker.log in the site's folder."
        )


class Launcher(Protocol):
    """Starts workers."""

    @property
    def level(self) -> IsolationLevel:
        """How they are locked in."""

    def launch(self, log: Path, *, read: Sequence[Path], notice: Notice) -> Worker:
        """Start a worker.

        Parameters
        ----------
        log
            The site's own file for what it writes to standard error; its folder is the site's.
        read
            What it may read beside the interpreter: the folder of one base model, or nothing.
        notice
            Called with each attempt that the sandbox refused, from another thread.

        Raises
        ------
        SiteFailed
            ``site.sandbox``, ``site.isolation``.
        """


class LocalLauncher:
    """A child process on the gateway's host, with a small environment and no other inherited file.

    Parameters
    ----------
    threads
        How many threads a worker computes on; None leaves it to this process's environment.
    """

    def __init__(
        self,
        isolation: Isolation,
        *,
        limits: Limits | None = None,
        devices: Sequence[Device] = (),
        threads: int | None = None,
    ) -> None:
        self._isolation, self._threads = isolation, threads
        self._limits = limits or Limits()
        self._devices = tuple(devices)

    @property
    def level(self) -> IsolationLevel:
        """See :class:`Launcher`."""
        return self._isolation.level

    def launch(self, log: Path, *, read: Sequence[Path], notice: Notice) -> Worker:
        """See :class:`Launcher`."""
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"USE_HUB_KERNELS": "NO"}
        environment |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        environment["PLASMID_HOME"] = str(state_folder())  # HOME is another one inside
        command = (sys.executable, "-P", "-m", "plasmid.worker.worker")
        if self.level == "none":
            ours, theirs = socket.socketpair()
            with theirs, log.open("ab") as errors:
                process = subprocess.Popen(  # noqa: S603 - our own command
                    command, stdin=theirs.fileno(), stdout=errors, stderr=errors, env=environment
                )
            return Worker(Channel(ours), process)
        scratch = log.parent / "scratch" / secrets.token_hex(8)
        spec = Spec(command, tuple(read), environment, scratch, self._limits, self._devices)
        check_apart(spec, log.parent)
        try:
            scratch.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise storage_error(error, scratch) from error
        ours, theirs = socket.socketpair()
        guard = Guard(self._isolation, spec, channel=theirs.detach(), log=log, notice=notice)
        try:
            process = guard.launch()
        except SiteFailed:
            ours.close()
            raise
        return Worker(Channel(ours), process, guard)


def sweep(site: Path) -> None:
    """Remove what workers of an earlier life of this site have left: nothing of it is anybody's now."""
    remove(site / "scratch")
