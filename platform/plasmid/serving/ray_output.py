"""Keeps what Ray says about itself off a user's screen: what goes wrong comes as exceptions, which we tell.

Rules
-----
1. Ray's own logs stay in its folder below ``/tmp/ray``.
2. Who sets ``RAY_BACKEND_LOG_LEVEL`` sees as much as that says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

_LEVEL = "RAY_BACKEND_LOG_LEVEL"


@contextmanager
def quiet_start() -> Iterator[None]:
    """Start Ray inside: its compiled parts then print what ends them, and nothing less.

    They print one line about that setting. It goes past Python, so nothing else may write to standard error
    inside.
    """
    if os.environ.setdefault(_LEVEL, "fatal") != "fatal":
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def unheard() -> Iterator[None]:
    """Drop what is printed inside: while Ray ends, it tells of each task that it interrupts."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield
