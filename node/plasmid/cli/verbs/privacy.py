"""Privacy: the noise that a plan needs, what a recipe promises to whom, and what is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, reply
from plasmid.core.errors import UsageError
from plasmid.core.files import home as state_home
from plasmid.dp.calibrate import Plan
from plasmid.dp.calibrate import calibrate as calibrated
from plasmid.dp.claims import PrivacyFacts, shown, statement
from plasmid.gateway.budget_rows import budget_rows, budgets_of
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Budget, Ledger
from plasmid.log.audit_log import AuditLog

if TYPE_CHECKING:
    from plasmid.recipes.load import Parsed

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

EXAMPLE_SIZES = (1_000, 10_000, 100_000)
"""Shown where --size is left out: noise under a unit depends on N."""


class MechanismName(StrEnum):
    """How noise is made."""

    dp_sgd = "dp-sgd"
    dp_fedsgd = "dp-fedsgd"
    output = "output"


class UnitName(StrEnum):
    """Whose presence is hidden."""

    record = "record"
    patient = "patient"
    site = "site"


@app.command()
def calibrate(
    epsilon: Annotated[float, typer.Option(help="For the whole run, spare attempts included")],
    delta: Annotated[float, typer.Option(help="For the whole run; below 1/N")],
    rounds: Annotated[int, typer.Option(help="Rounds of the run")],
    steps: Annotated[int, typer.Option(help="Optimiser steps a round, for dp-sgd")] = 1,
    size: Annotated[int | None, typer.Option(help="N: the units that a site declares")] = None,
    batch: Annotated[int | None, typer.Option(help="B: the expected number of units in a sample")] = None,
    spare_attempts: Annotated[int, typer.Option(help="Attempts that may fail; they are charged")] = 2,
    mechanism: Annotated[MechanismName, typer.Option(help="How noise is made")] = MechanismName.dp_sgd,
    unit: Annotated[UnitName, typer.Option(help="Whose presence is hidden")] = UnitName.record,
    sites: Annotated[int, typer.Option(help="n: sites, for noise shared inside the sum")] = 4,
    colluding: Annotated[int, typer.Option(help="c: sites assumed to collude")] = 1,
    clip: Annotated[float, typer.Option(help="L2 bound of a unit, or of a site's vector for output")] = 1.0,
    parameters: Annotated[int | None, typer.Option(help="d: the values that are trained")] = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Say how much noise a plan needs, and whether anything can be learned through it.

    The answer is yes, perhaps (a release's noise is larger than its signal
    and must average out), no (more than ten times as large) or unknown. R
    rounds plus K spare attempts of S steps are composed; q = min(1, B/N).

    \b
    Examples:
      plasmid privacy calibrate --epsilon 8 --delta 1e-5 --rounds 10 --size 5000 --batch 64
    """
    with reply(format) as answer:
        plan = Plan(
            epsilon=epsilon,
            delta=delta,
            rounds=rounds,
            steps=steps,
            spare_attempts=spare_attempts,
            mechanism=mechanism.value,
            unit=unit.value,
            size=size,
            batch=batch,
            sites=sites,
            colluding=colluding,
            clip=clip,
            parameters=parameters,
        )
        found = calibrated(plan)
        answer.data |= {**vars(found), "rate": plan.rate, "attempts": plan.attempts}
        answer.say(
            f"noise multiplier   {found.noise_multiplier:g}",
            f"sigma of the mean  {found.noise_std:.4g} on each value (clip {clip:g})",
            f"sampling rate      {plan.rate:.4g}",
            f"epsilon a round    {shown(found.epsilon_round)}",
            f"epsilon in all     {shown(found.epsilon)} at delta {delta:g}, {plan.attempts} attempts of "
            f"{plan.steps} {'step' if plan.steps == 1 else 'steps'}",
        )
        if found.noise_to_signal is not None and found.central_noise_to_signal is not None:
            trusted = (
                f" (a trusted curator's: {found.central_noise_to_signal:.2g})"
                if plan.mechanism != "dp-sgd"
                else ""
            )
            answer.say(f"noise to signal    {found.noise_to_signal:.2g}{trusted}")
        answer.say(f"worth it           [bold]{found.answer}[/bold]: {found.reason}.")


