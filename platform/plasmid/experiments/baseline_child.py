"""The child process of :mod:`plasmid.experiments.baselines`: JSON lines in, JSON lines out.

Rules
-----
1. The first line says what the data are, each further one is a job. A job's last answer is of type
   ``result`` or ``error``; ``progress`` may come before.
2. When the input closes the process exits at once, whatever it is doing: its parent is gone or done.
3. What it says holds no cell of a table, and of an unforeseen exception its type and place only.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from plasmid.bases.store import open_model
from plasmid.core.errors import DataError, PlasmidError, RunFailed, place
from plasmid.data.table import Table, concatenate
from plasmid.data.views.reading import read_table, training_table
from plasmid.experiments.trees import TreesBench
from plasmid.recipes.documents import parse_document
from plasmid.recipes.schema import Recipe


class Bench:
    """The tables and the base model of one run; trains and scores on them."""

    def __init__(self, header: dict[str, Any]) -> None:
        recipe = parse_document(header["document"])
        assert isinstance(recipe, Recipe)
        alone = recipe.training.model_copy(update={"proximal": 0.0})  # there are no rounds to stay near
        self.recipe = recipe.model_copy(update={"training": alone})
        self.base = open_model(
            **{"model_id" if key == "id" else key: value for key, value in header["base"].items()}
        )
        paths = {site: Path(path) for site, path in header["sites"].items()}
        self.test: Table | None = None
        self.held: dict[str, Table] = {}
        if header["eval"] is not None:
            self.sites = {site: read_table(path, recipe.contract) for site, path in paths.items()}
            self.test = read_table(Path(header["eval"]), recipe.contract)
        else:
            from plasmid.worker.gain import held_table

            folder = Path(tempfile.gettempdir())
            self.sites = {site: training_table(path, recipe, folder) for site, path in paths.items()}
            self.held = {site: held_table(path, recipe, folder) for site, path in paths.items()}
        self._scorer: Any = None

    def judged(self, score: Callable[[Table], float], sites: Iterable[str]) -> dict[str, float | None]:
        """Return what *score* says of the test, or of the rows that each of *sites* holds out, by site."""
        if self.test is not None:
            return {"test": score(self.test)}
        found: dict[str, float | None] = {}
        for site in sites:
            held = self.held[site]
            try:
                found[site] = score(held) if held.rows else None
            except DataError:  # rows of one label, say
                found[site] = None
        return found

    def trained(self, sites: Mapping[str, Table], steps: int, progress: Any) -> dict[str, float | None]:
        """Return what is judged of *steps* steps on *sites* together, from the recipe's initial adapter."""
        table = concatenate(sites.values())
        from plasmid.adapters.adapter import initial_state
        from plasmid.worker.engine import Engine

        engine = Engine(self.recipe, self.base, table, progress=progress)
        first, training = initial_state(engine.schema, self.recipe.seed), self.recipe.training
        if self.test is None and training.personal_steps:
            pace = training.anew(steps)
        else:
            each = len(training.pace(self.recipe.rounds))
            pace = training.pace(self.recipe.rounds, steps // each)
        state = engine.train(first, steps=steps, seed=self.recipe.seed, pace=pace)
        # The first engine keeps the encoded test, so that it is encoded once for all trainings.
        self._scorer = self._scorer or engine
        return self.judged(lambda test: float(self._scorer.score(state, test.columns)), sites)

    def simple(self, sites: Mapping[str, Table]) -> dict[str, float | None]:
        """Return the classical model's figures; at the sites both are means over them."""
        from plasmid.experiments import simple
        from plasmid.worker.gain import mean_over_sites

        recipe, metric = self.recipe, self.recipe.task.metric
        if self.test is not None:
            return simple.simple_scores(recipe, sites, self.test)
        if not simple.is_comparable(recipe):
            return {"central": None, "local": None}
        pooled = simple.fit(recipe, concatenate(sites.values()))
        central = self.judged(partial(simple.score, recipe, pooled), sites)
        local: dict[str, float | None] = {}
        for site, table in sites.items():
            local |= self.judged(partial(simple.score, recipe, simple.fit(recipe, table)), [site])
        return {"central": mean_over_sites(central, metric), "local": mean_over_sites(local, metric)}

    def run(self, job: dict[str, Any], progress: Any) -> Any:
        """Return the value of *job*."""
        chosen = {site: self.sites[site] for site in job["sites"]}
        if job["name"] == "simple":
            return self.simple(chosen)
        from plasmid.worker.gain import mean_over_sites

        found = self.trained(chosen, job["steps"], progress)
        if job["name"] == "central":
            return mean_over_sites(found, self.recipe.task.metric)
        (alone,) = found.values()
        return alone


def main() -> None:
    """Serve jobs until the input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints does not get between the lines
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin, lines), daemon=True).start()
    header = json.loads(lines.get())
    bench: Bench | TreesBench | None = None
    while True:
        job = json.loads(lines.get())
        try:
            bench = bench or (Bench(header) if header["base"] else TreesBench(header))
            answer = {
                "type": "result",
                "value": bench.run(job, lambda done, _: _say(out, type="progress", done=done)),
            }
        except PlasmidError as error:
            answer = {"type": "error", "error": error.as_dict()}
        except Exception as error:  # noqa: BLE001 - the parent is told of every end
            what = f"a baseline met an unexpected {place(error)}."
            failed = RunFailed("run.baselines_failed", what, "Leave the baselines out with --no-baselines.")
            answer = {"type": "error", "error": failed.as_dict()}
        _say(out, **answer)


def _say(out: IO[str], **message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _read(source: IO[str], lines: queue.SimpleQueue[str]) -> None:
    for line in source:
        lines.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()
