"""Who comes in: the ``allow`` section of the policy, a list of grants.

A run needs one grant that accepts it: within a grant every key must. Grants don't add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from plasmid.gateway.policy.rule import Facts, Finding, Rule, Said, Section, rules_of
from plasmid.protocol.approval import Meaning
from plasmid.protocol.project import ProjectName, Purpose
from plasmid.secagg.statements import Digest, SiteName

Count = Annotated[int, Field(ge=1, le=64)]
NOT_NAMED = "policy.digest_not_allowed"
HINT = "Read the recipe, then add its digest under 'allow' in policy.yaml."


class Approvers(Section):
    """Who at the owner must sign before a run starts."""

    people: Annotated[
        list[SiteName],
        Field(min_length=1, max_length=64, description="names that `plasmid approvals person` recorded"),
    ]
    quorum: Annotated[
        Count | dict[Meaning, Count],
        Field(description="how many people sign `approved`, or how many sign each meaning"),
    ]
    separation: Annotated[
        bool, Field(description="a person's signature doesn't count for a run that the person asked for")
    ] = False
    wait_days: Annotated[int, Field(ge=1, le=366, description="how long a run may wait for signatures")] = 14

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if len(set(self.people)) != len(self.people):
            raise ValueError("a person is listed twice")
        if not self.needed:
            raise ValueError("quorum asks for no signature")
        largest = max(self.needed.values())
        if largest > len(self.people):
            raise ValueError(f"quorum asks for {largest} people of {len(self.people)}")
        return self

    @property
    def needed(self) -> dict[Meaning, int]:
        """The number of people by meaning."""
        return {"approved": self.quorum} if isinstance(self.quorum, int) else dict(self.quorum)


def _recipes(grant: Grant, facts: Facts) -> Iterator[Said]:
    if grant.recipes is not None:
        yield f"the digest is {facts.digest}", listed(grant.recipes), facts.digest in grant.recipes


def _projects(grant: Grant, facts: Facts) -> Iterator[Said]:
    project = facts.project
    if grant.projects is not None or grant.approvers is not None:
        names = {project.name, project.digest()} if project else set()
        given = f"the run is of {f'the project {project.name}' if project else 'no project'}"
        accepts = "any project" if grant.projects is None else listed(grant.projects)
        yield given, accepts, bool(names) and (grant.projects is None or bool(names & set(grant.projects)))


def _purposes(grant: Grant, facts: Facts) -> Iterator[Said]:
    if grant.purposes is not None:
        purpose = facts.project.purpose if facts.project else None
        yield f"the purpose is {purpose or 'none'}", listed(grant.purposes), purpose in grant.purposes


def _views(grant: Grant, facts: Facts) -> Iterator[Said]:
    if grant.views is not None:
        yield f"the view's digest is {facts.view}", listed(grant.views), facts.view in grant.views


class Grant(Section):
    """One way in. A key that is left out isn't asked for, but ``recipes`` or ``approvers`` must be there."""

    recipes: Annotated[
        list[Digest] | None,
        Field(max_length=10_000, description="digests; `plasmid recipes show` prints them"),
        Rule(
            NOT_NAMED,
            "The site's policy does not name this digest.",
            when="no rule of `allow` names the digest",
            do="read the recipe, then add its digest",
            test=_recipes,
            hint=HINT,
        ),
    ] = None
    approvers: Annotated[
        Approvers | None, Field(description="whose signatures are needed, in place of digests or besides")
    ] = None
    projects: Annotated[
        list[Digest | ProjectName] | None,
        Field(max_length=1000, description="names or digests of projects that this site has signed"),
        Rule(
            "policy.project",
            "The site's policy does not name this project, or asks for one.",
            when="the rule that names the digest does not name the run's project, or approvals need one and "
            "there is none",
            do="launch in a project that it names",
            test=_projects,
        ),
    ] = None
    purposes: Annotated[
        list[Purpose] | None,
        Field(max_length=1000, description="codes that a project may have as its purpose"),
        Rule(
            "policy.purpose",
            "The site's policy does not name the project's purpose.",
            when="no rule names the project's purpose",
            do="launch in a project of that purpose",
            test=_purposes,
        ),
    ] = None
    views: Annotated[
        list[Digest] | None,
        Field(max_length=1000, description="digests of views; `plasmid policy explain` prints them"),
        Rule(
            "policy.view",
            "The site's policy does not name this view of its data.",
            when="no rule names the view that the recipe would see",
            do="look at the view (`plasmid policy explain`), then add its digest",
            test=_views,
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"recipes": [value]} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.recipes is None and self.approvers is None:
            raise ValueError("a rule names recipes, or approvers, or both")
        return self

    def findings(self, facts: Facts) -> list[Finding]:
        """Return what the keys say; that approvals are needed is the caller's to follow up."""
        return [finding for rule in GRANT_RULES for finding in rule.look(self, facts)]


GRANT_RULES = rules_of(Grant)


def accepting(grants: Sequence[Grant], facts: Facts) -> list[Grant]:
    """Return the grants that accept digest, project and view."""
    return [grant for grant in grants if all(one.accepted for one in grant.findings(facts))]


def best(grants: Sequence[Grant], facts: Facts) -> list[Finding]:
    """Return the findings of the grant that fits best, or that none names the digest."""
    said = [grant.findings(facts) for grant in grants]
    named = [found for found in said if all(one.accepted or one.code != NOT_NAMED for one in found)]
    if named:
        return min(named, key=lambda found: sum(not one.accepted for one in found))
    digests = [one for grant in grants for one in grant.recipes or ()]
    given = f"the digest is {facts.digest}"
    return [Finding(NOT_NAMED, "allow", given, listed(digests), False, HINT)]


def listed(names: Sequence[str]) -> str:
    """Return up to three of *names*, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "nothing"
