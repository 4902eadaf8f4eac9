"""Feed parsers with mutated inputs, and watch: only known errors, no hang, no growth.

Rules
-----
1. A *crash* is an exception that is no :class:`PlasmidError`; a *hang* takes more than ``HANG_S`` of the
   processor's time, or ``BLOCKED_S`` by the clock: a busy machine makes no hangs.
2. Growth is that of the process's peak resident memory over all inputs of a parser; more than
   ``MAX_GROWTH_MIB`` is a finding.
"""

from __future__ import annotations

import base64
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from fuzz.mutate import Mutator
from plasmid.core.errors import PlasmidError

HANG_S = 2.0
BLOCKED_S = 30.0
MAX_GROWTH_MIB = 100.0


class HangError(Exception):
    """One input took too long."""


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes
    ----------
    seeds
        Valid inputs: *run* takes each without an error.
    run
        Parses one input.
    structured
        Whether the seeds are JSON.
    cost
        How many times as long as a usual one it takes, roughly; the short run is so much shorter.
    """

    name: str
    seeds: Sequence[bytes]
    run: Callable[[bytes], object]
    structured: bool = True
    cost: int = 1


@dataclass
class Outcome:
    """What came of one parser; ``slowest_s`` is processor time. A machine also says what it ``did``."""

    name: str
    inputs: int = 0
    taken: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    growth_mib: float = 0.0
    peak_mib: float = 0.0
    seconds: float = 0.0
    did: dict[str, int] = field(default_factory=dict)

    def failed(self) -> bool:
        """Return whether there is anything to correct."""
        return bool(self.crashes or self.hangs or self.growth_mib > MAX_GROWTH_MIB)

    def line(self) -> str:
        """Return the outcome in one line."""
        did = "".join(f"\n    {count:>9} {what}" for what, count in sorted(self.did.items()))
        return (
            f"{self.name:<34} {self.inputs:>9} inputs, {self.taken:>8} taken, {len(self.refused):>3} codes, "
            f"{len(self.crashes)} crashes, {len(self.hangs)} hangs, slowest {1000 * self.slowest_s:6.1f} ms, "
            f"+{self.growth_mib:.0f} of {self.peak_mib:.0f} MiB, {self.seconds:.0f} s{did}"
        )


def attack(target: Target, *, inputs: int, seconds: float, seed: int = 0, keep: int = 3) -> Outcome:
    """Feed *target* until *inputs* or *seconds* are used up, or *keep* problems of a kind were found."""
    mutator = Mutator(target.seeds, Random(f"{target.name}/{seed}"), structured=target.structured)
    outcome = Outcome(target.name)
    for valid in target.seeds:
        target.run(valid)  # what a valid input needs, libraries included, is no growth
    _forget_peak()
    begun, before = time.monotonic(), _peak_mib()
    previous = {one: signal.signal(one, _too_long) for one in (signal.SIGALRM, signal.SIGPROF)}
    try:
        while outcome.inputs < inputs and time.monotonic() - begun < seconds:
            _feed(target, mutator.next(), outcome)
            if max(len(outcome.crashes), len(outcome.hangs)) >= keep:
                break
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
    outcome.seconds = time.monotonic() - begun
    outcome.peak_mib = _peak_mib()
    outcome.growth_mib = outcome.peak_mib - before
    return outcome


def _feed(target: Target, data: bytes, outcome: Outcome) -> None:
    outcome.inputs += 1
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    signal.setitimer(signal.ITIMER_REAL, BLOCKED_S)
    try:
        target.run(data)
        outcome.taken += 1
    except PlasmidError as error:
        outcome.refused[error.code] = outcome.refused.get(error.code, 0) + 1
    except HangError:
        outcome.hangs.append(_shown(data))
    except Exception:  # noqa: BLE001 - what it is, is the finding
        outcome.crashes.append(f"{_shown(data)}\n{traceback.format_exc(limit=-8)}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    outcome.slowest_s = max(outcome.slowest_s, time.process_time() - began)


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise HangError


def _shown(data: bytes) -> str:
    return (
        data.decode() if data.isascii() and len(data) < 2000 else f"base64 {base64.b64encode(data).decode()}"
    )


def _forget_peak() -> None:
    """Begin the process's peak anew, at what it holds now: it may have been larger before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mib() -> float:
    # not ru_maxrss, which a process has from the one that started it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
