"""The cells of a comparison: which documents they are, and by what a finished one is known.

Rules
-----
1. A cell is one method, one epsilon and one seed of a recipe, resolved like any recipe: what its schema
   refuses is refused, all problems at once, before anything is computed.
2. A finished cell is a file named by a digest of everything that decides it: the recipe's own digest (the
   computation's sources are in it), the rows of every site and of the test, how it was simulated, the sources
   of what trains, rounds and sums, and the versions of the libraries below. Change one, and it runs anew.
3. ``none`` takes the privacy unit out of a recipe that has one, and leaves the rest as it is. A number needs
   a recipe with a unit: mechanism, delta and clip cannot be guessed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from plasmid.core.canonical import digest_json, sha256_hex
from plasmid.core.errors import PlasmidError, UsageError
from plasmid.core.files import write_atomic
from plasmid.recipes.load import ResolvedRecipe, load_recipe

CODE = (
    "adapters", "bases", "coordinator/rounds.py", "data", "dp", "encoders", "experiments/baselines.py",
    "experiments/baseline_child.py", "experiments/simple.py", "gateway/output.py",
    "gateway/site_parameters.py", "language", "lora", "planner", "protocol", "secagg", "simulation",
    "strategies", "tasks", "worker",
)  # fmt: skip
"""Of the package ``plasmid``: what decides a cell's figures, with the recipe."""
LIBRARIES = ("torch", "transformers", "numpy", "flwr", "scikit-learn")
_WITHOUT_UNIT = {
    "privacy.unit": "none",
    **dict.fromkeys(("privacy.mechanism", "privacy.epsilon", "privacy.delta", "privacy.record_clip"), "null"),
    "privacy.rotation": "none",
}


@dataclass(frozen=True)
class Cell:
    """One document of the grid. ``epsilon`` is None without a privacy unit."""

    method: str
    epsilon: float | None
    seed: int
    resolved: ResolvedRecipe

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method}, epsilon {told(self.epsilon)}, seed {self.seed}"


def told(epsilon: float | None) -> str:
    """Return ``none``, or the number."""
    return "none" if epsilon is None else f"{epsilon:g}"


def grid(
    recipe: str,
    overrides: Mapping[str, str],
    *,
    methods: Sequence[str],
    epsilons: Sequence[float | None],
    seeds: Sequence[int],
    sites: int,
) -> list[Cell]:
    """Return the cells of *recipe*, by method, epsilon and seed, in the order given.

    Parameters
    ----------
    methods, epsilons
        Empty: the recipe's own.
    sites
        How many take part in a round: the sketch is made wide enough for them, if nobody says how wide.

    Raises
    ------
    UsageError
        ``usage.compare``: an epsilon for a recipe without a privacy unit, or one or more documents of the
        grid that their schema refuses.
    """
    plain = load_recipe(recipe, overrides=dict(overrides))
    unit = plain.recipe.privacy.unit
    if unit == "none" and any(epsilon is not None for epsilon in epsilons):
        raise UsageError(
            "usage.compare",
            f"the recipe {plain.parsed.name} has no privacy unit, so it has no epsilon to set.",
            "Name a recipe that has one (tcr-covid-dp, for example); --epsilons none,8 leaves it out in one.",
        )
    found, problems = [], []
    for method in methods or [plain.recipe.computation]:
        for epsilon in epsilons or [plain.recipe.privacy.epsilon]:
            for seed in seeds:
                own = _settings(plain, method, epsilon, overrides, sites)
                try:
                    resolved = load_recipe(recipe, overrides=own, seed=seed)
                except PlasmidError as error:
                    problems.append(f"{method}, epsilon {told(epsilon)}: {error.message}")
                    break
                found.append(Cell(method, epsilon, seed, resolved))
    if problems:
        raise UsageError("usage.compare", "\n".join(problems), "Leave those out, or change what is --set.")
    return found


def _settings(
    plain: ResolvedRecipe, method: str, epsilon: float | None, overrides: Mapping[str, str], sites: int
) -> dict[str, str]:
    adapter, unit = plain.recipe.adapter, plain.recipe.privacy.unit
    own = {**overrides, "computation": method}
    if method == "sketch" and adapter.sketch_width is None:
        own["adapter.sketch_width"] = str(sites * adapter.lora.rank)
    elif method != "sketch" and adapter.sketch_width is not None:
        own["adapter.sketch_width"] = "null"
    if epsilon is None and unit != "none":
        own |= _WITHOUT_UNIT
    elif epsilon is not None:
        own["privacy.epsilon"] = repr(epsilon)
    return own


@cache
def code_digest() -> str:
    """Return the digest of :data:`CODE` and of the versions of :data:`LIBRARIES`."""
    spec = importlib.util.find_spec("plasmid")
    assert spec is not None, "it runs"
    sources: dict[str, str] = {}
    for root in spec.submodule_search_locations or ():
        for part in CODE:
            path = Path(root) / part
            files = [path] if path.is_file() else sorted(path.rglob("*.py"))
            sources |= {
                file.relative_to(root).as_posix(): sha256_hex(file.read_bytes())
                for file in files
                if file.exists()
            }
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return digest_json({"sources": sources, "versions": versions})


def data_digest(tables: Mapping[str, Path], test: Path | None) -> str:
    """Return the digest of the files of all sites and of the test."""

    def hashed(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return digest_json(
        {
            "sites": {site: hashed(path) for site, path in tables.items()},
            "test": None if test is None else hashed(test),
        }
    )


class Finished:
    """The finished cells in a folder, one JSON file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, kind: str, recipe: str, **decides: Any) -> str:
        """Return the name of what the recipe of that digest comes to, with all that *decides* it."""
        return digest_json({"kind": kind, "recipe": recipe, "code": code_digest(), **decides})

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept under *key*; None where nothing sound was."""
        try:
            found = json.loads((self._folder / f"{key}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("key") == key else None

    def put(self, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Keep *value* under *key*, whole or not at all. Raises StorageError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = {"key": key, **value}
        write_atomic(self._folder / f"{key}.json", json.dumps(kept, allow_nan=False).encode())
        return kept
