"""Tell how good an adapter is on a labelled file."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.keys import PassphraseFile
from plasmid.cli.output import Format, FormatOption, reply
from plasmid.cli.recipe_options import SetOption, parse_overrides
from plasmid.core.errors import UsageError
from plasmid.core.extras import need
from plasmid.core.files import write_atomic

_ROWS, _MEASURES = ("holdout", "all"), ("scores", "temperature", "gain")

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def evaluate(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder")],
    data: Annotated[
        Path | None, typer.Option("--data", help="A file with the adapter's columns and labels")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Instead: the sites' own rows, through this recipe's data contract")
    ] = None,
    rows: Annotated[
        str, typer.Option(help="With --recipe: holdout (what it keeps from training), or all")
    ] = "holdout",
    measure: Annotated[
        str, typer.Option(help="With --recipe: scores, temperature, or gain (what it is worth to each site)")
    ] = "scores",
    bins: Annotated[int, typer.Option(help="Cells of the score", min=2, max=512)] = 40,
    grid: Annotated[
        str | None,
        typer.Option(help="With gain: the cells' edges, 0 among them; default -0.1 to 0.1 in nine steps"),
    ] = None,
    personal: Annotated[
        str | None, typer.Option(help="With gain: judge each site's own adapter of this run instead")
    ] = None,
    set_: SetOption = None,
    sites: Annotated[Path | None, typer.Option(help="One CSV per site, instead of the recipe's data")] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Differential privacy for one record; with --delta")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Below one in the number of records")] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="A deployed coordinator's URL; default: embedded")
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(help="Deployed: name or digest; default: the only project in which you may launch"),
    ] = None,
    passphrase_file: PassphraseFile = None,
    port: Annotated[int, typer.Option(help="The embedded coordinator's port", min=0, max=65535)] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before running the plan")] = False,
    out: Annotated[Path | None, typer.Option(help="Write what the sites' rows say to this JSON file")] = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Compute the adapter's metric on a labelled file, or on the sites' own rows by a secure sum.

    On the sites' rows this is a run of its own, which sites must admit.
    --rows all is for sites that took no part in training. --measure scores
    gives AUC, accuracy, confusion and calibration error; temperature gives
    the divisor of the logits; gain gives the worth of the adapter to each
    site, always on held-out rows.
    """
    with reply(format, extra="worker") as answer:
        if (data is None) == (recipe is None) or rows not in _ROWS or measure not in _MEASURES:
            raise UsageError(
                "usage.evaluate",
                "an evaluation needs either --data FILE or --recipe R, --rows holdout or all, "
                "and --measure scores, temperature or gain.",
                "For example: plasmid evaluate DIR --recipe phenotype --rows all",
            )
        if (grid or personal) and measure != "gain":
            raise UsageError(
                "usage.evaluate",
                "--grid and --personal go with --measure gain.",
                "Leave them out, or add it.",
            )
        if data is None:
            from plasmid.adapters.files import json_file
            from plasmid.recipes.load import load_recipe

            found = _at_the_sites()(
                adapter,
                load_recipe(str(recipe), overrides=parse_overrides(set_), seed=None),
                sites_dir=sites,
                url=coordinator,
                project=project,
                passphrase_file=passphrase_file,
                port=port,
                answer=answer,
                rows=rows,
                measure=measure,
                bins=bins,
                grid=_edges(grid),
                personal=personal,
                epsilon=epsilon,
                delta=delta,
                yes=yes,
            )
            answer.data["evaluation"] = found
            if out is not None:
                write_atomic(out, json_file(found))
            return
        from plasmid.prediction.evaluation import evaluate_file

        scored = evaluate_file(adapter, data)
        answer.data |= {"metrics": {"metric": scored.metric, "value": scored.value}, "rows": scored.rows}
        for notice in scored.notices:
            answer.note(notice)
        answer.say(f"{scored.metric} {scored.value:.3f} on {scored.rows} rows")


def _edges(grid: str | None) -> tuple[float, ...] | None:
    if grid is None:
        return None
    try:
        return tuple(float(edge) for edge in grid.split(","))
    except ValueError:
        raise UsageError(
            "usage.evaluate", f"{grid[:60]!r} is no grid.", "Give numbers: --grid=-0.05,0,0.05"
        ) from None


def _at_the_sites() -> Any:
    """Return what evaluates an adapter over sites, which is the platform's.

    Raises
    ------
    UsageError
        ``usage.extra_missing``: the platform's packages are not installed.
    """
    need("platform")
    return next(iter(entry_points(group="plasmid.engines", name="evaluation"))).load()
