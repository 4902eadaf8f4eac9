"""A recipe's first steps on this machine, timed and weighed: the site's own worker, on a site's own rows.

Rules
-----
1. A probe starts the process that a site starts (:class:`~plasmid.gateway.session.WorkerSession`), as well
   locked in as this host can, with the whole document; only ``training.steps`` is lower. What it returns is
   thrown away: nothing is summed, noised for anybody, charged or sent.
2. As many run at once as would compute at once, each on as many threads: cores, caches and the memory's
   bandwidth are shared as they would be.
3. The first round is the start: imports, base model, encoding, what is cached. The second one is a round.
4. Memory is the largest resident set that the kernel saw of the worker and its children (``VmHWM``, proc(5)),
   pages shared with other processes included.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasmid.bases.store import BaseModel
from plasmid.computations import api
from plasmid.data.views.reading import site_rows
from plasmid.gateway.session import WorkerSession
from plasmid.gateway.site_parameters import sampling, unit_terms
from plasmid.isolation.choice import strongest
from plasmid.isolation.launcher import LocalLauncher, Notice, Worker
from plasmid.isolation.tree import descendants
from plasmid.recipes.schema import Recipe

STEPS = 4
"""Steps of a probe's round, at most."""


@dataclass(frozen=True)
class Probe:
    """What was measured, the mean over the workers that ran at once.

    Attributes
    ----------
    parallel, threads
        How many workers ran at once, and the threads of each.
    steps
        Steps of the round that was timed.
    open_s
        From the start of the process until it has opened document, rows and base model: mostly imports.
    cache_s
        What its first round takes more than a later one: what is computed once and kept.
    step_s
        One optimiser step.
    around_s
        What a round takes beside its steps.
    peak_bytes
        Of the largest worker; None where the system does not say (only Linux does).
    """

    parallel: int
    threads: int
    steps: int
    open_s: float
    cache_s: float
    step_s: float
    around_s: float
    peak_bytes: int | None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def probe(recipe: Recipe, base: BaseModel, tables: Sequence[Path], *, threads: int) -> Probe:
    """Return what a worker of *recipe* takes on each of the files *tables*, all of them at once.

    Raises
    ------
    PlasmidError
        What a worker reports; DataError and PolicyRefused as
        :func:`plasmid.gateway.site_parameters.unit_terms`.
    """
    steps = min(STEPS, recipe.training.steps)
    short = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": steps})})
    together = threading.Barrier(len(tables))
    with tempfile.TemporaryDirectory(prefix="plasmid-probe-") as folder:
        probes = [
            _Probed(short, base, table, Path(folder) / f"{number}", threads, together)
            for number, table in enumerate(tables)
        ]
        try:
            for one in probes:
                one.start()
        finally:
            for one in probes:
                one.join()
    for one in probes:
        if one.problem is not None:
            raise one.problem
    count, weighed = len(probes), [one.peak_bytes for one in probes if one.peak_bytes]
    return Probe(
        parallel=count,
        threads=threads,
        steps=steps,
        open_s=sum(one.open_s for one in probes) / count,
        cache_s=sum(one.cache_s for one in probes) / count,
        step_s=sum(one.step_s for one in probes) / count,
        around_s=sum(one.around_s for one in probes) / count,
        peak_bytes=max(weighed, default=None),
    )


class _Kept(LocalLauncher):
    """Remembers the worker that it started, whose memory is to be read."""

    worker: Worker

    def launch(self, log: Path, *, read: Sequence[Path], notice: Notice) -> Worker:
        """See :class:`plasmid.isolation.launcher.Launcher`."""
        self.worker = super().launch(log, read=read, notice=notice)
        return self.worker


class _Probed(threading.Thread):
    """One worker, and what it took."""

    def __init__(
        self,
        recipe: Recipe,
        base: BaseModel,
        table: Path,
        folder: Path,
        threads: int,
        together: threading.Barrier,
    ) -> None:
        super().__init__(name="probe", daemon=True)
        self._recipe, self._base, self._table = recipe, base, table
        self._folder, self._threads, self._together = folder, threads, together
        self.open_s = self.cache_s = self.step_s = self.around_s = 0.0
        self.peak_bytes: int | None = None
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            self._folder.mkdir(mode=0o700)
            self._measure()
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for this thread
            self.problem = error
            self._together.abort()

    def _measure(self) -> None:
        recipe = self._recipe
        rows, figures = site_rows(self._table, recipe, self._folder)
        try:
            units = figures.people if recipe.privacy.unit == "patient" else figures.rows
            told = sampling(recipe, unit_terms(recipe, units))
            began = time.monotonic()
            launcher = _Kept(strongest()[0], threads=self._threads)
            log = self._folder / "worker.log"
            session = WorkerSession(launcher, log, read=[self._base.path], notice=lambda _text: None)
            try:
                session.open(recipe.model_dump(mode="json"), self._base, rows)
                session.wait_open(lambda _done, _steps: None)
                self.open_s = time.monotonic() - began
                first = self._compute(session, 1, told)
                with suppress(threading.BrokenBarrierError):  # another one failed, and tells of it
                    self._together.wait()
                marks = self._compute(session, 2, told)
                self.peak_bytes = peak_bytes(launcher.worker.process.pid)
            finally:
                session.end()
        finally:
            os.close(rows)
        round_s, steps = marks[-1] - marks[0], len(marks) - 2
        # The first step of a round begins with the round; the later ones are what a step takes.
        self.step_s = (marks[-2] - marks[1]) / (steps - 1) if steps > 1 else marks[1] - marks[0]
        self.around_s = max(0.0, round_s - steps * self.step_s)
        self.cache_s = max(0.0, first[-1] - first[0] - round_s)

    def _compute(self, session: WorkerSession, round_: int, told: Mapping[str, Any] | None) -> list[float]:
        """Have one round computed; return when it began, when each step ended, and when it ended."""
        recipe, method = self._recipe, api.method(self._recipe)
        shape = method.shape(recipe, self._base)
        marks = [time.monotonic()]
        session.compute(
            method.initial(recipe, shape),
            order={"phase": "train", "round": round_, "seed": round_, "sampling": told},
            length=shape.schema.size,
            dtype=shape.dtype,
            progress=lambda _done, _steps: marks.append(time.monotonic()),
        )
        return [*marks, time.monotonic()]


def peak_bytes(process: int) -> int | None:
    """Return the largest resident set of *process* or one below it so far; None where nothing says."""
    found = []
    for one in descendants(process):
        with suppress(OSError, ValueError):
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
            found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return max(found, default=None)
