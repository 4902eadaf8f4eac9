"""The folder of a recipe as a Flower app."""

from __future__ import annotations

import json
import re
from pathlib import Path

from plasmid.core.errors import UsageError
from plasmid.core.files import folder_atomic, write_atomic
from plasmid.recipes.schema import Recipe
from plasmid.strategies.exported import exportable


def write_app(recipe: Recipe, target: Path) -> Path:
    """Write *recipe* as a Flower app to the folder *target*, which it makes, and return that.

    Raises
    ------
    RecipeError
        ``recipe.export``, see :func:`plasmid.strategies.exported.exportable`.
    UsageError
        ``usage.exists``: there is something at *target*.
    StorageError
        It cannot be written; nothing half-written stays.
    """
    exportable(recipe)
    if target.exists():
        raise UsageError("usage.exists", f"{target} is there already.", "Name another folder with --to.")
    package = "app_" + re.sub(r"[^a-z0-9]", "_", recipe.name)
    words = {
        "PACKAGE": package,
        "TITLE": re.sub(r'["\\]', "'", recipe.title),
        "NAME": recipe.name,
        "SITES": str(recipe.federation.min_sites),
    }
    with folder_atomic(target) as partial:
        (partial / package).mkdir()
        write_atomic(partial / package / "__init__.py", b"")
        document = json.dumps(recipe.model_dump(mode="json"), indent=1, sort_keys=True)
        write_atomic(partial / package / "recipe.json", document.encode())
        for source in sorted(Path(__file__).with_name("export_app").glob("*.txt")):
            text = source.read_text(encoding="utf-8")
            for word, value in words.items():
                text = text.replace(word, value)
            place = partial / package if source.name.startswith("app.py") else partial
            write_atomic(place / source.name.removesuffix(".txt"), text.encode())
    return target
