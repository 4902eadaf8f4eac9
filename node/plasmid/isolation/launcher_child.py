"""The process that starts one worker, locks it in and watches it; it holds no key and reads no row.

Its only argument is its orders, a JSON object; its standard input is the control socket of
:mod:`plasmid.isolation.launcher`, on which it says one JSON object a line: ``started``, ``level`` or
``error`` first, then ``notice`` for each attempt that was refused, and ``ended`` with why, or null.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plasmid.core.errors import PlasmidError
from plasmid.core.files import storage_error
from plasmid.isolation.choice import choose, every
from plasmid.isolation.levels import Limits
from plasmid.isolation.port import Spec, check_apart
from plasmid.isolation.supervisor import Guard

COMMAND = (sys.executable, "-P", "-m", "plasmid.worker.worker")


class _Control:
    """This end of the control socket. Any thread may say something."""

    def __init__(self) -> None:
        self._end = socket.socket(fileno=os.dup(0))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self._saying = threading.Lock()

    def say(self, **what: Any) -> None:
        """Say one object; the gateway may have ended, which :meth:`closed` finds out."""
        with self._saying:
            try:
                self._end.sendall(json.dumps(what).encode() + b"\n")
            except OSError:
                return

    def closed(self) -> None:
        """Return once the gateway has closed its end."""
        while self._end.recv(1):
            pass


def main(orders: Mapping[str, Any]) -> int:
    """Do what *orders* say; return the worker's exit status when it has ended, as a shell gives it."""
    control = _Control()
    try:
        if "choose" in orders:
            control.say(level=choose(orders["choose"]).level)
            return 0
        end, wait = _bare(orders) if orders["level"] == "none" else _guarded(orders, control)
    except PlasmidError as error:
        control.say(error=error.as_dict())
        return 1
    control.say(started=True)

    def watch() -> None:
        control.closed()
        end()

    threading.Thread(target=watch, daemon=True).start()
    status, reason = wait()
    control.say(ended=reason)
    return status if status >= 0 else 128 - status


def _bare(orders: Mapping[str, Any]) -> tuple[Callable[[], None], Callable[[], tuple[int, None]]]:
    with Path(orders["log"]).open("ab") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own command
            COMMAND, stdin=orders["channel"], stdout=errors, stderr=errors
        )
    os.close(orders["channel"])

    return process.kill, lambda: (process.wait(), None)


def _guarded(
    orders: Mapping[str, Any], control: _Control
) -> tuple[Callable[[], None], Callable[[], tuple[int, str | None]]]:
    isolation = next(one for one in every() if one.level == orders["level"])
    log = Path(orders["log"])
    scratch = log.parent / "scratch" / secrets.token_hex(8)
    read = tuple(Path(path) for path in orders["read"])
    limits = Limits.model_validate(orders["limits"])
    spec = Spec(COMMAND, read, dict(os.environ), scratch, limits, tuple(orders["devices"]))
    check_apart(spec, log.parent)
    try:
        scratch.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise storage_error(error, scratch) from error
    guard = Guard(
        isolation, spec, channel=orders["channel"], log=log, notice=lambda text: control.say(notice=text)
    )
    guard.launch()

    def wait() -> tuple[int, str | None]:
        guard.join()
        return guard.process.returncode, guard.reason

    return guard.end, wait


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
