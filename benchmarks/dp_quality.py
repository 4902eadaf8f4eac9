"""Cost of differential privacy in quality, by epsilon and over seeds: ``python -m benchmarks.dp_quality``.

Trains the shipped recipes that have a privacy unit, in this process and without a network, but with the
node's own engine, sampling terms and output contract, the ring's rounding, and the computation's and the
server's own steps. Prints a Markdown table a recipe and writes a JSON file a run into the folder ``--out``;
a run whose file is there is not repeated.

    python -m benchmarks.dp_quality --out DIR --alone --plain --simple --audit 200  # as docs/results.md
    python -m benchmarks.dp_quality tcr-covid-dp --out DIR --epsilon 8 1    # a part of them
    python -m benchmarks.dp_quality tcr-covid-dp --out DIR --held-out 0 --set training.head_lr=0.01 --tag slow

Epsilon ``inf`` keeps sampling and clip and leaves the noise out; ``--plain`` adds the recipe of the same
folder without a unit, at its own schedule. ``--alone`` trains each site by itself, too, with the same
settings and epsilon. ``--audit N`` trains once more per epsilon, at the first seed, with N canaries a site,
and adds the verdict of :mod:`plasmid.dp.canary_audit`. ``--held-out K`` never opens the test: it trains
without the K-th site (where sites are people) or without a fifth of each site's units, and scores on those.
Settings were chosen there.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import Vector
from plasmid.bases.store import ensure_model
from plasmid.computations import finetune
from plasmid.computations.api import Shape, Sum
from plasmid.data.table import Table, concatenate
from plasmid.data.views.reading import read_table
from plasmid.dp.canary_audit import Audit
from plasmid.dp.noise import skellam
from plasmid.experiments.simple import simple_scores
from plasmid.gateway.output import bounded
from plasmid.gateway.site_parameters import sampling, unit_terms
from plasmid.planner.attempts import attempt_plan
from plasmid.protocol.messages import Planned
from plasmid.recipes import catalogue
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.recipes.sites import materialise_eval, materialise_sites
from plasmid.secagg.ring import TAIL, Encoding, add_noise, decode_sum, encode, plan_encoding
from plasmid.strategies.server import optimiser_of
from plasmid.worker.canaries import Canaries
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine

EPSILONS = (math.inf, 8.0, 3.0, 1.0)
SEEDS = (0, 1, 2)
ROUNDS = {3.0: "40", 1.0: "20"}
"""More noise, fewer steps: instead of the recipe's rounds at that epsilon. Chosen on held-out data, too."""
ROUND_SIZE_TO = 50
"""The owner's public size is the number of units, rounded to a multiple of this."""
HELD_OUT = 0.2


