"""``simulation``: a thousand sites, twenty of them a round, beside Flower's own simulation of the same.

Rules
-----
1. Both sides train the same tiny model on the same rows, as subprocesses, one after the other, each with a
   Ray of its own. Ours goes through the controller's rounds, the output contract and the ring. Flower's
   client is what its users write; a second one trains by our own engine, so that what is left is what the
   simulations themselves cost.
2. The first round, in which processes start and load the model, is a figure of its own.
3. Memory is the proportional set size of each side's processes together, sampled every three seconds: the
   peak counts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.harness import Result
from bench.ours.simulation import SITES, SITES_A_ROUND, make_world
from bench.peers.flower_simulation import environment

ROUNDS = 8
_SAMPLE_S = 3.0


def main() -> list[Result]:
    """Measure both sides and return the figures."""
    with tempfile.TemporaryDirectory(prefix="plasmid-bench-simulation-") as name:
        folder = Path(name)
        make_world(folder)
        peer = environment(folder / "flower")
        ours_s, ours_gb = measured(Path(sys.executable), "bench.ours.simulation", folder)
        peer_s, peer_gb = measured(peer, "bench.peers.flower_simulation", folder, "ordinary")
        same_s, _ = measured(peer, "bench.peers.flower_simulation", folder, "engine")
    what = f"{SITES} sites, {SITES_A_ROUND} a round"
    return [
        Result.times_better(
            f"round, {what} (median)",
            ours=statistics.median(ours_s[1:]),
            peer=statistics.median(peer_s[1:]),
            unit="s",
            goal=5.0,
        ),
        Result.times_better(
            "round, our engine in Flower's clients (median)",
            ours=statistics.median(ours_s[1:]),
            peer=statistics.median(same_s[1:]),
            unit="s",
            goal=5.0,
        ),
        Result.times_better(f"first round, {what}", ours=ours_s[0], peer=peer_s[0], unit="s", goal=1.0),
        Result.share("peak PSS of all processes", ours=ours_gb, peer=peer_gb, unit="GB", goal=1.0),
    ]


def measured(python: Path, module: str, folder: Path, *more: str) -> tuple[list[float], float]:
    """Return the seconds of every round of *module*, told *more*, under *python*, and its peak GB."""
    variables = {
        **os.environ,
        "PLASMID_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",  # 15 if left alone: on a busy machine the figure would be of the others
    }
    process = subprocess.Popen(
        [str(python), "-m", module, str(folder), str(ROUNDS), *more],
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        env=variables,
        text=True,
    )
    peak = 0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        pss = 0
        for one in (watched, *_below(watched)):
            try:
                pss += one.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, pss)
        time.sleep(_SAMPLE_S)
    assert process.stdout is not None
    output = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{module} ended with status {process.returncode}")
    seconds: list[float] = json.loads(output.splitlines()[-1])
    return seconds, peak / 1e9


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found
