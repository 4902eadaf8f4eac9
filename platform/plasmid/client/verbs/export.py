"""Write a recipe as an app of another framework."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plasmid.cli.output import Format, FormatOption, reply
from plasmid.cli.recipe_options import RecipeArgument, SeedOption, SetOption, parse_overrides
from plasmid.recipes.load import load_recipe

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.callback()
def group() -> None:
    """Write a recipe as an app of another framework."""


@app.command()
def flower(
    recipe: RecipeArgument,
    to: Annotated[Path | None, typer.Option("--to", help="The folder to make (default NAME-flower)")] = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    form: FormatOption = Format.text,
) -> None:
    """Write a recipe as a Flower app: for a SuperLink, without Plasmid's gateways and masks."""
    with reply(form) as answer:
        resolved = load_recipe(recipe, overrides=parse_overrides(overrides), seed=seed)
        from plasmid.strategies.exporting import write_app

        folder = write_app(resolved.recipe, to or Path(f"{resolved.recipe.name}-flower"))
        answer.data |= {"name": resolved.recipe.name, "path": str(folder)}
        answer.say(
            f"{folder}: a Flower app; README.md in it has the commands",
            "[bold]In Flower the SuperLink sees each site's update[/bold]: no gateway, no masks, no ledger.",
        )
