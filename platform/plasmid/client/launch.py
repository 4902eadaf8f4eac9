"""What ``plasmid run`` and ``plasmid query`` share: plan, confirm, run, embedded or deployed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from plasmid.bases.catalogue import Described, about
from plasmid.cli.output import Reply, plain
from plasmid.client.api import Coordinator
from plasmid.client.embedded import Embedded
from plasmid.client.progress import RunProgress
from plasmid.client.run import Run
from plasmid.core import extras
from plasmid.core.errors import DataError, PlasmidError, RecipeError, UsageError
from plasmid.data.views.reading import read_table
from plasmid.gateway.keys.passphrase import from_file
from plasmid.gateway.sentences import SENTENCES
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document
from plasmid.recipes.load import ResolvedRecipe
from plasmid.recipes.origins import leaves
from plasmid.recipes.schema import Recipe
from plasmid.secagg.statements import IsolationLevel

_WRITTEN_ON_CONFIRMATION = {"policy.absent", "policy.digest_not_allowed"}
_LONGEST_SHOWN = 100
_DECLARED_ON_CONFIRMATION = {"data.no_public_size"}


@contextmanager
def federation(
    url: str | None,
    tables: Mapping[str, Path],
    *,
    sites_dir: Path | None,
    port: int,
    answer: Reply,
    passphrase_file: Path | None = None,
) -> Iterator[tuple[Coordinator, Embedded | None]]:
    """Yield the coordinator at *url*, or an embedded one with a site for each of *tables*."""
    if url is not None:
        passphrase = from_file(passphrase_file) if passphrase_file else None
        coordinator = Coordinator(url, passphrase=passphrase)
        try:
            yield coordinator, None
        finally:
            coordinator.close()
        return
    policies = {
        site: path for site in tables if sites_dir and (path := sites_dir / f"{site}.policy.yaml").exists()
    }
    answer.note(f"starting a coordinator and {len(tables)} sites on this host")
    with Embedded(tables, policies=policies, port=port) as embedded:
        yield embedded.coordinator, embedded


def check_project(url: str | None, project: str | None) -> None:
    """Raise UsageError (``usage.project_embedded``) where a *project* is named and there is no *url*."""
    if project is not None and url is None:
        raise UsageError(
            "usage.project_embedded",
            "--project goes with a deployed coordinator; embedded sites have a project of their own.",
            "Leave out --project, or give --coordinator.",
        )


def check_tables(tables: Mapping[str, Path], document: dict[str, Any], answer: Reply) -> None:
    """Read every table that the launcher owns against the contract; tell all problems at once.

    Raises
    ------
    DataError
        What is wrong with rows; ``data.library_missing``: what the covariates need is not installed here.
    """
    parsed: Any = parse_document(document)
    contract = parsed.contract
    for module in parsed.head().needs if isinstance(parsed, Recipe) else ():
        extras.check_installed(module)
    problems = []
    for site, path in tables.items():
        try:
            for notice in read_table(path, contract).notices:
                answer.note(f"{site}: {notice}")
        except DataError as error:
            problems.append(error)
    if problems:
        first = problems[0]
        raise DataError(first.code, "\n".join(problem.message for problem in problems), first.hint)


def dry_run(
    coordinator: Coordinator,
    embedded: Embedded | None,
    resolved: ResolvedRecipe,
    *,
    invited: list[str] | None,
    project: str | None,
    answer: Reply,
) -> None:
    """Show the plan of a run, who would accept it and where each value comes from; start nothing.

    Raises
    ------
    LinkError, ProjectRefused
        As :meth:`plasmid.client.api.Coordinator.plan`.
    """
    plan = planned(coordinator, embedded, resolved.document, invited=invited, project=project, answer=answer)
    least = resolved.parsed.federation.min_sites
    accepting = [site for site, said in plan["sites"].items() if said["accepted"] or said["pending"]]
    values = dict(leaves(resolved.document))
    shown = {
        dotted: {"value": values[path], "origin": resolved.origins[dotted]}
        for path in values
        if (dotted := ".".join(map(str, path))) in resolved.origins
    }
    answer.data |= {"plan": plan, "values": shown, "would_run": len(accepting) >= least}
    answer.say("")
    for dotted, found in shown.items():
        text = json.dumps(found["value"], ensure_ascii=False)
        text = text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
        answer.say(plain(f"  {found['origin']:<9} {dotted} = {text}"))
    said = f"{len(accepting)} sites would take part, {least} must"
    answer.say("", f"A dry run: {said}. Nothing was started.")


def planned(
    coordinator: Coordinator,
    embedded: Embedded | None,
    document: dict[str, Any],
    *,
    invited: list[str] | None,
    project: str | None,
    answer: Reply,
) -> dict[str, Any]:
    """Return and show the plan of *document*; the arguments are those of :func:`plan_and_run`."""
    if embedded:
        project, invited = embedded.project, embedded.sites
    plan = coordinator.plan(document, sites=invited, project=project)
    lacking = "model" in document and isinstance(about(document["model"]["base"]), Described)
    for site, said in plan["sites"].items():
        if embedded and not embedded.has_own_policy(site) and said["code"] in _WRITTEN_ON_CONFIRMATION:
            sentence = "its policy is written when you confirm"
            said |= {"accepted": True, "code": "", "sentence": sentence, "pending": None}
        elif embedded and said["code"] in _DECLARED_ON_CONFIRMATION:
            said |= {"accepted": True, "code": "", "sentence": "its public size is written when you confirm"}
        if embedded and lacking:
            code = "model.not_imported"
            said |= {"accepted": False, "code": code, "sentence": SENTENCES[code], "pending": None}
    show_plan(plan, document, rehearsal=embedded is not None, answer=answer)
    if embedded:
        show_isolation(*embedded.isolation, answer=answer)
    return plan


def plan_and_run(
    coordinator: Coordinator,
    embedded: Embedded | None,
    document: dict[str, Any],
    *,
    invited: list[str] | None,
    project: str | None,
    yes: bool,
    answer: Reply,
) -> Run:
    """Show the plan, get it confirmed, run it to its end and return the run.

    Raises
    ------
    RecipeError
        ``recipe.too_few_sites``: fewer sites than ``min_sites`` would admit the document.
    UsageError
        ``usage.not_confirmed``.
    RunFailed
        The run's own error.
    """
    if embedded:
        project, invited = embedded.project, embedded.sites
    elif project is None:
        project = coordinator.project().digest
    plan = planned(coordinator, embedded, document, invited=invited, project=project, answer=answer)
    answer.data |= {
        "trainable_parameters": plan["trainable_parameters"],
        "bytes_up_per_round": plan["bytes_up_per_round"],
        "rounds": plan["rounds"],
        "sites": sorted(plan["sites"]),
    }
    accepting = [site for site, said in plan["sites"].items() if said["accepted"] or said["pending"]]
    least = document["federation"]["min_sites"]
    if len(accepting) < least:
        why = [
            f"\n  {site}: {said['sentence']} [{said['code']}]"
            for site, said in plan["sites"].items()
            if site not in accepting
        ]
        raise RecipeError(
            "recipe.too_few_sites",
            f"{len(accepting)} sites accept, federation.min_sites is {least}.{''.join(why)}",
            "Settle what the sites object to, or invite more of them.",
        )
    _confirm(yes)
    digest = recipe_digest(document, str(document["computation"]))
    if embedded:
        embedded.allow(document, digest)
    run = coordinator.start(document, sites=invited, project=project)
    answer.data["run_id"] = run.id
    ended: set[str] = set()
    state = ""
    with RunProgress() as progress:

        def watch(shown: Mapping[str, Any]) -> None:
            nonlocal state
            state = str(shown["state"])
            progress.update(shown)
            if embedded and shown["state"] not in ("SUCCEEDED", "FAILED", "STOPPED"):
                for name, how in embedded.ended().items():
                    if name == "coordinator":
                        raise how
                    if name not in ended:
                        ended.add(name)
                        answer.note(f"{how} The run goes on without it, if it can.")

        try:
            run.wait(watch)
        except BaseException as error:
            if state == "AWAITING_APPROVAL" and embedded is None and isinstance(error, KeyboardInterrupt):
                answer.note(f"{run.id} waits on; 'plasmid runs fetch' gets its result once there is one")
                raise
            _stop_quietly(run)
            if isinstance(error, PlasmidError):
                answer.say(f"[bold red]FAILED[/bold red] {run.id}")
            raise
    if not run.withheld:
        answer.data["sites"] = run.result()["participants"]
    return run


def _stop_quietly(run: Run) -> None:
    try:
        run.stop()
    except PlasmidError:  # the coordinator has gone, and the run with it
        return


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "usage.not_confirmed",
            "the plan was not confirmed: there is no terminal to ask at.",
            "Give --yes.",
        )
    if not typer.confirm("Run this plan?", err=True):
        raise UsageError("usage.not_confirmed", "the plan was not confirmed; nothing was run.", "")


def show_isolation(level: IsolationLevel, problem: str, *, answer: Reply) -> None:
    """Tell how the workers of an embedded federation are locked in, and why they are not."""
    answer.data["isolation"] = level
    if level == "none":
        answer.say(
            "  [bold red]no sandbox[/bold red]: the code may read what you may read, and reach the network"
        )
        answer.note(f"no sandbox: {problem}")
    else:
        answer.say(f"  every site's worker is kept in a sandbox: {level}")


def show_plan(
    plan: Mapping[str, Any], document: Mapping[str, Any], *, rehearsal: bool, answer: Reply
) -> None:
    """Print the plan for people."""
    said = plan["sites"]
    most = "at most " if document["federation"].get("stop") else ""
    answer.say(
        f"[bold]{document.get('title') or document.get('name') or document['computation']}[/bold]",
        f"  digest {plan['digest']}",
        f"  {plan['trainable_parameters']:,} values, {most}{plan['rounds']} round(s), per round and site "
        f"{plan['bytes_up_per_round']:,} bytes up and {plan['bytes_down_per_round']:,} bytes down",
    )
    if plan["protect"] == "masked":
        n, c = plan["n"], plan["c"]
        answer.say(
            f"  masked sums over n = {n} sites, safe against the coordinator and c = {c} of them; "
            f"theta = {plan['theta']}, m = {plan['min_sites']}: survives {plan['survives']} drop-out(s)"
        )
    else:
        answer.say("  [bold red]protect: none[/bold red]: the coordinator sees every site's contribution")
    if plan["unit"] != "none":
        answer.say(
            f"  differential privacy for one {plan['unit']}: epsilon {plan['epsilon']:g}, delta "
            f"{plan['delta']:g} ({plan['mechanism']}), for {plan['attempts']} attempts at "
            f"{plan['rounds']} round(s)"
        )
    if rehearsal:
        answer.say("  a rehearsal: one owner holds every site's data and confirms every peer")
    for site, reply in said.items():
        mark = "accepts" if reply["accepted"] else "[red]refuses[/red]"
        if reply["pending"]:
            mark = f"waits for {reply['pending']['need'] - reply['pending']['have']} approval(s)"
        answer.say(f"  {site}: {mark}{': ' + reply['sentence'] if reply['sentence'] else ''}")