@dataclass
class Bench:
    """One recipe's tables and engines, which serve all its runs."""

    name: str
    settings: dict[str, str]
    tables: dict[str, Table]
    test: Table
    engines: dict[str, Engine]
    base: Any

    @classmethod
    def open(cls, name: str, settings: dict[str, str], held_out: int | None, folder: Path) -> Bench:
        """Read the tables of recipe *name* and make an engine for each site."""
        resolved = load_recipe(name, overrides=settings)
        recipe, model = resolved.recipe, resolved.recipe.model
        sites = materialise_sites(resolved, folder)
        tables = {site: read_table(path, recipe.contract) for site, path in sites.items()}
        if held_out is None:
            path = materialise_eval(resolved, folder)
            assert path is not None
            test = read_table(path, recipe.contract)
        else:
            tables, test = without(recipe, tables, held_out)
        base = ensure_model(model.base, revision=model.revision, digest=model.digest)
        engines = {site: Engine(recipe, base, table) for site, table in tables.items()}
        return cls(name, settings, tables, test, engines, base)

    def resolved(self, epsilon: float, seed: int) -> ResolvedRecipe:
        """Return the recipe at *epsilon*; at ``inf`` it is as shipped, and noise is left out elsewhere."""
        settings: dict[str, str] = {}
        if math.isfinite(epsilon):
            settings["privacy.epsilon"] = str(epsilon)
        if epsilon in ROUNDS:
            settings["federation.rounds"] = ROUNDS[epsilon]
        return load_recipe(self.name, overrides=settings | self.settings, seed=seed)

    def terms(self, recipe: Recipe, site: str, epsilon: float) -> UnitSampling | None:
        """Return what the site's gateway tells its worker about units, as it would."""
        if recipe.privacy.unit == "none":
            return None
        count = units(recipe, self.tables[site])
        size = max(ROUND_SIZE_TO, ROUND_SIZE_TO * round(count / ROUND_SIZE_TO))
        told = sampling(recipe, unit_terms(recipe, size))
        assert told is not None
        if math.isinf(epsilon):
            told["noise_multiplier"] = 0.0
        return UnitSampling(**told)

    def trained(self, recipe: Recipe, sites: Sequence[str], epsilon: float) -> NDArray[Any]:
        """Return the state after all rounds of *sites*."""
        shape = finetune.shape(recipe, self.base)
        optimiser = optimiser_of(recipe, shape.state)
        terms = {site: self.terms(recipe, site, epsilon) for site in sites}
        encoding = self.encoding(recipe, shape, terms)
        state = finetune.initial(recipe, shape)
        for round_ in range(1, recipe.rounds + 1):
            total = np.zeros(encoding.length + TAIL, encoding.dtype)
            for number, site in enumerate(sites):
                vector = self.vector(recipe, site, state, terms[site], round_, number)
                vector, _ = bounded(vector, shape, noised=recipe.privacy.mechanism == "dp-sgd")
                words = encode(vector, encoding)
                if recipe.privacy.shares_noise and math.isfinite(epsilon):
                    add_noise(words, skellam(encoding.length, encoding.noise_variance), encoding)
                total += words
            summed = decode_sum(total, encoding, len(sites))
            averaged = finetune.advance(recipe, shape, state, Sum(summed, len(sites), round_))
            state = optimiser.step(round_, state, averaged)
        return state

    def audited(self, epsilon: float, seed: int, canaries: int) -> dict[str, Any]:
        """Return the canary audit of one run; without noise it is held against the recipe's own epsilon."""
        recipe = self.resolved(epsilon, seed).recipe
        planted = {site: Canaries(recipe, table, canaries) for site, table in self.tables.items()}
        engines = {site: Engine(recipe, self.base, hidden.table) for site, hidden in planted.items()}
        first = finetune.initial(recipe, finetune.shape(recipe, self.base))
        last = replace(self, engines=engines).trained(recipe, list(engines), epsilon)
        total = np.zeros(2)
        for site, hidden in planted.items():
            columns = hidden.rows.columns
            fell = engines[site].losses(first, columns) - engines[site].losses(last, columns)
            total += hidden.guess(fell)
        privacy = recipe.privacy
        assert privacy.epsilon is not None
        assert privacy.delta is not None
        return Audit.of_sum(
            total, sites=len(planted), canaries=canaries, epsilon=privacy.epsilon, delta=privacy.delta
        ).as_json()

    def encoding(self, recipe: Recipe, shape: Shape, terms: Mapping[str, UnitSampling | None]) -> Encoding:
        """Return how the sites' vectors are written; each site is an organisation of its own."""
        rate = max(said.rate if said else 0.0 for said in terms.values())
        c = recipe.federation.colluding_organisations
        planned = Planned(sites=len(terms), c=c, noise_rate=rate)
        if len(terms) == 1:  # a site alone masks nothing
            return plan_encoding(length=shape.schema.size, bound=shape.bound, sites=1, bits=shape.bits)
        return attempt_plan(recipe, shape, sites=len(terms), c=c, planned=planned).encoding

    def vector(
        self, recipe: Recipe, site: str, state: Vector, terms: UnitSampling | None, round_: int, number: int
    ) -> Vector:
        """Return what the worker of *site*, the *number*-th, makes of *state* in a round."""
        engine = self.engines[site]
        if recipe.privacy.mechanism == "dp-fedsgd":
            assert terms is not None
            return engine.gradient_sum(state, sampling=terms)
        seed = round_ * 101 + number + recipe.seed * 1_000_003
        steps = recipe.training.steps_in(round_)
        pace = [recipe.training.factor(round_, recipe.rounds)] * steps
        return engine.train(state, steps=steps, seed=seed, sampling=terms, pace=pace) - state

    def scored(self, recipe: Recipe, state: NDArray[Any]) -> float:
        """Return the metric of *state* on the test; one engine keeps it encoded."""
        engine = next(iter(self.engines.values()))
        return engine.score(state, self.test.columns)

    def run(self, epsilon: float, seed: int, *, alone: bool) -> dict[str, Any]:
        """Return all figures of one run."""
        started = time.process_time()
        resolved = self.resolved(epsilon, seed)
        recipe = resolved.recipe
        every = list(self.engines)
        terms = {site: self.terms(recipe, site, epsilon) for site in every}
        result: dict[str, Any] = {
            "recipe": self.name,
            "digest": resolved.digest,
            "settings": dict(self.settings),
            "epsilon": str(epsilon),
            "delta": recipe.privacy.delta,
            "mechanism": recipe.privacy.mechanism,
            "rounds": recipe.rounds,
            "seed": seed,
            "metric": recipe.task.metric,
            "parameters": finetune.shape(recipe, self.base).schema.size,
            "sites": {
                site: {"units": units(recipe, self.tables[site])}
                | ({} if said is None else {"rate": said.rate, "noise_multiplier": said.noise_multiplier})
                for site, said in terms.items()
            },
            "federated": self.scored(recipe, self.trained(recipe, every, epsilon)),
        }
        if alone and not recipe.privacy.shares_noise:
            result["alone"] = {
                site: self.scored(recipe, self.trained(recipe, [site], epsilon)) for site in every
            }
        return result | {"cpu_s": round(time.process_time() - started, 1)}


def units(recipe: Recipe, table: Table) -> int:
    """Return how many units *table* holds."""
    patient = recipe.data.patient
    return len(table.groups(patient)) if recipe.privacy.unit == "patient" and patient else table.rows


