"""What the same data give without a federation: each site alone, all rows pooled, a classical model.

Rules
-----
1. Only whoever holds every site's data can compute these: an embedded run's launcher, in child processes of
   its own. No gateway and no site process has a part in it.
2. Each site alone trains rounds x steps, all rows in one place sites x rounds x steps, of the recipe's batch,
   from the recipe's initial adapter, by the sites' own engine, at the rates that the recipe's schedule has
   for the rounds. With fewer steps central would look worse than it is. Judged at the sites, each one's own
   steps after the run (``training.personal_steps``) count as well. Of trees
   (:mod:`plasmid.experiments.trees`), whose every step sees all rows, the steps are rounds.
3. At most two children at a time, each on its share of the cores. They end with the call, however it
   ends, and when this process dies: a child whose input closes exits at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from plasmid.bases.store import BaseModel, ensure_model
from plasmid.core.errors import PlasmidError, RunFailed, from_dict
from plasmid.recipes.load import ResolvedRecipe

MAX_CHILDREN = 2
_POLL_S = 0.2

Progress = Callable[[int, int], None]


class Simple(TypedDict):
    """The classical model: pooled, and the best single site; None where none can be compared."""

    central: float | None
    local: float | None


class Baselines(TypedDict):
    """The recipe's metric on the evaluation table; judged at the sites, on the rows held out there.

    Then ``local`` has each site's at itself, if there is one, and the others are means over the sites: of
    ``simple``, the pooled model, and each site's own.
    """

    local: dict[str, float]
    central: float
    simple: Simple


def run_baselines(
    resolved: ResolvedRecipe,
    site_paths: Mapping[str, Path],
    eval_path: Path | None,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Baselines:
    """Return the baselines of *resolved* over the tables at *site_paths*, scored on *eval_path*.

    Parameters
    ----------
    eval_path
        None judges at the sites: on the rows that ``data.holdout`` keeps from training there.
    progress
        Called from this thread with (steps done, steps in all), over all trainings together.
    should_stop
        Asked several times a second; True ends the children and the call.

    Raises
    ------
    RunFailed
        ``run.stopped``: *should_stop* said so; ``run.baselines_failed``: a child died or hit a defect.
    PlasmidError
        What a child raised: a table that does not meet the contract, a base model that is not there.
    """
    model = getattr(resolved.parsed, "model", None)
    base = model and ensure_model(model.base, revision=model.revision, digest=model.digest)
    jobs = _jobs(resolved, site_paths, at_sites=eval_path is None)
    children = _start(_header(resolved, base, site_paths, eval_path), len(jobs))
    events: queue.Queue[dict[str, Any]] = queue.Queue()
    pending = queue.SimpleQueue[dict[str, Any]]()
    for job in jobs:
        pending.put(job)
    threads = [
        threading.Thread(target=_serve, args=(child, pending, events), daemon=True) for child in children
    ]
    try:
        for thread in threads:
            thread.start()
        return _assembled(_collect(jobs, events, progress, should_stop))
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()
        for thread in threads:
            thread.join()
        for child in children:
            _close(child)


def _jobs(
    resolved: ResolvedRecipe, site_paths: Mapping[str, Path], *, at_sites: bool
) -> list[dict[str, Any]]:
    """Return the jobs, the longest first."""
    training, rounds = getattr(resolved.parsed, "training", None), resolved.parsed.rounds
    alone = len(training.pace(rounds)) if training else rounds
    alone += training.personal_steps if training and at_sites else 0
    return [
        {"name": "central", "sites": list(site_paths), "steps": alone * len(site_paths)},
        *({"name": f"alone/{site}", "sites": [site], "steps": alone} for site in site_paths),
        {"name": "simple", "sites": list(site_paths), "steps": 0},
    ]


def _header(
    resolved: ResolvedRecipe, base: BaseModel | None, site_paths: Mapping[str, Path], eval_path: Path | None
) -> dict[str, Any]:
    return {
        "document": resolved.document,
        "base": base and {"id": base.id, "revision": base.revision, "digest": base.digest},
        "sites": {site: str(path) for site, path in site_paths.items()},
        "eval": None if eval_path is None else str(eval_path),
    }


def _start(header: dict[str, Any], jobs: int) -> list[subprocess.Popen[bytes]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(MAX_CHILDREN, cores, jobs)
    threads = str(max(1, cores // count))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    children: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            child = subprocess.Popen(
                [sys.executable, "-m", "plasmid.experiments.baseline_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            children.append(child)
            _send(child, header)
    except BaseException:
        for child in children:
            child.kill()
            child.wait()
            _close(child)
        raise
    return children


def _send(child: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the end of its output tells of its death
        child.stdin.write(json.dumps(message).encode() + b"\n")
        child.stdin.flush()


def _close(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _serve(
    child: subprocess.Popen[bytes],
    pending: queue.SimpleQueue[dict[str, Any]],
    events: queue.Queue[dict[str, Any]],
) -> None:
    """Hand *child* one job after another and put what it says into *events*, from a thread."""
    assert child.stdout is not None
    while True:
        try:
            job = pending.get_nowait()
        except queue.Empty:
            return
        _send(child, job)
        for line in child.stdout:
            event = {"job": job["name"], **json.loads(line)}
            events.put(event)
            if event["type"] != "progress":
                break
        else:
            events.put({"job": job["name"], "type": "died", "status": child.wait()})
            return


def _collect(
    jobs: list[dict[str, Any]],
    events: queue.Queue[dict[str, Any]],
    progress: Progress | None,
    should_stop: Callable[[], bool] | None,
) -> dict[str, Any]:
    total = sum(job["steps"] for job in jobs)
    done = dict.fromkeys((job["name"] for job in jobs), 0)
    results: dict[str, Any] = {}
    while len(results) < len(jobs):
        if should_stop is not None and should_stop():
            raise RunFailed("run.stopped", "the baselines were stopped.", "Run again with --baselines.")
        try:
            event = events.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        match event["type"]:
            case "progress":
                done[event["job"]] = event["done"]
                if progress is not None:
                    progress(sum(done.values()), total)
            case "result":
                results[event["job"]] = event["value"]
            case "error":
                raise from_dict(event["error"])
            case "died":
                raise _died(event["job"], event["status"])
    return results


def _died(job: str, status: int) -> PlasmidError:
    return RunFailed(
        "run.baselines_failed",
        f"the process that computed the baseline {job!r} ended with status {status}.",
        "If memory was short (status -9), free some; or leave the baselines out with --no-baselines.",
    )


def _assembled(results: Mapping[str, Any]) -> Baselines:
    alone = {
        name.removeprefix("alone/"): value
        for name, value in results.items()
        if name.startswith("alone/") and value is not None
    }
    return Baselines(local=dict(sorted(alone.items())), central=results["central"], simple=results["simple"])
