"""The processes in which a bundle sees one record each; started by :mod:`plasmid.worker.per_record`.

    keeper (this module, never runs a line of the bundle, never sees a row)
      └─ minder, one for each turn (ends its child when the time is up)
           └─ child: locks itself, runs the bundle's module anew, sees one row, answers, ends

Rules
-----
1. The keeper imports what the bundle names of the site's installed modules, so that a child, which can open
   no file, finds them in memory. It is given public things only: code, settings, state.
2. A row's socket passes through the keeper unread. What came of it does not reach the keeper either: the
   minder's exit status is always 0. So no child can find out anything about the rows before its own.
3. A child is locked (:mod:`plasmid.isolation.lockdown`) before the first line of the bundle runs in it.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import json
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.core.errors import PlasmidError
from plasmid.isolation.lockdown import lock
from plasmid.protocol.channel import Channel, ChannelClosed
from plasmid.worker.bundle import BundleCode, as_vector, called

RECORD, STATE = b"r", b"s"
"""What the keeper is told: a row's socket comes with the first, a frame with the state after the second."""
CHILD_BYTES = 2 * 2**30
OPEN_FILES = 256
TRY_S = 10.0
_HALF = "per_record"


class Keeper:
    """See the module's rules."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._code = BundleCode(order["files"], order["package"])
        self._entry: str = order["entry"]
        self._settings: dict[str, Any] = order["settings"]
        self._size: int = order["size"]
        self._limit_s: float = order["limit_s"]
        self.state: NDArray[np.float64] = np.zeros(self._size)
        for text in order["files"].values():
            _import(text)
        gc.freeze()

    def try_out(self) -> bool:
        """Return whether the bundle's module can be run in a locked child, no row being there."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self._lock(None)
                self._code.install()
                self._code.function(self._entry, _HALF)
                status = 0
            finally:
                os._exit(status)
        return _ended(child, TRY_S) == 0

    def turn(self, end: int) -> None:
        """Let one child answer on the socket *end*, which is closed here."""
        minder = os.fork()
        if minder == 0:
            try:
                self._mind(end)
            finally:
                os._exit(0)
        os.close(end)
        os.waitpid(minder, 0)

    def _mind(self, end: int) -> None:
        child = os.fork()
        if child == 0:
            try:
                with contextlib.suppress(BaseException):  # of what fails, nothing is said but an empty answer
                    self._answer(end)
            finally:
                os._exit(0)
        os.close(end)
        _ended(child, self._limit_s)

    def _answer(self, end: int) -> None:
        row = json.loads(_read(end))
        if row is None:  # nobody's turn
            return
        self._lock(end)
        self._code.install()
        function = self._code.function(self._entry, _HALF)
        self.state.setflags(write=False)
        value = called(_HALF, function, self.state, row, self._settings)
        answer = b"\0" if value is None else b"\1" + as_vector(value, self._size).tobytes()
        while answer:
            answer = answer[os.write(3, answer) :]

    def _lock(self, end: int | None) -> None:
        """Lock this process, with *end* as its descriptor 3 and nothing else that leads out."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null if end is None else end, 3)
        for standard in range(3):
            os.dup2(null, standard)
        os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (CHILD_BYTES, CHILD_BYTES))
        lock()


def _ended(child: int, limit_s: float) -> int:
    """Return the status of *child* once it has ended, by itself or at the limit."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    status = os.waitpid(child, 0)[1]
    signal.setitimer(signal.ITIMER_REAL, 0)
    return status


def _import(text: str) -> None:
    """Import the installed modules that *text* imports, and run nothing else of it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
            statement = ast.Module(body=[node], type_ignores=[])
            with contextlib.suppress(ImportError):
                exec(compile(statement, "<imports>", "exec"), {})  # noqa: S102 - import statements alone


def _read(end: int) -> bytes:
    size = int.from_bytes(_exactly(end, 8), "big")
    return _exactly(end, size)


def _exactly(end: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(end, size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def main() -> None:
    """Keep children on the channel that the worker gave as standard input, until it closes."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))  # a child closes so many
    with socket.socket(fileno=os.dup(0)) as end:
        null = os.open(Path(os.devnull), os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        channel = Channel(end)
        with contextlib.suppress(ChannelClosed):
            try:
                keeper = Keeper(channel.receive()[0])
                sound = keeper.try_out()
            except (PlasmidError, SyntaxError, ValueError, RecursionError, MemoryError):
                sound = False
            channel.send({"type": "kept", "sound": sound})
            while sound:
                said, descriptors, _, _ = socket.recv_fds(end, 1, 1)
                if said == RECORD:
                    keeper.turn(descriptors[0])
                elif said == STATE:
                    keeper.state = np.frombuffer(channel.receive()[1])
                else:
                    return


if __name__ == "__main__":
    main()