def without(recipe: Recipe, tables: Mapping[str, Table], fold: int) -> tuple[dict[str, Table], Table]:
    """Return the training tables without a part of them, and that part."""
    if recipe.data.split is not None and recipe.data.split.kind == "files" and recipe.data.patient is None:
        left_out = list(tables)[fold]
        return {site: table for site, table in tables.items() if site != left_out}, tables[left_out]
    kept: dict[str, Table] = {}
    held: list[Table] = []
    for site, table in tables.items():
        patient = recipe.data.patient
        groups = table.groups(patient) if patient else [[row] for row in range(table.rows)]
        order = np.random.RandomState(100 + fold).permutation(len(groups))
        cut = round(HELD_OUT * len(groups))
        held.append(table.subset(row for unit in order[:cut] for row in groups[unit]))
        kept[site] = table.subset(row for unit in order[cut:] for row in groups[unit])
    return kept, concatenate(held)


def private() -> list[str]:
    """Return the names of the shipped recipes with a privacy unit that fine-tune a model."""
    found = {name: load_recipe(name).parsed for name in catalogue.ls()}
    return [name for name, one in found.items() if isinstance(one, Recipe) and one.privacy.unit != "none"]


def described(values: Sequence[float]) -> str:
    """Return mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def table(runs: Sequence[dict[str, Any]], epsilons: Sequence[float]) -> str:
    """Return the Markdown table of one recipe's *runs*."""
    lines = [
        "| epsilon | noise multiplier | federated | best site alone | mean site alone | canary audit |",
        "|---|---|---|---|---|---|",
    ]
    for epsilon in epsilons:
        chosen = [run for run in runs if run["epsilon"] == str(epsilon)]
        if not chosen:
            continue
        noise = [site.get("noise_multiplier", 0.0) for site in chosen[0]["sites"].values()]
        alone = [list(run["alone"].values()) for run in chosen if "alone" in run]
        cells = [
            f"{epsilon:g}",
            f"{min(noise):.2f} to {max(noise):.2f}",
            described([run["federated"] for run in chosen]),
            described([max(values) for values in alone]) if alone else "",
            described([statistics.mean(values) for values in alone]) if alone else "",
            next((run["audit"]["sentence"] for run in chosen if "audit" in run), ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(
    name: str,
    options: argparse.Namespace,
    epsilons: Sequence[float],
    settings: dict[str, str],
    folder: Path,
) -> list[dict[str, Any]]:
    """Return all runs of recipe *name*, from their files where they are there."""
    bench: Bench | None = None
    runs = []
    for epsilon in epsilons:
        for seed in options.seeds:
            path = options.out / f"{name}{options.tag and '-'}{options.tag}-eps{epsilon:g}-seed{seed}.json"
            if path.is_file():
                runs.append(json.loads(path.read_text(encoding="utf-8")))
                continue
            bench = bench or Bench.open(name, settings, options.held_out, folder)
            runs.append(bench.run(epsilon, seed, alone=options.alone))
            if options.audit and seed == options.seeds[0] and runs[-1]["delta"] is not None:
                runs[-1]["audit"] = bench.audited(epsilon, seed, options.audit)
            path.write_text(json.dumps(runs[-1], indent=1) + "\n", encoding="utf-8")
            sys.stderr.write(f"{path.name}: {runs[-1]['federated']:.4f}, {runs[-1]['cpu_s']} s of CPU\n")
            sys.stderr.flush()
    if options.simple:
        bench = bench or Bench.open(name, settings, options.held_out, folder)
        recipe = load_recipe(name, overrides=settings).recipe
        sys.stderr.write(f"simple model without privacy: {simple_scores(recipe, bench.tables, bench.test)}\n")
    return runs


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="*", help="by default every shipped recipe with a unit")
    parser.add_argument("--out", type=Path, required=True, help="folder of the raw JSON")
    parser.add_argument("--epsilon", type=float, nargs="+", default=list(EPSILONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--alone", action="store_true", help="each site by itself, too")
    parser.add_argument("--audit", type=int, help="canaries at each site, in a run of their own")
    parser.add_argument("--plain", action="store_true", help="the recipe without a unit, too")
    parser.add_argument("--simple", action="store_true", help="the classical model, without privacy")
    parser.add_argument(
        "--held-out", type=int, help="score on this fold of the training data, not on the test"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--tag", default="", help="part of the files' names, for settings tried")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = dict(part.split("=", 1) for part in options.set)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in options.recipes or private():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(name, options, options.epsilon, settings, Path(folder))
            sys.stderr.write(f"\n{name}\n\n{table(found[name], options.epsilon)}\n\n")
        plain = catalogue.get(name).parent.name
        if options.plain and plain != name:
            with tempfile.TemporaryDirectory() as folder:
                found[plain] = measured(plain, options, [math.inf], {}, Path(folder))
                sys.stderr.write(f"\n{plain}, no privacy unit\n\n{table(found[plain], [math.inf])}\n\n")
        sys.stderr.flush()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
