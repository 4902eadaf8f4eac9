"""Processes of Plasmid that start warm: forked from one that has imported what they need.

An interpreter that imports a reader or a verb costs half a second to one and a half, a fork ten milliseconds.
What starts here is a process of its own, with the environment, folder, user and files that it is given, and
nothing of what the tests hold; only the import is shared, and new files of keys take the cost of a drawn
passphrase. What is tested to start, starts cold.

Rules
-----
1. Each process of tests has such a parent for each module, made at its first use, without threads of its own;
   it ends with whoever made it. Forks of that process share it.
2. Each request is one packet with four open files: where to tell of the process, and its standard files. Told
   are its number, and its status when it has ended.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

IMPORTED = {
    "plasmid.data.reader": ("plasmid.data.answering", "sqlglot.dialects.duckdb"),
    "plasmid.cli.main": (
        "plasmid.cli.verbs.approvals", "plasmid.cli.verbs.audit", "plasmid.cli.verbs.privacy",
        "plasmid.cli.verbs.project", "plasmid.cli.verbs.site", "plasmid.client.api", "plasmid.client.launch",
        "plasmid.client.verbs.login", "plasmid.client.verbs.runs", "plasmid.coordinator.verb",
        "plasmid.gateway.gateway", "plasmid.uplink.enrol", "plasmid.gateway.node", "plasmid.uplink.projects",
    ),
}  # fmt: skip
"""What can start warm, and what is imported beside it."""
_making = threading.Lock()
_parents: dict[str, socket.socket] = {}


class Process:
    """One process, as far as :class:`subprocess.Popen` is needed here."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told.makefile("r")
        told.close()
        self.pid = int(self._told.readline())
        self.returncode: int | None = None
        self._waiting = threading.Lock()

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; return its status as ``subprocess`` does."""
        with self._waiting:
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(int(self._told.readline()))
                self._told.close()
            return self.returncode


def start(
    module: str,
    arguments: Sequence[str] = (),
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    env: Mapping[str, str],
    cwd: Path | str | None = None,
    user: int | None = None,
) -> Process:
    """Start ``python -m module arguments``; *user* is its group, too."""
    request = {
        "arguments": list(arguments), "environment": dict(env), "folder": str(cwd or Path.cwd()), "user": user
    }  # fmt: skip
    with _making:
        parent = _parents.get(module) or _new_parent(module)
    ours, theirs = socket.socketpair()
    with theirs:
        files = array.array("i", [theirs.fileno(), stdin, stdout, stderr])
        parent.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    return Process(ours)


def run(
    module: str,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | str | None = None,
    user: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; return its status and what it wrote."""
    with Path(os.devnull).open() as null, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        streams = {"stdin": null.fileno(), "stdout": out.fileno(), "stderr": errors.fileno()}
        status = start(module, arguments, **streams, env=env, cwd=cwd, user=user).wait()
        said = []
        for file in (out, errors):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess([module, *arguments], status, *said)


def _popen(
    command: Sequence[str], *, stdin: int, stdout: int, stderr: Any, env: Mapping[str, str]
) -> Process:
    assert tuple(command[:3]) == (sys.executable, "-P", "-m"), command
    assert stdout == subprocess.DEVNULL
    with Path(os.devnull).open("w") as null:
        streams = {"stdin": stdin, "stdout": null.fileno(), "stderr": stderr.fileno()}
        return start(command[3], command[4:], **streams, env=env)


READERS = SimpleNamespace(Popen=_popen, DEVNULL=subprocess.DEVNULL)
"""What :mod:`plasmid.gateway.open_view` needs of ``subprocess``, for readers that start warm."""


def _new_parent(module: str) -> socket.socket:
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        path = os.pathsep.join(part for part in sys.path if part)
        process = subprocess.Popen(
            [sys.executable, __file__, module], stdin=theirs.fileno(), env=os.environ | {"PYTHONPATH": path}
        )

    def end() -> None:
        ours.close()
        process.kill()
        process.wait()

    atexit.register(end)
    _parents[module] = ours
    return ours


# -- the parent ------------------------------------------------------------------------------------


def _serve(control: socket.socket, module: ModuleType) -> None:
    ends = select.poll()
    ends.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}  # by descriptor: number, and where to tell
    while True:
        for ready, _ in ends.poll():
            if ready in running:
                ends.unregister(ready)
                process, told = running.pop(ready)
                _tell(told, os.waitpid(process, 0)[1])
                os.close(told)
                os.close(ready)
                continue
            message, files, _, _ = socket.recv_fds(control, 2**20, 4)
            if not message:
                return
            request = json.loads(message)
            process = os.fork()
            if not process:
                control.close()
                _become(module, request, files)
            told, *streams = files
            _tell(told, process)
            for file in streams:
                os.close(file)
            end = os.pidfd_open(process)
            running[end] = process, told
            ends.register(end, select.POLLIN)


def _tell(told: int, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(told, f"{number}\n".encode())


def _become(module: ModuleType, request: dict[str, Any], files: list[int]) -> None:
    status = 1
    try:
        os.close(files[0])
        for number, file in enumerate(files[1:]):
            os.dup2(file, number)
            os.close(file)
        if request["user"] is not None:
            os.setgroups([])
            os.setgid(request["user"])
            os.setuid(request["user"])
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ |= request["environment"]
        sys.argv = [str(module.__file__), *request["arguments"]]
        module.main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - a copy of the parent must not go on
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    control = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open() as null:
        os.dup2(null.fileno(), 0)
    wanted = sys.argv[1]
    for name in IMPORTED[wanted]:
        importlib.import_module(name)
    found = importlib.import_module(wanted)
    if keys := sys.modules.get("plasmid.gateway.keys.keystore"):
        keys.CHOSEN = keys.DRAWN  # type: ignore[attr-defined]  # 1 ms a guess, as in the tests' own process
    gc.freeze()  # a collection in a fork need not touch, and so copy, what was imported
    _serve(control, found)
