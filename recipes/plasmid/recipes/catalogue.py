"""The shipped recipes: every folder of ``catalogue/`` that holds a ``recipe.yaml``. Nothing lists them."""

from __future__ import annotations

from pathlib import Path

from plasmid.core.errors import RecipeError

ROOT = Path(__file__).with_name("catalogue")


def ls() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.parent.name for path in ROOT.glob("*/recipe.yaml"))


def get(name: str) -> Path:
    """Return the ``recipe.yaml`` of the shipped recipe *name*.

    Raises
    ------
    RecipeError
        ``recipe.unknown``: there is none of this name.
    """
    if name not in ls():
        raise RecipeError(
            "recipe.unknown", f"there is no shipped recipe {name[:200]!r}.", f"Shipped: {', '.join(ls())}."
        )
    return ROOT / name / "recipe.yaml"
