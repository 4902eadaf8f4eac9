"""How a long-running process ends: a signal, or the end of whoever started it.

A launcher gives its children a pipe as standard input and keeps the other end. When the launcher goes,
however it goes, the kernel closes the pipe and the children see end-of-file.
"""

from __future__ import annotations

import os
import signal
import threading


def end_event(*, until_stdin_closes: bool) -> threading.Event:
    """Return an event that is set by SIGTERM or SIGINT and, if asked, by end-of-file on standard input."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    if until_stdin_closes:

        def watch() -> None:
            while os.read(0, 4096):
                pass
            ended.set()

        threading.Thread(target=watch, daemon=True).start()
    return ended
