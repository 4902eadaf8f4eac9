"""Progress of a run, rounds x sites, on standard error: a live block at a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

LINE_EVERY_S = 15.0


class RunProgress:
    """A context manager whose :meth:`update` takes what ``Run.show`` returns."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)  # one line of a log
        self._live = Live(console=self._console, transient=True) if self._console.is_terminal else None
        self._last = ("", -1)
        self._last_time = 0.0

    def __enter__(self) -> RunProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, shown: Mapping[str, Any]) -> None:
        """Show where the run is."""
        lines = describe(shown)
        if self._live is not None:
            self._live.update(Text("\n".join(lines)))
            return
        now, key = time.monotonic(), (state_text(shown), int(shown["rounds_done"]))
        if key != self._last or now - self._last_time > LINE_EVERY_S:
            self._last, self._last_time = key, now
            self._console.print(Text("; ".join(line.strip() for line in lines)))

    def note(self, text: str) -> None:
        """Show a line that isn't about the run's rounds (baselines, evaluation)."""
        if self._live is not None:
            self._live.update(Text(text))
            return
        now = time.monotonic()
        if now - self._last_time > LINE_EVERY_S or text.endswith("..."):
            self._last_time = now
            self._console.print(Text(text))


def state_text(shown: Mapping[str, Any]) -> str:
    """Return a run's state, with how many approvals are there of how many while it waits for them."""
    said = shown.get("approvals")
    if shown["state"] != "AWAITING_APPROVAL" or not said:
        return str(shown["state"])
    return f"{shown['state']} ({said['have']} of {said['need']})"


def describe(shown: Mapping[str, Any]) -> list[str]:
    """Return the run's state and each site's steps in the current round, one line each."""
    current = min(int(shown["rounds_done"]) + 1, int(shown["rounds"]))
    head = f"{shown['run_id']}: {state_text(shown)}"
    if shown["state"] != "RUNNING":
        return [head]
    lines = [f"{head}, round {current} of {shown['rounds']}"]
    for site, pulse in sorted(shown["progress"].items()):
        done = f"{pulse['step']}/{pulse['steps']} steps" if pulse["round"] == current else "waiting"
        lines.append(f"  {site}: {done}")
    return lines
