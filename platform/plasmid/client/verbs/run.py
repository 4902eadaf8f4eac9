"""Run a recipe: plan, federated training, adapter or trees, honest table; or sums of its own Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.keys import PassphraseFile
from plasmid.cli.output import Format, FormatOption, Reply, reply
from plasmid.cli.recipe_options import SeedOption, SetOption, parse_overrides
from plasmid.core.errors import UsageError
from plasmid.core.files import home

app = typer.Typer(add_completion=False, help=__doc__)
PublishOption = Annotated[
    str | None,
    typer.Option(help="OWNER/NAME on the hub of HF_ENDPOINT; default: publish.yaml's owner, else nowhere"),
]
PublicHubOption = Annotated[bool, typer.Option("--public-hub", help="Publish to huggingface.co itself")]
ProjectOption = Annotated[
    str | None,
    typer.Option(help="Deployed: name or digest; default: the only project in which you may launch"),
]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's name ('plasmid recipes ls') or file")],
    sites: Annotated[Path | None, typer.Option(help="One CSV per site, instead of the recipe's data")] = None,
    eval_file: Annotated[Path | None, typer.Option("--eval", help="Scored, never trained on")] = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    baselines: Annotated[
        bool, typer.Option(help="Also train each site alone, and all data in one place")
    ] = True,
    coordinator: Annotated[
        str | None, typer.Option(help="A deployed coordinator's URL; default: embedded")
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Invite only this site of a deployed coordinator")
    ] = None,
    project: ProjectOption = None,
    passphrase_file: PassphraseFile = None,
    port: Annotated[int, typer.Option(help="The embedded coordinator's port", min=0, max=65535)] = 0,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show plan, who accepts, where each value comes from, and an estimate; no run"
        ),
    ] = False,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Then have the sites judge and calibrate it on the rows that the recipe holds out",
        ),
    ] = False,
    publish: PublishOption = None,
    public_hub: PublicHubOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before running the plan")] = False,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Run a recipe over its sites and keep the adapter, the trees, or what its Python computes.

    RECIPE is a name of the catalogue, a YAML file, or a folder with
    recipe.yaml. DIR/<site>.policy.yaml, if present, is that site's policy.
    One run at a time in one PLASMID_HOME. A site whose process ends drops
    out; the run goes on while enough sites are left. With --evaluate, two
    further runs follow, each admitted on its own. --set takes a path and a
    YAML value.

    \b
    Examples:
      plasmid run tcr-covid --set federation.rounds=25 --seed 1
      plasmid run tcr-covid --sites donors --eval unseen.csv --no-baselines --yes --format json
    """
    with reply(format) as answer:
        from plasmid.bases.store import check_pinned
        from plasmid.cli.verbs.recipes_estimate import tell as tell_estimate
        from plasmid.client import publish as publishing
        from plasmid.client.launch import (
            check_project,
            check_tables,
            dry_run,
            federation,
            plan_and_run,
        )
        from plasmid.computations._personal import keeps, personal_parts
        from plasmid.recipes.load import load_recipe
        from plasmid.recipes.schema import Recipe
        from plasmid.recipes.sites import materialise_eval, materialise_sites

        if coordinator and sites:
            raise UsageError(
                "usage.sites_deployed",
                "--sites goes with an embedded run; deployed sites have their own data.",
                "Leave out --sites, or --coordinator.",
            )
        check_project(coordinator, project)
        resolved = load_recipe(recipe, overrides=parse_overrides(set_), seed=seed)
        work = home() / "data" / resolved.parsed.name
        if isinstance(resolved.parsed, Recipe) and not dry:
            check_pinned(resolved.parsed.model.base, resolved.parsed.model.digest)
        trains, judged = isinstance(resolved.parsed, Recipe), hasattr(resolved.parsed, "task")
        lacks = trains and bool(personal_parts(resolved.recipe))
        if evaluate and (not trains or lacks or resolved.recipe.data.holdout is None):
            raise UsageError(
                "usage.evaluate",
                "--evaluate needs a recipe that trains a whole adapter and holds rows out (data.holdout).",
                "For example: --set data.holdout.by=record --set data.holdout.share=0.2",
            )
        repo = publishing.target(publish, resolved.parsed.name, public_hub=public_hub, adapter=trains)
        tables = {} if coordinator else materialise_sites(resolved, work, sites)
        test = materialise_eval(resolved, work, eval_file) if judged else None
        if tables:
            check_tables(tables, resolved.document, answer)
        if test is not None:
            check_tables({"evaluation": test}, resolved.document, answer)
        reached = federation(
            coordinator, tables, sites_dir=sites, port=port, answer=answer, passphrase_file=passphrase_file
        )
        if dry:
            with reached as (at, embedded):
                dry_run(at, embedded, resolved, invited=site, project=project, answer=answer)
            # The embedded federation has ended: what is timed needs the cores.
            tell_estimate(resolved.parsed, tables, answer, sites=len(answer.data["plan"]["sites"]))
            return
        with reached as (at, embedded):
            done = plan_and_run(
                at, embedded, resolved.document, invited=site, project=project, yes=yes, answer=answer
            )
            if done.withheld:
                answer.say(f"[bold green]SUCCEEDED[/bold green] {done.id}: its result goes to others.")
                return
            keep = done.save_adapter if trains else done.save_result
            folder = keep()
            if not judged:
                _tell_sums(done, folder, answer)
                return
            answer.data["adapter" if trains else "folder"] = str(folder)
            if trains and embedded and keeps(resolved.recipe):
                wait_s = resolved.recipe.federation.round_timeout_s
                embedded.await_own(done.id, resolved.recipe.training.personal_steps, timeout_s=wait_s)
                answer.note(f"each site's own adapter: plasmid predict personal:{done.id} --home SITE")
            if evaluate:
                _evaluate(at, embedded, resolved, done, site, project, yes, answer)
                done.save_adapter()
        # The federation has ended: what follows is the launcher's own, and needs its memory and cores.
        if test is not None and lacks:
            answer.note(
                "no table: each site keeps a part of the adapter for itself, and the rest alone has no metric"
                ". Ask with: plasmid evaluate ADAPTER --recipe R --measure gain --personal RUN"
            )
        elif test is not None:
            if baselines and resolved.files:
                answer.note("no baselines: a recipe's own Python runs in a site's sandbox only")
            _measure(done, resolved, tables if baselines and not resolved.files else {}, test)
            keep()
        answer.data["metrics"] = done.table.as_json()
        _tell(done, answer)
        if not trains:
            answer.data |= {"result": done.result()["answer"], "privacy": done.privacy()}
            answer.say(f"Trees: {folder / 'model.json'}, for XGBoost")
            return
        own = f"personal:{done.id} --home SITE" if lacks else str(folder)
        answer.say(f"Adapter: {folder}", f"Next: plasmid predict {own} --data {test or 'FILE'}")
        publishing.publish(done, repo, public_hub=public_hub, answer=answer)


