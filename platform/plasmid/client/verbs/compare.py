"""Compare methods, epsilons and seeds of a recipe in a simulation, beside the honest baselines."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.cli.recipe_options import RecipeArgument, SetOption, parse_overrides
from plasmid.core.errors import UsageError
from plasmid.core.files import home, write_atomic

if TYPE_CHECKING:
    from plasmid.experiments.grid import Cell

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def compare(
    recipe: RecipeArgument,
    methods: Annotated[str, typer.Option(help="Separated by commas; default: the recipe's own")] = "",
    epsilons: Annotated[
        str, typer.Option(help="Numbers, or none for no privacy unit; default: the recipe's own")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Separated by commas")] = "0,1,2",
    set_: SetOption = None,
    sites: Annotated[Path | None, typer.Option(help="One CSV per site, instead of the recipe's data")] = None,
    eval_file: Annotated[Path | None, typer.Option("--eval", help="Scored, never trained on")] = None,
    sites_a_round: Annotated[
        int | None, typer.Option(help="So many of the sites take part in a round; default: all", min=3)
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Mask and open every sum: the same sum")] = False,
    baselines: Annotated[
        bool, typer.Option(help="Also each site alone, all data in one place, and a simple model")
    ] = True,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core", min=1)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the tables and pictures; default PLASMID_HOME/compare/NAME")
    ] = None,
    form: FormatOption = Format.text,
) -> None:
    """Run a grid of simulated runs, keep each finished one, and write the table.

    The table has mean, interval, bytes and seconds of methods x epsilons x
    seeds, with each site alone, central training and the simple model. A
    sketch is made wide enough where the recipe does not say how wide. Where a
    site keeps a part of the adapter, everything is scored at the sites on the
    rows that data.holdout keeps from training, and --eval is not read. A
    finished cell is kept in PLASMID_HOME/compare/cells, so that a killed
    comparison continues.

    A simulation is not a run. It trains as the sites would, with their order
    of rows, bounds, rounding and noise, and ends in the same adapter to the
    last bit; only very small sites, which take their steps in one pass, end
    in the same one up to float32 rounding. One party holds all rows: there
    are no gateways, policies, ledgers or signatures, and no masks without
    --masks. Recipes with Python of their own and canary audits are not
    simulated.

    \b
    Examples:
      plasmid compare tcr-covid --methods finetune,ffa_lora,rolora --seeds 0,1,2
      plasmid compare tcr-covid-dp --epsilons none,8,3 --seeds 0,1
    """
    with reply(form) as answer:
        from plasmid.client.launch import check_tables
        from plasmid.client.progress import RunProgress
        from plasmid.experiments.comparison import compared
        from plasmid.experiments.grid import Finished, grid
        from plasmid.recipes.load import load_recipe
        from plasmid.recipes.sites import materialise_eval, materialise_sites
        from plasmid.simulation.run import check_simulated, judged_at_sites

        overrides = parse_overrides(set_)
        resolved = load_recipe(recipe, overrides=overrides)
        name = resolved.recipe.name
        numbers = [int(_number("--seeds", part)) for part in _parts("--seeds", seeds)]
        work = home() / "data" / name
        tables = materialise_sites(resolved, work, sites)
        cells = grid(
            recipe,
            overrides,
            methods=_parts("--methods", methods) if methods else (),
            epsilons=[_epsilon(part) for part in _parts("--epsilons", epsilons)] if epsilons else (),
            seeds=numbers,
            sites=min(sites_a_round or len(tables), len(tables)),
        )
        for cell in cells:  # first: what cannot be simulated needs no test, either
            check_simulated(cell.resolved)
        personal = list(dict.fromkeys(cell.method for cell in cells if judged_at_sites(cell.resolved)))
        test = None if personal else materialise_eval(resolved, work, eval_file)
        if personal:
            _check_holdout(cells, personal)
            if eval_file is not None:
                answer.note("--eval is not read: what sites keep for themselves is judged on their own rows")
        elif test is None:
            raise UsageError(
                "usage.compare", "there is no data to judge by that nobody trains on.", "Give --eval FILE."
            )
        check_tables(tables | ({"evaluation": test} if test else {}), resolved.document, answer)
        plain_cells = grid(recipe, overrides, methods=(), epsilons=(), seeds=numbers, sites=len(tables))
        with RunProgress() as progress:
            found = compared(
                cells,
                tables,
                test,
                Finished(home() / "compare" / "cells"),
                sites_a_round=sites_a_round,
                masked=masks,
                workers=workers,
                baselines=plain_cells if baselines else (),
                note=progress.note,
            )
        folder = out or home() / "compare" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "compare.md", found.markdown().encode())
        write_atomic(folder / "compare.json", json.dumps(found.as_json(), indent=1).encode())
        answer.data |= found.as_json() | {"folder": str(folder), "pictures": []}
        try:
            from plasmid.experiments.chart import draw

            answer.data["pictures"] = [str(path) for path in draw(found, folder)]
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("matplotlib"):
                raise
            answer.note("no picture: matplotlib is not installed (pip install 'plasmid[plots]')")
        answer.say(
            *(plain(line) for line in found.markdown().splitlines()),
            "",
            plain(f"In {folder}; {found.computed} computed, {found.kept} kept."),
        )


def _check_holdout(cells: Sequence[Cell], personal: Sequence[str]) -> None:
    """Raise UsageError (``usage.compare``) where there are no rows to judge *personal* methods by."""
    if any(cell.resolved.recipe.data.holdout is None for cell in cells):
        raise UsageError(
            "usage.compare",
            f"by {', '.join(personal)} each site keeps a part of the adapter for itself, so everything is "
            "judged at the sites, on rows that they do not train on; the recipe holds none out.",
            "For example: --set 'data.holdout={by: record, share: 0.2}'.",
        )


def _parts(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(set(parts)) < len(parts):
        raise UsageError(
            "usage.compare", f"{option} {text!r} has an empty part, or one twice.", "Separate by commas."
        )
    return parts


def _number(option: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or found < 0 or (option == "--seeds" and found != int(found)):
        raise UsageError(
            "usage.compare", f"{option}: {text!r} is no number that can be used.", "For example: 0,1,2."
        )
    return found


def _epsilon(text: str) -> float | None:
    return None if text == "none" else _number("--epsilons", text)
