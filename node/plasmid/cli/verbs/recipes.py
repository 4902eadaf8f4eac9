"""List, show, check, estimate, copy and begin recipes, and check tables against a recipe's contract."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, Reply, reply
from plasmid.cli.recipe_options import RecipeArgument, SeedOption, SetOption, parse_overrides
from plasmid.cli.verbs.recipes_estimate import estimate
from plasmid.core.errors import DataError, PlasmidError, UsageError
from plasmid.core.files import home
from plasmid.data.table import Table
from plasmid.recipes import catalogue, templates
from plasmid.recipes.copying import copy
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.recipes.sites import materialise_eval, materialise_sites
from plasmid.recipes.source import FOLDER, not_installed

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command("ls")
def list_recipes(
    form: FormatOption = Format.text,
) -> None:
    """List the recipes that come with Plasmid."""
    with reply(form) as answer:
        found = [load_recipe(name) for name in catalogue.ls()]
        answer.data["recipes"] = [_summary(resolved) for resolved in found]
        width = max((len(resolved.parsed.name) for resolved in found), default=0)
        for resolved in found:
            answer.say(_plain(f"{resolved.parsed.name:<{width}}  {resolved.parsed.title}"))
        answer.say(_plain("\nNext: plasmid recipes show NAME, or plasmid run NAME."))


@app.command()
def show(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    seed: SeedOption = None,
    form: FormatOption = Format.text,
) -> None:
    """Show a recipe, and the digest that sites approve."""
    with reply(form) as answer:
        resolved = load_recipe(recipe, overrides=parse_overrides(overrides), seed=seed)
        answer.data.update(_summary(resolved), path=str(resolved.path), document=resolved.document)
        answer.say(_plain(f"# {resolved.path}"))
        if isinstance(resolved.parsed, Recipe):
            named = resolved.parsed.model
            answer.say(
                _plain(f"# base {named.base} {named.revision or '(its weights are not imported here)'}")
            )
        answer.say(
            _plain(f"# digest {resolved.digest}" + (" (with --set and --seed)" if overrides or seed else "")),
            "",
            _plain(resolved.path.read_text(encoding="utf-8-sig").rstrip("\n")),
        )
        for name, text in sorted(resolved.files.items()):
            answer.say("", _plain(f"# {FOLDER}/{name}"), _plain(text.rstrip("\n")))


@app.command()
def check(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    seed: SeedOption = None,
    sites: Annotated[Path | None, typer.Option(help="Check these tables: one CSV file per site")] = None,
    evaluation: Annotated[Path | None, typer.Option("--eval", help="Check this table as the test")] = None,
    form: FormatOption = Format.text,
) -> None:
    """Check a recipe, its base model, its data or yours: all problems at once. Nothing is trained or sent.

    Tested are the recipe; layers, rank and lengths against its base model,
    where that is imported or described; every table against the contract; a
    metric without a value. Notices report a site with one class, a label at
    one site alone, inputs that are cut or hold unknown tokens, too few rows
    for a batch, an insufficient budget. No Python of the recipe runs: it is
    parsed, and missing imports are reported.
    """
    with reply(form, extra="worker") as answer, tempfile.TemporaryDirectory() as folder:
        resolved = load_recipe(recipe, overrides=parse_overrides(overrides), seed=seed)
        answer.data.update(_summary(resolved), sites={}, eval_rows=None, notices=[])
        answer.say(_plain(f"{resolved.parsed.name}: digest {resolved.digest}"))
        for module in not_installed(resolved.files, resolved.package):
            notice = f"the bundle imports {module}, which is not installed here; every site needs it"
            answer.data["notices"].append(notice)
            answer.note(_plain(notice))
        if resolved.parsed.data.split is None and sites is None and evaluation is None:
            answer.say(_plain("It ships no data; give --sites DIR to check yours."))
        tables, problems = _read(answer, resolved, Path(folder), sites, evaluation)
        if isinstance(resolved.parsed, Recipe):
            from plasmid.planning.checks import findings

            test = tables.pop("test", None)
            for found in findings(resolved.parsed, tables, test, home()):
                if found.error is not None:
                    problems.append(found.error)
                else:
                    answer.data["notices"].append(found.what)
                    answer.note(_plain(found.what))
        if problems:
            first = problems[0]
            raise type(first)(first.code, "\n".join(one.message for one in problems), first.hint)
        answer.say(_plain("The recipe is sound."))


def _read(
    answer: Reply, resolved: ResolvedRecipe, folder: Path, sites: Path | None, evaluation: Path | None
) -> tuple[dict[str, Table], list[PlasmidError]]:
    """Return the tables that meet the contract, by site or as ``test``, and what is wrong with the others."""
    from plasmid.data.views.reading import read_table

    paths: dict[str, Path] = {}
    if resolved.parsed.data.split is not None or sites is not None:
        paths |= materialise_sites(resolved, folder, sites)
    test = materialise_eval(resolved, folder, evaluation)
    found: dict[str, Table] = {}
    problems: list[PlasmidError] = []
    for name, path in (*paths.items(), *([] if test is None else [("test", test)])):
        try:
            found[name] = read_table(path, resolved.parsed.contract)
        except DataError as error:
            problems.append(error)
            continue
        rows = _checked(answer, name, found[name])
        if path is test:
            answer.data["eval_rows"] = rows
        else:
            answer.data["sites"][name] = rows
    return found, problems


app.command()(estimate)


@app.command("cp")
def copy_recipe(
    recipe: RecipeArgument,
    to: Annotated[Path, typer.Argument(help="The folder to make")],
    form: FormatOption = Format.text,
) -> None:
    """Copy a recipe with its data to a folder of your own, to change it there."""
    with reply(form) as answer:
        folder = copy(recipe, to)
        resolved = load_recipe(folder)
        answer.data.update(_summary(resolved), path=str(resolved.path))
        answer.say(
            _plain(f"{folder}: the recipe is {resolved.path.name}, its digest is as before"),
            _plain(f"Next: give it a name of its own in there, then plasmid recipes check {folder}"),
        )


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The recipe's name, and its folder's")],
    bundle: Annotated[
        templates.Half | None,
        typer.Option("--bundle", help="What its Python computes (default per_record); see docs/bundles.md"),
    ] = None,
    method: Annotated[
        bool, typer.Option("--method", help="A LoRA method, to install; see docs/own-methods.md")
    ] = False,
    to: Annotated[Path, typer.Option("--to", help="Where to make the folder")] = Path(),
    form: FormatOption = Format.text,
) -> None:
    """Make the folder of a recipe with Python, or of a LoRA method: a working example to change."""
    with reply(form) as answer:
        if method and bundle is not None:
            raise UsageError(
                "usage.template", "a method is no bundle.", "Give --method or --bundle, not both."
            )
        folder = templates.write(name, None if method else bundle or templates.Half.per_record, to)
        answer.data.update(name=name, path=str(folder / "recipe.yaml"))
        if method:
            answer.say(
                _plain(f"{folder}: recipe.yaml, and a package with the method"),
                # With ./, for pip takes a bare word as a name in its index.
                _plain(f"Next: pip install {to.resolve() / name}, then plasmid recipes check {folder}"),
            )
            return
        resolved = load_recipe(folder)
        answer.data.update(_summary(resolved), path=str(resolved.path))
        answer.say(
            _plain(f"{folder}: recipe.yaml, and its Python in {FOLDER}"),
            _plain(f"Next: change it, then plasmid recipes check {folder}"),
        )


def _checked(answer: Reply, name: str, table: Table) -> int:
    answer.say(_plain(f"{name}: {table.rows} rows"))
    for notice in table.notices:
        answer.data["notices"].append(f"{name}: {notice}")
        answer.note(_plain(f"{name}: {notice}"))
    return table.rows


def _summary(resolved: ResolvedRecipe) -> dict[str, Any]:
    recipe = resolved.parsed
    return {
        "name": recipe.name,
        "title": recipe.title,
        "base": recipe.model.base if isinstance(recipe, Recipe) else None,
        "metric": recipe.task.metric if hasattr(recipe, "task") else None,
        "bundle": sorted(resolved.files),
        "digest": resolved.digest,
    }


def _plain(text: str) -> Any:
    """Return *text* for the console, its square brackets as they are."""
    from rich.text import Text

    return Text(text)
