"""Check a site's policy, and say what it would answer to a recipe before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, Reply, plain, reply
from plasmid.cli.recipe_options import SeedOption, SetOption, parse_overrides
from plasmid.core.errors import UsageError
from plasmid.core.files import home as state_home
from plasmid.gateway.approvals.people import People
from plasmid.gateway.home import SiteHome
from plasmid.gateway.policy.file import Policy, read_policy
from plasmid.gateway.policy.rule import refuse

if TYPE_CHECKING:
    from plasmid.gateway.policy.rule import Finding
    from plasmid.gateway.policy.verdict import Verdict
    from plasmid.protocol.project import Project

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The site's folder; default PLASMID_HOME/site")
]


def site_home(folder: Path | None) -> SiteHome:
    """Return the site in *folder*. Raises UsageError (``usage.no_site``)."""
    site = SiteHome(folder or state_home() / "site")
    site.config()
    return site


FileOption = Annotated[
    Path | None, typer.Option("--file", help="Another policy, before it is put in force; default: the site's")
]
ProjectOption = Annotated[
    str | None, typer.Option(help="A project that this site has signed: name or digest")
]


@app.command()
def check(
    recipe: Annotated[
        str | None, typer.Argument(help="As for 'explain'; without it, only the policy is looked at")
    ] = None,
    file: FileOption = None,
    project: ProjectOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Say whether the policy parses, what it lets in, and whether that includes RECIPE. Exit status 1: no.

    Warns of what may not be meant: protect: none, approvers without a record,
    no budget. Nothing is written.
    """
    with reply(format) as answer:
        path = file or site_home(home).policy
        policy = read_policy(path)
        warnings = _warnings(policy, SiteHome(home or state_home() / "site"))
        answer.data |= {"file": str(path), "policy": policy.model_dump(mode="json"), "warnings": warnings}
        answer.say(*map(plain, [f"{path}: the policy is sound", *_told(policy)]))
        for warning in warnings:
            answer.note(plain(f"warning: {warning}"))
        if recipe is not None:
            asked = _ask(recipe, site_home(home), policy, project, overrides, seed)
            answer.data |= _as_json(asked)
            refuse(asked.verdict.findings)
            answer.say(plain(f"{asked.name}: {_conclusion(asked.verdict)}"))


def _told(policy: Policy) -> list[str]:
    lines = [] if policy.allow else ["It allows nothing."]
    for number, rule in enumerate(policy.allow, 1):
        said = []
        if rule.recipes is not None:
            said.append(f"{len(rule.recipes)} digest(s)")
        if rule.approvers is not None:
            needed = ", ".join(f"{count} x {meaning}" for meaning, count in rule.approvers.needed.items())
            said.append(f"what {', '.join(rule.approvers.people)} sign ({needed})")
        limits = {"projects": rule.projects, "purposes": rule.purposes, "views": rule.views}
        said += [f"{name} {', '.join(listed)}" for name, listed in limits.items() if listed is not None]
        lines.append(f"  {number}. allows {'; '.join(said)}")
    for name, value in policy.require.model_dump(exclude_none=True).items():
        lines.append(f"  requires {name}: {getattr(policy.require, name) if name == 'hours' else value}")
    for name, budget in policy.budgets.items():
        spend = f"epsilon {budget.epsilon:g}, delta {budget.delta:g} for one {budget.unit}"
        lines.append(f"  gives the population {name} {spend}")
    return lines


def _warnings(policy: Policy, site: SiteHome) -> list[str]:
    """Return what parses and yet may not be meant; people are looked for where there is a site."""
    found = []
    if policy.require.protect == "none":
        found.append("require.protect: none lets contributions leave in the clear")
    if (site.folder / "site.yaml").exists():
        known = {person.name for person in People(site.people).all()}
        named = {name for rule in policy.allow if rule.approvers for name in rule.approvers.people}
        found += [f"no record of the approver {name}" for name in sorted(named - known)]
        population = site.config().population
        if policy.budgets and population not in policy.budgets:
            found.append(f"no budget for this site's population {population}")
    return found


