"""Cost of a base in 4 bits: central training over float32 and over nf4, each adapter scored over both.

All sites' rows in one table, with the node's engine; the same rows, seeds and batches. CPU seconds are of
this process, so that other work on the machine does not count. Prints a line a score, and one JSON object at
the end.

    python -m benchmarks.quantized phenotype --seeds 0 1 2 --steps 60
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from benchmarks.methods import read
from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import ensure_model
from plasmid.data.table import concatenate
from plasmid.recipes.load import load_recipe
from plasmid.worker.engine import Engine

HELD = ("none", "nf4")


def main() -> None:
    """Train and score what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE")
    asked = parser.parse_args()
    settings = dict(one.split("=", 1) for one in asked.set)
    resolved = {q: load_recipe(asked.recipe, overrides=settings | {"model.quantization": q}) for q in HELD}
    tables, test = read(resolved["none"])
    model = resolved["none"].recipe.model
    base = ensure_model(model.base, revision=model.revision, digest=model.digest)
    table = concatenate(tables.values())
    engines = {q: Engine(one.recipe, base, table, device="cpu") for q, one in resolved.items()}
    scores: list[dict[str, Any]] = []
    for seed in asked.seeds:
        for q, engine in engines.items():
            first = initial_state(engine.schema, seed)
            engine.train(first, steps=1, seed=seed)  # caches, and whatever is made once
            began = time.process_time()
            trained = engine.train(first, steps=asked.steps, seed=seed)
            step_s = (time.process_time() - began) / asked.steps
            over = {other: engines[other].score(trained, test.columns) for other in HELD}
            scores.append({"seed": seed, "trained": q, "over": over, "cpu_s_per_step": step_s})
            sys.stderr.write(f"{scores[-1]}\n")
    json.dump({"recipe": asked.recipe, "steps": asked.steps, "scores": scores}, sys.stdout)


if __name__ == "__main__":
    main()
