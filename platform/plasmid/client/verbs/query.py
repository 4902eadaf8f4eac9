"""Ask a question over all sites' rows: a mean, a table of counts, or what a round costs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.keys import PassphraseFile
from plasmid.cli.output import Format, FormatOption, reply
from plasmid.client.verbs.run import ProjectOption
from plasmid.core.errors import UsageError
from plasmid.core.files import home

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def mean(
    column: Annotated[str, typer.Option(help="A number column")],
    recipe: Annotated[str | None, typer.Option(help="Take bounds, sites and limits from this recipe")] = None,
    sites: Annotated[Path | None, typer.Option(help="One CSV per site")] = None,
    bounds: Annotated[str | None, typer.Option(help="LO,HI: the column's public range")] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Differential privacy for one record; with --delta")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Below one in the number of records")] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="A deployed coordinator's URL; default: embedded")
    ] = None,
    project: ProjectOption = None,
    passphrase_file: PassphraseFile = None,
    port: Annotated[int, typer.Option(help="The embedded coordinator's port", min=0, max=65535)] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before running the plan")] = False,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Mean, variance and count of one column over all sites, from a secure sum.

    The variance is that of the population. Empty cells are skipped; a cell
    outside the bounds makes a site refuse. A query has a digest, which a
    site's policy must name; the plan prints it. The document's name is
    mean-RECIPE, or mean with --bounds.

    \b
    Examples:
      plasmid query mean --column age --recipe tcr-covid --yes
      plasmid query mean --column age --sites donors --bounds 0,120
    """
    with reply(format) as answer:
        from plasmid.client.launch import check_project, check_tables, federation, plan_and_run
        from plasmid.recipes.load import load_recipe
        from plasmid.recipes.query import mean_from_bounds, mean_from_recipe, noised
        from plasmid.recipes.sites import materialise_sites, sites_in_folder

        if (recipe is None) == (bounds is None) or (bounds and not (sites or coordinator)):
            raise UsageError(
                "usage.query",
                "a query needs either --recipe R, or --sites DIR with --bounds LO,HI.",
                "For example: plasmid query mean --column age --recipe tcr-covid",
            )
        check_project(coordinator, project)
        document: Any
        privacy = noised(epsilon, delta)
        if recipe is not None:
            resolved = load_recipe(recipe, overrides={}, seed=None)
            document = mean_from_recipe(resolved.over_table, column, privacy=privacy)
            work = home() / "data" / resolved.parsed.name
            tables = {} if coordinator else materialise_sites(resolved, work, sites)
        else:
            document = mean_from_bounds(column, _bounds(str(bounds)), privacy=privacy)
            minimum = document.federation.min_sites
            tables = {} if coordinator or sites is None else sites_in_folder(sites, minimum=minimum)
        resolved_document = document.model_dump(mode="json")
        check_tables(tables, resolved_document, answer)
        with federation(
            coordinator, tables, sites_dir=sites, port=port, answer=answer, passphrase_file=passphrase_file
        ) as (at, embedded):
            done = plan_and_run(
                at, embedded, resolved_document, invited=None, project=project, yes=yes, answer=answer
            )
            result = done.result()["answer"]
        answer.data["result"] = result
        answer.data["privacy"] = done.privacy()
        if result["mean"] is None:
            answer.say(f"No site holds a value of {column}, or too few to stand out from the noise.")
        else:
            answer.say(
                f"{column}: mean {result['mean']:.6g}, variance {result['variance']:.6g}, "
                f"{result['count']} values at {result['sites']} sites"
            )
        if result.get("suppressed_at"):
            answer.say(f"suppressed at {result['suppressed_at']} of {result['sites']} sites")


