"""Folders to begin from: a recipe with Python of each half, a method with its recipe. All run as they are.

Rules
-----
1. NAME in a file is the name that is asked for, MODULE the same as Python has it.
2. A recipe's own Python goes into its bundle; a method is a package to install.
"""

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
    flower = "flower"


METHOD = "method"


def write(name: str, half: Half | None, target: Path) -> Path:
    """Make the folder *target/name* of a recipe called *name* and return it; None as *half* is a method.

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
    source = Path(__file__).with_name(METHOD if half is None else half.value)
    module = re.sub(r"^(?=\d)", "m", name.replace("-", "_"))
    with folder_atomic(folder) as partial:
        python = partial if half is None else partial / FOLDER
        python.mkdir(exist_ok=True)
        for path in sorted(source.iterdir()):
            text = path.read_text(encoding="utf-8").replace("NAME", name).replace("MODULE", module)
            place = partial if path.name == "recipe.yaml" else python
            write_atomic(place / path.name.removesuffix(".txt").replace("MODULE", module), text.encode())
    return folder