@app.command()
def explain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name or file, or the digest of what waits for approval here")
    ],
    file: FileOption = None,
    project: ProjectOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Say what the policy answers to a recipe, line by line. Exit status 1: it is refused."""
    with reply(format) as answer:
        site = site_home(home)
        asked = _ask(recipe, site, read_policy(file or site.policy), project, overrides, seed)
        answer.data |= _as_json(asked)
        _show(asked, answer)
        refuse(asked.verdict.findings)
        answer.say(plain(_conclusion(asked.verdict).capitalize()))


@dataclass(frozen=True)
class _Asked:
    """What a recipe is called, within which project it was looked at, and the verdict."""

    name: str
    project: Project | None
    verdict: Verdict


def _ask(
    recipe: str,
    site: SiteHome,
    policy: Policy,
    project: str | None,
    overrides: list[str] | None,
    seed: int | None,
) -> _Asked:
    from plasmid.gateway.approvals.register import Approvals
    from plasmid.gateway.policy.verdict import verdict
    from plasmid.log.audit_log import AuditLog
    from plasmid.recipes.digest import recipe_digest
    from plasmid.recipes.documents import parse_document
    from plasmid.recipes.load import load_recipe

    approvals = Approvals(site, AuditLog(site.audit))
    if _is_digest(recipe):
        case = approvals.find(recipe)
        document, within = case.document, case.opened_project()
    else:
        document = load_recipe(recipe, overrides=parse_overrides(overrides), seed=seed).document
        within = find_project(site, project)  # type: ignore[assignment]
    found = verdict(
        site,
        policy,
        approvals,
        parse_document(document),
        recipe_digest(document, str(document["computation"])),
        project=within,
    )
    return _Asked(str(document.get("name") or document["computation"]), within, found)


def find_project(site: SiteHome, wanted: str | None) -> Project | None:
    """Return the project of this site that *wanted* names; None without a name where it has signed none.

    Raises
    ------
    UsageError
        ``usage.project``: no project, or several, fit.
    """
    from plasmid.gateway.members.projects import Projects

    known = Projects(site.projects, name=site.config().name, key=site.public).all()
    found = [one for digest, one in known.items() if wanted is None or one.name == wanted or digest == wanted]
    if len(found) == 1 or (wanted is None and not found):
        return found[0] if found else None
    names = ", ".join(f"{one.name} ({digest})" for digest, one in known.items()) or "none"
    raise UsageError(
        "usage.project",
        f"{len(found)} projects fit {wanted!r}." if wanted else "this site has signed several projects.",
        f"Give --project with a name or a digest. Signed here: {names}.",
    )


def _is_digest(text: str) -> bool:
    return len(text) >= 8 and not set(text) - set("0123456789abcdef") and not Path(text).exists()


def _as_json(asked: _Asked) -> dict[str, Any]:
    found, standing = asked.verdict, asked.verdict.standing
    return {
        "name": asked.name,
        "digest": found.facts.digest,
        "view": found.facts.view,
        "project": asked.project.digest() if asked.project else None,
        "accepted": found.accepted,
        "rules": [_finding(one) for one in found.findings],
        "not_looked_at": found.not_looked_at,
        "unknown": found.unknown,
        "approvals": {"have": standing.have, "need": standing.need} if standing else None,
    }


def _finding(one: Finding) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("code", "rule", "given", "accepts", "accepted")}


def _show(asked: _Asked, answer: Reply) -> None:
    found, project = asked.verdict, asked.project
    lines = [
        asked.name,
        f"  digest   {found.facts.digest}",
        f"  view     {found.facts.view}",
        f"  project  {f'{project.name} ({project.digest()})' if project else 'none'}",
    ]
    for finding in found.findings:
        mark = "accepts" if finding.accepted else "REFUSES"
        lines.append(f"  {mark}  {finding.rule}: {finding.given}; accepted is {finding.accepts}")
    if found.unknown:
        lines.append(f"  not looked at: {', '.join(found.not_looked_at)} ({found.unknown})")
    answer.say(*map(plain, lines))


def _conclusion(found: Verdict) -> str:
    """Return what would happen to a document that no line refuses."""
    if found.unknown:
        return "the policy accepts what could be looked at here; the rest is looked at when a run begins."
    if found.standing is None:
        return "the policy accepts it: it may run."
    if found.standing.met:
        return f"the policy accepts it, {found.standing.words} are there: it may run."
    return f"the policy accepts it, {found.standing.words} are there: a run of it waits for the rest."
