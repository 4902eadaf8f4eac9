"""A trial: whether a level can be had here is found out by starting something in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from plasmid.core.errors import SiteFailed
from plasmid.isolation.levels import Limits
from plasmid.isolation.port import Isolation, Spec
from plasmid.isolation.supervisor import START_S, Guard


def try_it(isolation: Isolation) -> str | None:
    """Start the interpreter in *isolation*; return why that fails, or None."""
    with tempfile.TemporaryDirectory() as folder:
        scratch, log = Path(folder) / "scratch", Path(folder) / "log"
        scratch.mkdir()
        spec = Spec(
            (sys.executable, "-I", "-S", "-c", "pass"), (), {}, scratch, Limits(memory_mib=1024, cpu_s=60)
        )
        guard = Guard(
            isolation, spec, channel=os.open(os.devnull, os.O_RDONLY), log=log, notice=lambda _: None
        )
        try:
            status = guard.launch().wait(START_S)
        except SiteFailed as error:
            return _last_line(log) or error.message
        except subprocess.TimeoutExpired:
            guard.end()
            return "a trial did not end"
        guard.join()
        return None if status == 0 else _last_line(log) or f"a trial ended with status {status}"


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    return lines[-1][:200] if lines else ""
