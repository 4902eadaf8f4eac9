"""Federated, local and central quality of the shipped recipes: ``python -m benchmarks.quality``, three seeds.

Runs ``plasmid run`` as a user would, once per recipe and seed, and prints one Markdown table per recipe and,
last, one JSON object. The seed moves the adapter's start and every batch; sites and test stay the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

RECIPES = ("tcr-covid", "phenotype")
SEEDS = (0, 1, 2)


def run(recipe: str, seed: int) -> dict[str, Any]:
    """Return the ``data`` object of one run."""
    command = ["run", recipe, "--seed", str(seed), "--yes", "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "plasmid.cli.main", *command], stdout=subprocess.PIPE, text=True, check=True
    )
    data: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["data"]
    return data


def rows(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one run by name."""
    local = metrics["local"].values()
    return {
        "simple model, best single site": metrics["simple"]["local"],
        "simple model, pooled": metrics["simple"]["central"],
        "mean single site": statistics.mean(local),
        "best single site": max(local),
        "federated": metrics["federated"],
        "central": metrics["central"],
    }


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    found: dict[str, list[dict[str, Any]]] = {}
    for recipe in parser.parse_args().recipes:
        found[recipe] = [run(recipe, seed) for seed in SEEDS]
        by_seed = [rows(data["metrics"]) for data in found[recipe]]
        sys.stderr.write(f"\n{recipe}\n\n| model | seeds {SEEDS} | mean |\n|---|---|---|\n")
        for name in by_seed[0]:
            values = [figures[name] for figures in by_seed]
            shown = ", ".join(f"{value:.3f}" for value in values)
            sys.stderr.write(f"| {name} | {shown} | {statistics.mean(values):.3f} |\n")
        sys.stderr.flush()
    sys.stdout.write(
        json.dumps({recipe: [run["metrics"] for run in runs] for recipe, runs in found.items()}) + "\n"
    )


if __name__ == "__main__":
    main()
