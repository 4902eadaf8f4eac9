"""How a gateway gets a worker: the ``Launcher`` port, and the one launcher there is now.

Rules
-----
1. A helper, a process for each worker (:mod:`plasmid.isolation.launcher_child`), starts it, locks it in and
   watches it: none of that is code of the process that holds keys. The helper gets orders, the worker's end
   of its channel, and no key.
2. Helper and gateway share a control socket. When the gateway's end closes, however that comes about, the
   helper ends the worker; when the helper ends, the kernel ends the worker, which also reads end-of-file.
3. What starts, and how it is locked in, is the :class:`~plasmid.isolation.port.Isolation`'s. Slurm and
   Kubernetes are further launchers; nothing else knows where the worker runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any, Literal, Protocol

from plasmid.core.errors import SiteFailed, from_dict
from plasmid.core.files import home as state_folder
from plasmid.core.files import remove_tree, storage_error
from plasmid.isolation.levels import Device, Limits
from plasmid.protocol.channel import Channel
from plasmid.secagg.statements import IsolationLevel

Notice = Callable[[str], None]

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
             "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")  # fmt: skip
"""Variables of the gateway's environment that a worker gets."""
SET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "USE_HUB_KERNELS": "NO",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
DIES_S = 5.0
"""How long a worker whose channel has closed may take to be gone."""


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


class Worker:
    """A running worker: its channel, and how to end it.

    Attributes
    ----------
    process
        The helper; the worker and its children are below it.
    """

    def __init__(
        self,
        channel: Channel,
        process: subprocess.Popen[bytes],
        control: socket.socket,
        lines: BufferedReader,
        notice: Notice,
    ) -> None:
        self.channel, self.process = channel, process
        self._control, self._reason = control, ""
        self._listener = threading.Thread(target=self._listen, args=(lines, notice), daemon=True)
        self._listener.start()

    def end(self, *, grace_s: float = 2.0) -> None:
        """Close the channel, which ends the worker; kill it if it has not gone after *grace_s*."""
        self.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        with contextlib.suppress(OSError):  # the helper has ended
            self._control.shutdown(socket.SHUT_WR)
        try:
            self.process.wait(DIES_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()
        self._control.close()

    def why(self) -> SiteFailed:
        """Return why a worker has gone whose channel has closed."""
        self._listener.join(DIES_S)
        if self._reason:
            return SiteFailed(
                "site.sandbox",
                f"the worker was ended: {self._reason}.",
                "See the site's log; 'limits' in site.yaml says how much it may use.",
            )
        return SiteFailed(
            "site.worker_died", "The worker ended unexpectedly.", "See worker.log in the site's folder."
        )

    def _listen(self, lines: BufferedReader, notice: Notice) -> None:
        with lines:
            while told := _next(lines):
                if "notice" in told:
                    notice(str(told["notice"]))
                self._reason = str(told.get("ended") or "")
        self.channel.finish()  # of a helper that was killed, whose worker isn't locked in


class LocalLauncher:
    """A child process on the gateway's host, with a small environment and no other inherited file.

    Parameters
    ----------
    level
        One that can be had here, as :func:`available` found out.
    threads
        How many threads a worker computes on; None leaves it to this process's environment.
    """

    def __init__(
        self,
        level: IsolationLevel,
        *,
        limits: Limits | None = None,
        devices: Sequence[Device] = (),
        threads: int | None = None,
    ) -> None:
        self.level, self._threads = level, threads
        self._limits, self._devices = limits or Limits(), list(devices)

    def launch(self, log: Path, *, read: Sequence[Path], notice: Notice) -> Worker:
        """See :class:`Launcher`."""
        ours, theirs = socket.socketpair()
        orders = {
            "level": self.level,
            "log": str(log),
            "read": [str(path) for path in read],
            "limits": self._limits.model_dump(),
            "devices": self._devices,
            "channel": theirs.fileno(),
        }
        threads = {} if self._threads is None else {"OMP_NUM_THREADS": str(self._threads)}
        try:
            with theirs, _log(log) as errors:
                process, control, lines = _start(orders, threads, errors=errors.fileno())
            _answer(process, control, lines)
        except BaseException:
            ours.close()
            raise
        return Worker(Channel(ours), process, control, lines, notice)


def available(wanted: IsolationLevel | Literal["best"]) -> IsolationLevel:
    """Return the level that *wanted* says, after a helper has tried it.

    Raises
    ------
    SiteFailed
        ``site.isolation``: it cannot be had here, and why.
    """
    process, control, lines = _start({"choose": wanted}, {})
    level: IsolationLevel = _answer(process, control, lines)["level"]
    with control, lines:
        process.wait()
    return level


def sweep(site: Path) -> None:
    """Remove what workers of an earlier life of this site have left: nothing of it is anybody's now."""
    remove_tree(site / "scratch")


def _start(
    orders: Mapping[str, Any], environment: dict[str, str], *, errors: int | None = None
) -> tuple[subprocess.Popen[bytes], socket.socket, BufferedReader]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    told = {"PLASMID_HOME": str(state_folder())}  # HOME is another one inside
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-P", "-m", "plasmid.isolation.launcher_child", json.dumps(orders)],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=passed | SET | told | environment,
            pass_fds=[orders["channel"]] if "channel" in orders else [],
            start_new_session=True,  # Ctrl-C is the gateway's
        )
    return process, ours, ours.makefile("rb")


def _answer(
    process: subprocess.Popen[bytes], control: socket.socket, lines: BufferedReader
) -> dict[str, Any]:
    """Return what the helper says first; raise the error that it says."""
    told = _next(lines)
    if told and "error" not in told:
        return told
    with control, lines:
        process.wait()
    if told:
        raise from_dict(told["error"])
    raise SiteFailed(
        "site.sandbox",
        f"the process that starts workers ended with status {process.returncode}.",
        "See worker.log in the site's folder; is memory short?",
    )


def _next(lines: BufferedReader) -> dict[str, Any]:
    """Return the helper's next object; empty once it has ended."""
    try:
        line = lines.readline()
    except OSError:
        return {}
    found: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
    return found


def _log(path: Path) -> BufferedWriter:
    try:
        return path.open("ab")
    except OSError as error:
        raise storage_error(error, path) from error
