"""The child process of :mod:`plasmid.client.baselines`: JSON lines in, JSON lines out.

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
import threading
from pathlib import Path
from typing import IO, Any

from plasmid.client.trees import TreesBench
from plasmid.core.errors import PlasmidError, RunFailed, place
from plasmid.data.reading import read_table
from plasmid.data.table import Table, concatenate
from plasmid.models.store import open_model
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
        self.sites = {site: read_table(Path(path), recipe.contract) for site, path in header["sites"].items()}
        self.test = read_table(Path(header["eval"]), recipe.contract)
        self._scorer: Any = None

    def trained(self, table: Table, steps: int, progress: Any) -> float:
        """Return the metric on the test after *steps* steps on *table* from the recipe's initial adapter."""
        from plasmid.models.adapter import initial_state
        from plasmid.training.engine import Engine

        engine = Engine(self.recipe, self.base, table, progress=progress)
        first, training, rounds = (
            initial_state(engine.schema, self.recipe.seed),
            self.recipe.training,
            self.recipe.rounds,
        )
        pace = training.pace(rounds, steps // len(training.pace(rounds)))
        state = engine.train(first, steps=steps, seed=self.recipe.seed, pace=pace)
        # The first engine keeps the encoded test, so that it is encoded once for all trainings.
        self._scorer = self._scorer or engine
        return float(self._scorer.score(state, self.test.columns))

    def run(self, job: dict[str, Any], progress: Any) -> Any:
        """Return the value of *job*."""
        chosen = {site: self.sites[site] for site in job["sites"]}
        if job["name"] == "simple":
            from plasmid.client.simple import simple_scores

            return simple_scores(self.recipe, chosen, self.test)
        return self.trained(concatenate(chosen.values()), job["steps"], progress)


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
