"""Trace of a site in an honest drop-out between two rounds: ``python -m benchmarks.near_states``.

Without a privacy unit, and with every total verified, a coordinator still has the sum of round r over S and
that of round r + 1 over S without X. Their difference is X's vector of round r, plus what the vectors of the
others changed from one round to the next. For each round and site X of a shipped recipe this prints how far
the two states are apart, as a part of the larger one's norm, and the cosine between that difference and X's
vector. A site refuses the second sum where the states are nearer than
:data:`plasmid.secagg.near_states.NEAR`.

    python -m benchmarks.near_states tcr-covid --seed 0 --set federation.rounds=48
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.methods import Bench, read
from plasmid.bases.store import ensure_model
from plasmid.recipes.load import load_recipe


def cosine(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return the cosine of two vectors; 0 where one has no length."""
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else 0.0


def main() -> None:
    """Print one JSON object a pair of rounds, and one over all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[])
    asked = parser.parse_args()
    settings = dict(part.split("=", 1) for part in asked.set)
    plain = load_recipe(asked.recipe, overrides=settings, seed=asked.seed)
    model = plain.recipe.model
    base = ensure_model(model.base, revision=model.revision, digest=model.digest)
    bench = Bench(plain.recipe, base, *read(plain))
    rounds = ((state.astype(np.float64), sent) for state, sent, _ in bench.rounds(plain.recipe))
    found = []
    for round_, ((state, sent), (after, later)) in enumerate(pairwise(rounds), start=1):
        vectors = {site: vector.astype(np.float64) for site, vector in sent.items()}
        drift = sum(vectors.values()) - sum(vector.astype(np.float64) for vector in later.values())
        told = [cosine(drift + later[site].astype(np.float64), vector) for site, vector in vectors.items()]
        largest = max(np.linalg.norm(state), np.linalg.norm(after))
        line = {
            "round": round_,
            "apart": float(np.linalg.norm(after - state) / largest),
            "median": float(np.median(told)),
            "most": max(told),
        }
        found.append(line)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    over = {"rounds": len(found), "nearest": min(line["apart"] for line in found)}
    over |= {"median": float(np.median([line["median"] for line in found]))}
    over |= {"most": max(line["most"] for line in found)}
    sys.stdout.write(json.dumps(over) + "\n")


if __name__ == "__main__":
    main()
