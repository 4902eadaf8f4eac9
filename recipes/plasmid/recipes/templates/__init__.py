"""Folders to begin a recipe with Python from: one for each half. They run as they are."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from plasmid.core.errors import UsageError
from plasmid.core.files import folder_atomic, write_atomic
from plasmid.recipes.source import FOLDER

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Half(StrEnum):
    """What a bundle computes; see :mod:`plasmid.recipes.python`."""

    per_record = "per_record"
    vector = "vector"
    loss = "loss"


def write(name: str, half: Half, target: Path) -> Path:
    """Make the folder *target/name* of a recipe called *name* and return it.

    Raises
    ------
    UsageError
        ``usage.name``: no recipe can have that name; ``usage.exists``: there is something already.
    StorageError
        It cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "usage.name",
            f"{name[:80]!r} cannot be a recipe's name.",
            "Use lower-case letters, digits, - and _.",
        )
    folder = target / name
    if folder.exists():
        raise UsageError("usage.exists", f"{folder} is there already.", "Choose another name, or --to DIR.")
    source = Path(__file__).with_name(half.value)
    with folder_atomic(folder) as partial:
        (partial / FOLDER).mkdir()
        for path in sorted(source.iterdir()):
            text = path.read_text(encoding="utf-8").replace("NAME", name)
            place = partial if path.name == "recipe.yaml" else partial / FOLDER
            write_atomic(place / path.name.removesuffix(".txt"), text.encode())
    return folder