@app.command()
def explain(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or file")],
    size: Annotated[int | None, typer.Option(help="N that a site declares; default: three examples")] = None,
    sites: Annotated[int | None, typer.Option(help="n: sites; default min_sites, one more if masked")] = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Say in words what a recipe promises to whom, and what it does not.

    Sizes default to examples of 1,000, 10,000 and 100,000.
    """
    with reply(format) as answer:
        from plasmid.recipes.load import load_recipe

        resolved = load_recipe(recipe)
        facts = _planned(resolved.parsed, size=size, sites=sites)
        rounds = {
            site.site: replace(facts, attempts=1, participants=(site,)).spent().get(site.site)
            for site in facts.participants
        }
        told = statement(facts)
        answer.data |= {
            "name": resolved.parsed.name,
            "digest": resolved.digest,
            "facts": facts.as_json(),
            "epsilon_round": rounds,
            "statement": told,
        }
        answer.say(f"[bold]{resolved.parsed.name}[/bold]  {resolved.digest}")
        for sentence in told:
            answer.say("", sentence)
        for name, one in rounds.items():
            if one is not None:
                alone = "for one round alone; rounds compose, they do not add up"
                answer.say("", f"{name}: epsilon {shown(one)} {alone}.")


def _planned(recipe: Parsed, *, size: int | None, sites: int | None) -> PrivacyFacts:
    """Return the facts of *recipe*; noise made in shares depends on the adapter, so a model is opened."""
    from plasmid.bases.store import ensure_model
    from plasmid.computations import api
    from plasmid.planning.privacy import planned_facts, site_facts
    from plasmid.recipes.beside import shape_of
    from plasmid.recipes.schema import Recipe

    privacy, limits = recipe.privacy, recipe.federation
    masked = privacy.protect == "masked"
    sizes: list[int | None] = [size]
    if size is None and privacy.unit in ("record", "patient"):
        sizes = [example for example in EXAMPLE_SIZES if example * (privacy.delta or 0) < 1]
    names = ("a site" if people is None else f"a site with N = {people:,}" for people in sizes)
    participants = [site_facts(recipe, name, people) for name, people in zip(names, sizes, strict=True)]
    shape = None
    if privacy.shares_noise:
        base = None
        if isinstance(recipe, Recipe):
            base = ensure_model(recipe.model.base, revision=recipe.model.revision, digest=recipe.model.digest)
        shape = shape_of(api.load(recipe.computation), recipe, base)
    return planned_facts(
        recipe,
        shape,
        sites=sites if sites is not None else limits.min_sites + masked,
        c=max(int(masked), limits.colluding_organisations),
        participants=participants,
    )


@app.command()
def ledger(
    carry_forward: Annotated[
        bool,
        typer.Option("--carry-forward", help="After damage or a rollback: count budgets as wholly spent"),
    ] = False,
    population: Annotated[
        list[str] | None,
        typer.Option(help="Carry this population forward; repeatable; default: all in policy.yaml"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm --carry-forward")] = False,
    home: Annotated[Path | None, typer.Option(help="The site's folder; default PLASMID_HOME/site")] = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Show what each population's budget has left, and the entries of the ledger.

    A damaged or rolled-back ledger refuses every run under a unit. Restore
    its newest copy. Where there is none, --carry-forward with --yes keeps the
    damaged file under another name and begins a ledger in which every budget
    of policy.yaml is wholly spent; --population names some of them.
    Populations that are not named count as wholly spent, too, until they are
    carried forward. Only a larger budget then gives room.
    """
    with reply(format) as answer:
        site = SiteHome(home or state_home() / "site")
        site.config()
        book = Ledger(site.ledger, AuditLog(site.audit), actor="owner")
        budgets = budgets_of(site)
        if carry_forward:
            answer.data["kept"] = _carry_forward(book, budgets, population, yes=yes)
        elif population or yes:
            raise UsageError(
                "usage.privacy",
                "--population and --yes are for --carry-forward.",
                "Leave them out, or add it.",
            )
        entries, (counter, digest) = book.entries(), book.head()
        rows = budget_rows(book, budgets)
        answer.data |= {
            "populations": rows,
            "head": {"counter": counter, "digest": digest},
            "entries": entries,
        }
        for row in rows:
            answer.say(_row(row))
        if not rows:
            answer.say("No budget in policy.yaml, and nothing spent.")
        answer.say(f"{len(entries)} entries, the newest is {counter} ({digest[:16]})")
        for entry in entries:
            facts = (entry.get(name) for name in ("run", "population", "unit", "epsilon", "delta", "slot"))
            told = " ".join(str(fact) for fact in facts if fact is not None)
            answer.say(f"{entry['counter']:>6}  {entry['time']}  {entry['event']:8} {told}")


def _carry_forward(
    book: Ledger, budgets: Mapping[str, Budget], names: list[str] | None, *, yes: bool
) -> str | None:
    unknown = sorted(set(names or ()) - set(budgets))
    if unknown or not budgets:
        raise UsageError(
            "usage.privacy",
            f"policy.yaml has no budget for: {', '.join(unknown) or 'any population'}.",
            "Name every population of this site under 'budgets' first: others will count as wholly spent.",
        )
    chosen = {name: budgets[name] for name in names or budgets}
    if not yes:
        raise UsageError(
            "usage.not_confirmed",
            f"this counts the budgets of {', '.join(sorted(chosen))} as wholly spent, for good.",
            "Restore a newer copy of the ledger if there is one; otherwise give --yes.",
        )
    kept = book.carry_forward(chosen)
    return None if kept is None else str(kept)


def _row(row: Mapping[str, Any]) -> str:
    def told(name: str) -> str:
        figure = row[name]
        allowed = (
            "no budget" if figure["budget"] is None else f"{figure['left']:g} left of {figure['budget']:g}"
        )
        return f"{name} {allowed} ({figure['spent']:g} spent, {figure['reserved']:g} reserved)"

    return f"[bold]{row['population']}[/bold] (unit: {row['unit']}): {told('epsilon')}, {told('delta')}"