@app.command()
def counts(
    recipe: Annotated[str, typer.Option(help="Take columns, sites and limits from this recipe")],
    by: Annotated[str, typer.Option(help="One to three columns: A[,B[,C]]")],
    edges: Annotated[
        list[str] | None, typer.Option(help="COLUMN=E1,E2,...: where a number column is cut; repeatable")
    ] = None,
    sum_of: Annotated[str | None, typer.Option(help="Add up this number column in every cell")] = None,
    missing: Annotated[str, typer.Option(help="cell: missing values have one; skip: left out")] = "cell",
    sites: Annotated[Path | None, typer.Option(help="One CSV per site")] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Differential privacy for one record; with --delta")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Below one in the number of records")] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="A deployed coordinator's URL; default: embedded")
    ] = None,
    project: ProjectOption = None,
    passphrase_file: PassphraseFile = None,
    port: Annotated[int, typer.Option(help="The embedded coordinator's port", min=0, max=65535)] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before running the plan")] = False,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """How many records are in each cell of a table over all sites, from a secure sum.

    Without a privacy unit each site suppresses and rounds its own cells
    first. Missing values have a cell of their own, or are left out with
    --missing skip. The bounds of a column are added to its edges. The
    document's name is counts-RECIPE.

    \b
    Examples:
      plasmid query counts --recipe tcr-covid --by age --edges age=40,60 --yes
    """
    with reply(format) as answer:
        from plasmid.client.launch import check_project, check_tables, federation, plan_and_run
        from plasmid.recipes.load import load_recipe
        from plasmid.recipes.query import noised
        from plasmid.recipes.sites import materialise_sites
        from plasmid.recipes.tables import counts_from_recipe

        check_project(coordinator, project)
        resolved = load_recipe(recipe, overrides={}, seed=None)
        document = counts_from_recipe(
            resolved.over_table,
            [name.strip() for name in by.split(",")],
            edges=dict(_edges(text) for text in edges or ()),
            sum_of=sum_of,
            missing=missing,
            privacy=noised(epsilon, delta, 2**0.5 if sum_of else 1.0),
        ).model_dump(mode="json")
        work = home() / "data" / resolved.parsed.name
        tables = {} if coordinator else materialise_sites(resolved, work, sites)
        check_tables(tables, document, answer)
        with federation(
            coordinator, tables, sites_dir=sites, port=port, answer=answer, passphrase_file=passphrase_file
        ) as (at, embedded):
            done = plan_and_run(at, embedded, document, invited=None, project=project, yes=yes, answer=answer)
            result = done.result()["answer"]
        answer.data["result"] = result
        answer.data["privacy"] = done.privacy()
        answer.say(*table_lines(result))


def table_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the answer to ``counts`` as lines: one a cell, with the sum, and where it is a lower bound."""
    lines = []
    for place in product(*(range(len(axis["cells"])) for axis in result["axes"])):
        named = ", ".join(
            f"{axis['column']} {axis['cells'][at]}" for axis, at in zip(result["axes"], place, strict=True)
        )
        count, total, kept = (_at(result[name], place) for name in ("counts", "sums", "suppressed_at"))
        line = f"{named}: {count}" + ("" if total is None else f", sum {total:.6g}")
        if kept:
            line += f" (suppressed at {kept} of {result['sites']} sites, lower bound)"
        lines.append(line)
    return lines


def _at(nested: Any, place: tuple[int, ...]) -> Any:
    for index in place:
        nested = None if nested is None else nested[index]
    return nested


def _edges(text: str) -> tuple[str, list[float]]:
    name, _, numbers = text.rpartition("=")
    try:
        return name, [float(part) for part in numbers.split(",")]
    except ValueError:
        problem = UsageError(
            "usage.bounds",
            f"--edges takes COLUMN=E1,E2,..., not {text!r}.",
            "For example --edges age=0,40,60",
        )
    raise problem


def _bounds(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            "usage.bounds", f"--bounds takes LO,HI, not {text!r}.", "For example --bounds 0,120"
        ) from error
    return low, high


@app.command()
def ping(
    coordinator: Annotated[str, typer.Option(help="The coordinator's URL")],
    length: Annotated[int, typer.Option(help="Values in each site's vector", min=1)] = 1_000_000,
    rounds: Annotated[int, typer.Option(help="Rounds", min=1)] = 3,
    project: ProjectOption = None,
    passphrase_file: PassphraseFile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before running the plan")] = False,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Time rounds of a given size on a deployed federation, without touching a row."""
    with reply(format) as answer:
        import time

        from plasmid.client.launch import federation, plan_and_run
        from plasmid.recipes.query import PingDocument

        document = PingDocument(length=length, rounds=rounds).model_dump(mode="json")
        with federation(
            coordinator, {}, sites_dir=None, port=0, answer=answer, passphrase_file=passphrase_file
        ) as (at, embedded):
            started = time.monotonic()
            plan_and_run(at, embedded, document, invited=None, project=project, yes=yes, answer=answer)
            seconds = time.monotonic() - started
        answer.data["result"] = {"seconds": seconds, "rounds": rounds}
        answer.say(f"{rounds} rounds of {length:,} values, set-up included: {seconds:.2f} s")
