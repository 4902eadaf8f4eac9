"""A recipe's folder, copied to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

from plasmid.core.errors import UsageError
from plasmid.core.files import folder_atomic, storage_error
from plasmid.recipes.load import find_recipe


def copy(name_or_path: str | Path, target: Path) -> Path:
    """Copy the folder of the recipe that *name_or_path* names to *target*, which it makes, and return that.

    The recipe itself becomes ``recipe.yaml``; other recipes beside it stay behind.

    Raises
    ------
    RecipeError
        ``recipe.unknown``.
    UsageError
        ``usage.exists``: there is something at *target*, or it lies within what is copied.
    StorageError
        It cannot be written; nothing half-written stays.
    """
    path = find_recipe(name_or_path)
    source = path.parent.resolve()
    if target.exists() or target.resolve().is_relative_to(source):
        raise UsageError(
            "usage.exists", f"{target} is there already, or within the recipe.", "Name another folder."
        )
    try:
        with folder_atomic(target) as partial:
            for found in sorted(source.iterdir()):
                if found.is_dir():
                    if found.name != "__pycache__":
                        shutil.copytree(found, partial / found.name)
                elif found.suffix not in (".yaml", ".yml"):
                    shutil.copyfile(found, partial / found.name)
            shutil.copyfile(path, partial / "recipe.yaml")
    except OSError as error:
        raise storage_error(error, target) from error
    return target
