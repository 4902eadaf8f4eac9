"""The shipped recipes: what lies in the folders of ``catalogue/``. Nothing lists them.

A folder's ``recipe.yaml`` is the recipe of the folder's name. Any other ``NAME.yaml`` beside it is the recipe
NAME over the same data: other settings, such as a privacy unit.
"""

from __future__ import annotations

from pathlib import Path

from plasmid.core.errors import RecipeError

ROOT = Path(__file__).with_name("catalogue")


def ls() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(_files())


def get(name: str) -> Path:
    """Return the YAML file of the shipped recipe *name*.

    Raises
    ------
    RecipeError
        ``recipe.unknown``: there is none of this name.
    """
    files = _files()
    if name not in files:
        raise RecipeError(
            "recipe.unknown",
            f"there is no shipped recipe {name[:200]!r}.",
            f"Shipped: {', '.join(sorted(files))}.",
        )
    return files[name]


def _files() -> dict[str, Path]:
    return {
        path.parent.name if path.name == "recipe.yaml" else path.stem: path for path in ROOT.glob("*/*.yaml")
    }
