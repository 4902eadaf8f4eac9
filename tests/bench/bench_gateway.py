"""``gateway``: what the secure gateway costs, each figure beside its limit (the column "peer").

Rules
-----
1. One section a function, ``<name>_figures() -> list[Result]``; :func:`main` runs them in order.
2. Where a figure is CPU time it is that of this process; where it waits for a disk it is wall time, and the
   disk is that of the temporary folder.
3. What is measured for the other sections lies in ``bench.ours.gateway_*``.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.harness import Result
from bench.ours import gateway_contribution, gateway_process
from bench.ours.gateway_process import MIB
from bench.ours.gateway_sandbox import sandbox_figures
from plasmid.core.clock import stamp
from plasmid.log.audit_log import AuditLog
from plasmid.log.entries import entry_line
from plasmid.log.export import Known, Named, export
from plasmid.log.verify import parse_export
from plasmid.protocol.identity import Identity

APPEND_LIMIT_MS = 5.0
VERIFY_LIMIT_S = 5.0
CONTRIBUTION_LIMIT_MS = 50.0
ROUND_LIMIT_MS = 100.0
MEMORY_LIMIT_BYTES = 150 * 10**6
_APPENDS = 300
_ENTRIES = 100_000


def main() -> list[Result]:
    """Measure every section."""
    return [
        *contribution_figures(),
        *sandbox_figures(),
        *audit_figures(),
        *memory_figures(),
    ]


def contribution_figures() -> list[Result]:
    """What the gateway spends on 1e6 values, with and without the share of noise that sites may add."""
    spent = gateway_contribution.measure(15)
    what = "contribution of 1e6 values, all but training and masks"
    return [
        _within(f"{what}, CPU", spent.gateway, CONTRIBUTION_LIMIT_MS, "ms"),
        _within(
            f"{what}, and a share of noise (dp-fedsgd alone), CPU",
            spent.gateway + spent.noise,
            CONTRIBUTION_LIMIT_MS,
            "ms",
        ),
        _within("masks of 1e6 values, three sites, CPU", spent.masks, CONTRIBUTION_LIMIT_MS, "ms"),
    ]


def memory_figures() -> list[Result]:
    """What the process of a site holds, and takes for a round, that contributes 1e6 values in each."""
    held = gateway_process.measure(4, 24)
    limit = MEMORY_LIMIT_BYTES
    return [
        _within("a site's process, resident after a run", held.steady / MIB, limit / MIB, "MiB"),
        _within("a site's process, resident at most", held.peak / MIB, limit / MIB, "MiB"),
        _within(
            "the same, and scrypt opens keys under a chosen passphrase",
            held.peak_chosen / MIB,
            limit / MIB,
            "MiB",
        ),
        _within(
            "a site's process, a round of 1e6 values with masks, messages and TLS, CPU",
            held.round_cpu_s * 1e3,
            ROUND_LIMIT_MS,
            "ms",
        ),
    ]


def audit_figures() -> list[Result]:
    """Appends with fsync, with and without a checkpoint; 100,000 entries verified, at home and elsewhere."""
    site = Identity.generate("alpha")
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder) / "audit", site)
        log.write("started")
        bare, plain, sealed = _appended(log, Path(folder) / "bare")
        long = Path(folder) / "long"
        _fill(long)
        big = AuditLog(long, site)
        big.write("started")
        opened_s = _cpu_s(lambda: AuditLog(long, site).write("ask"))
        verified_s = _cpu_s(big.verify)
        compared_s = _cpu_s(big.check_unchanged)
        named = Named(site=Known(name="alpha", organisation="A", key=site.public), peers=[])
        data = export(big.files, named)
        stranger_s = _cpu_s(lambda: parse_export(data, "the file", {"alpha": site.public}))
    return [
        _within("append with fsync, p50", plain.p50, APPEND_LIMIT_MS, "ms"),
        _within("append with fsync, p95", plain.p95, APPEND_LIMIT_MS, "ms"),
        _within("append with fsync and checkpoint, p50", sealed.p50, APPEND_LIMIT_MS, "ms"),
        Result.share(
            "append, p50, beside 400 bytes with fsync", ours=plain.p50, peer=bare.p50, unit="ms", goal=1.5
        ),
        _within("a log of 100,000 entries opened and written to, CPU", opened_s * 1e3, APPEND_LIMIT_MS, "ms"),
        _within("100,000 entries verified at home, CPU", verified_s, VERIFY_LIMIT_S, "s"),
        _within(
            "100,000 entries compared before a release, CPU", compared_s * 1e3, CONTRIBUTION_LIMIT_MS, "ms"
        ),
        _within("100,000 entries of an export verified, CPU", stranger_s, VERIFY_LIMIT_S, "s"),
    ]


@dataclass
class _Times:
    """Wall times in ms."""

    all: list[float] = field(default_factory=list)

    def take(self, do: Callable[[], object]) -> None:
        start = time.perf_counter()
        do()
        self.all.append((time.perf_counter() - start) * 1e3)

    @property
    def p50(self) -> float:
        return statistics.median(self.all)

    @property
    def p95(self) -> float:
        return sorted(self.all)[int(0.95 * len(self.all))]


def _appended(log: AuditLog, path: Path) -> tuple[_Times, _Times, _Times]:
    """Return the times of a bare append to *path*, of an entry, and of one with a checkpoint, in turns."""
    bare, plain, sealed = _Times(), _Times(), _Times()

    def append() -> None:
        with path.open("ab") as file:
            file.write(b"x" * 399 + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def write(action: str, number: int) -> None:
        log.write(action, run="run-1", object="a" * 64, round=number, bytes=4_000_000, masked=True)

    for number in range(_APPENDS):
        bare.take(append)
        plain.take(lambda number=number: write("manifest", number))  # type: ignore[misc]
        sealed.take(lambda number=number: write("released", number))  # type: ignore[misc]
    return bare, plain, sealed


def _fill(folder: Path) -> None:
    """Write a log of 100,000 entries, without waiting for the disk."""
    folder.mkdir()
    with (folder / "log.jsonl").open("wb") as file:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        for seq in range(1, _ENTRIES + 1):
            line = entry_line(
                seq=seq,
                time=stamp(start + timedelta(seconds=seq)),
                actor="gateway",
                action="manifest",
                object="a" * 64,
                run="tcr-covid-0123456789abcdef",
                rule=None,
                reason=None,
                result="ok",
                facts={"round": seq, "epoch": 1, "slot": 0, "bytes": 4_000_000, "masked": True},
            )
            file.write(line + b"\n")


def _cpu_s(do: Callable[[], object]) -> float:
    start = time.process_time()
    do()
    return time.process_time() - start


def _within(what: str, ours: float, limit: float, unit: str) -> Result:
    return Result.share(what, ours=ours, peer=limit, unit=unit, goal=1.0)
