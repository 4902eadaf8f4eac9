"""``demo``: what a newcomer's first run costs, against the limits that the project sets itself.

Rules
-----
1. The run is that of ``make demo`` in an empty home: import of the base model, coordinator, six sites,
   adapter, baselines and table included. Installing is not.
2. Memory is the proportional set size (Linux: ``/proc/PID/smaps_rollup``) of every process of that home,
   sampled twice a second; the peak of their sum counts. Shared pages are so counted once.
3. The "peer" of each figure is its limit.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import psutil

from bench.harness import Result

LIMIT_S = 360.0
LIMIT_PSS_GB = 8.0
LIMIT_GATEWAY_MB = 100.0
LIMIT_HELP_S = 0.5
_SAMPLE_S = 0.5
_CLI = [sys.executable, "-m", "plasmid.cli.main"]


def main() -> list[Result]:
    """Run the demo once and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, pss_gb, gateway_mb = run_demo(folder)
    help_s = min(timed([*_CLI, "--help"]) for _ in range(5))
    return [
        Result.share("demo, from command to table", ours=seconds, peer=LIMIT_S, unit="s", goal=1.0),
        Result.share("demo, peak PSS of all processes", ours=pss_gb, peer=LIMIT_PSS_GB, unit="GB", goal=1.0),
        Result.share(
            "resident gateway, largest", ours=gateway_mb, peer=LIMIT_GATEWAY_MB, unit="MB", goal=1.0
        ),
        Result.share("plasmid --help, best of 5", ours=help_s, peer=LIMIT_HELP_S, unit="s", goal=1.0),
    ]


def run_demo(home: str) -> tuple[float, float, float]:
    """Return seconds, peak PSS in GB and the largest resident gateway in MB."""
    environment = {**psutil.Process().environ(), "PLASMID_HOME": home}
    started = time.monotonic()
    process = subprocess.Popen(
        [*_CLI, "run", "tcr-covid", "--set", "federation.rounds=24", "--yes"],
        env=environment,
        stdout=sys.stderr,
        stdin=subprocess.DEVNULL,
    )
    peak_pss = peak_gateway = 0
    while process.poll() is None:
        pss = 0
        for one in of_home(home):
            try:
                pss += one.memory_full_info().pss
                if "site start" in " ".join(one.cmdline()):
                    peak_gateway = max(peak_gateway, one.memory_info().rss)
            except psutil.Error:
                continue
        peak_pss = max(peak_pss, pss)
        time.sleep(_SAMPLE_S)
    seconds = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"the demo ended with status {process.returncode}")
    return seconds, peak_pss / 1e9, peak_gateway / 1e6


def of_home(home: str) -> Iterator[psutil.Process]:
    """Yield the processes whose PLASMID_HOME is *home*."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("PLASMID_HOME") == home:
                yield process
        except psutil.Error:
            continue


def timed(command: list[str]) -> float:
    """Return the seconds that *command* takes."""
    started = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started
