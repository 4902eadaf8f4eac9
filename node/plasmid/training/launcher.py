"""How a gateway gets a worker: the ``Launcher`` port, and the one launcher there is now.

A launcher starts ``python -m plasmid.training.worker`` wherever the compute is, with one end of a
channel as its standard input. Containers, Slurm and Kubernetes are further launchers; nothing else
knows where the worker runs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from plasmid.training.channel import Channel

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PLASMID_HOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
              "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")  # fmt: skip


@dataclass
class Worker:
    """A running worker: its channel, and how to end it."""

    channel: Channel
    process: subprocess.Popen[bytes]

    def end(self, *, grace_s: float = 2.0) -> None:
        """Close the channel, which ends the worker; kill it if it has not gone after *grace_s*."""
        self.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
            return
        self.process.kill()
        self.process.wait()


class Launcher(Protocol):
    """Starts workers."""

    def launch(self, log: Path) -> Worker:
        """Start a worker whose standard error goes to *log*, the site's own file."""


class LocalLauncher:
    """A child process on the gateway's host, with a small environment and no other inherited file."""

    def launch(self, log: Path) -> Worker:
        """See :class:`Launcher`."""
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        with theirs, log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "plasmid.training.worker"],
                stdin=theirs.fileno(),
                stdout=errors,
                stderr=errors,
                env=environment,
                close_fds=True,
            )
        return Worker(Channel(ours), process)