def _evaluate(
    at: Any,
    embedded: Any,
    resolved: Any,
    done: Any,
    site: list[str] | None,
    project: str | None,
    yes: bool,
    answer: Reply,
) -> None:
    """Have the sites judge the adapter, and find its temperature, on rows that nobody trained on."""
    from plasmid.adapters.artifact import read_adapter
    from plasmid.bases.store import ensure_model
    from plasmid.client.evaluation import evaluated, lines

    adapter = read_adapter(done.adapter)
    named = adapter.about.base
    _, state = adapter.on(ensure_model(named.id, revision=named.revision, digest=named.digest))
    for measure in ("scores", "temperature"):
        found = evaluated(
            at,
            embedded,
            resolved,
            adapter.about,
            state,
            rows="holdout",
            measure=measure,
            invited=site,
            project=project,
            yes=yes,
            answer=answer,
        )
        done.evaluations.append(found)
        answer.say(*lines(found))
    answer.data["evaluations"] = done.evaluations


def _measure(done: Any, resolved: Any, tables: dict[str, Path], test: Path) -> None:
    """Fill in the run's table: what was trained, on the unseen data, and baselines if *tables* are given."""
    from plasmid.client.progress import RunProgress
    from plasmid.experiments.baselines import run_baselines
    from plasmid.experiments.table import Table
    from plasmid.experiments.trees import score_file
    from plasmid.prediction.evaluation import evaluate_file

    with RunProgress() as progress:
        progress.note("scoring what was trained on the unseen data ...")
        if done.adapter is None:
            value = score_file(resolved.parsed, done.state(), test)
        else:
            value = evaluate_file(done.adapter, test).value
        metric = resolved.parsed.task.metric
        done.table = Table(metric=metric, federated=value)
        if not tables:
            return
        progress.note("training the baselines: each site alone, and all data in one place ...")
        found = run_baselines(
            resolved,
            tables,
            test,
            progress=lambda step, steps: progress.note(f"baselines: {step}/{steps} steps"),
        )
    done.table = Table(
        metric=metric,
        federated=value,
        local=found["local"],
        central=found["central"],
        simple_central=found["simple"]["central"],
        simple_local=found["simple"]["local"],
    )


def _tell_sums(done: Any, folder: Path, answer: Reply) -> None:
    result = done.result()
    answer.data |= {"result": result["answer"], "folder": str(folder), "privacy": done.privacy()}
    answer.say(
        f"[bold green]SUCCEEDED[/bold green] {done.id}: {result['rounds']} round(s) over "
        f"{', '.join(result['participants'])}"
    )
    for name, values in result["answer"]["tensors"].items():
        answer.say(f"{name}: {values}")
    answer.say(f"Result: {folder}")


def _tell(done: Any, answer: Reply) -> None:
    from rich.table import Table as Grid

    result = done.result()
    answer.say(
        f"[bold green]SUCCEEDED[/bold green] {done.id}: {result['rounds']} rounds over "
        f"{', '.join(result['participants'])}"
    )
    if chosen := result["held_back"]:
        most, losses = done.document["federation"]["rounds"], chosen["losses"]
        loss = "".join(f": held back rows had a loss of {one:.4f}" for one in losses[chosen["after"] :][:1])
        answer.data["held_back"] = chosen
        answer.say(
            f"It was over after {result['rounds']} of at most {most} rounds. The adapter is the "
            f"{chosen['release']} one, after round {chosen['after']}{loss}."
        )
    rows = done.table.rows()
    if rows:
        grid = Grid(title=f"{done.table.metric} on data that nobody trained on")
        grid.add_column("model")
        grid.add_column(done.table.metric, justify="right")
        for what, value in rows:
            grid.add_row(what, f"{value:.3f}", style="bold" if what == "federated" else None)
        answer.say(grid, *done.table.verdict())
