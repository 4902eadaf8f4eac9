"""What verbs that take a recipe have in common: which one, and what of it is replaced."""

from __future__ import annotations

from typing import Annotated

import typer

from plasmid.core.errors import UsageError

RecipeArgument = Annotated[
    str, typer.Argument(help="A recipe's name, its YAML file, or the folder that holds it")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Replace a value, as often as needed")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Replace the recipe's seed")]


def parse_overrides(options: list[str] | None) -> dict[str, str]:
    """Return ``["a.b=1"]`` as ``{"a.b": "1"}``.

    Raises
    ------
    UsageError
        ``usage.set_malformed``: an option without a path or without "=".
    """
    overrides: dict[str, str] = {}
    for option in options or []:
        path, equals, value = option.partition("=")
        if not equals or not path.strip():
            raise UsageError(
                "usage.set_malformed",
                f"--set {option!r} is not PATH=VALUE.",
                "For example: --set training.lora_lr=1e-4.",
            )
        overrides[path.strip()] = value
    return overrides
