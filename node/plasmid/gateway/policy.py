"""The site's policy: one small YAML file, default deny.

Rules
-----
1. No file, or one that does not parse: nothing runs.
2. A document runs only if one rule of ``allow`` accepts it (its digest, or its approvals; project, purpose
   and view) and it meets every line of ``require``.
3. A policy never edits a document: it accepts, or refuses with the rule's name and the value that it
   would accept. All refusals are told at once; the code is that of the first.
4. The file is read anew for every decision, so a change holds from the next one on, in a run under way too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from plasmid.core.clock import now as utc_now
from plasmid.core.errors import PolicyRefused, RecipeError
from plasmid.core.settings import parse_settings
from plasmid.gateway.ledger import Budget
from plasmid.gateway.notify import Notify
from plasmid.gateway.requirements import Finding, Requirements
from plasmid.protocol.approval import Meaning
from plasmid.protocol.project import Project, ProjectName, Purpose
from plasmid.secagg.statements import Digest, SiteName

__all__ = ["Approvers", "Policy", "Requirements", "Rule", "read_policy"]

Count = Annotated[int, Field(ge=1, le=64)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Approvers(_Part):
    """Who at the owner must sign before a run starts.

    Attributes
    ----------
    people
        Names in the site's ``people`` folder (``plasmid approvals person``).
    quorum
        How many of them must sign ``approved``, or how many must sign each meaning. A person counts once for
        each meaning.
    separation
        Whether nobody's signature counts for a run that he asked for himself.
    wait_days
        How long a run may wait for signatures.
    """

    people: Annotated[list[SiteName], Field(min_length=1, max_length=64)]
    quorum: Count | dict[Meaning, Count]
    separation: bool = False
    wait_days: int = Field(default=14, ge=1, le=366)

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


class Rule(_Part):
    """One way in. What is left out is not asked for, but ``recipes`` or ``approvers`` must be there.

    Attributes
    ----------
    recipes
        Digests of recipes and queries.
    approvers
        The people whose approvals are needed.
    projects
        Names or digests of projects that this site has signed.
    purposes
        Codes that a project may have as its purpose.
    views
        Digests of views.
    """

    recipes: Annotated[list[Digest], Field(max_length=10_000)] | None = None
    approvers: Approvers | None = None
    projects: Annotated[list[Digest | ProjectName], Field(max_length=1000)] | None = None
    purposes: Annotated[list[Purpose], Field(max_length=1000)] | None = None
    views: Annotated[list[Digest], Field(max_length=1000)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"recipes": [value]} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.recipes is None and self.approvers is None:
            raise ValueError("a rule names recipes, or approvers, or both")
        return self

    def findings(self, digest: str, project: Project | None, view: str) -> Iterator[Finding]:
        """Yield what the rule says; that approvals are needed is the caller's to follow up."""
        if self.recipes is not None:
            named = digest in self.recipes
            code = "policy.digest_not_allowed"
            yield Finding(code, "recipes", f"the digest is {digest}", _list(self.recipes), named)
        needs_project = self.approvers is not None
        if self.projects is not None or needs_project:
            names = {project.name, project.digest()} if project else set()
            said = f"the run is of {f'the project {project.name}' if project else 'no project'}"
            wanted = "any project" if self.projects is None else _list(self.projects)
            fits = bool(names) and (self.projects is None or bool(names & set(self.projects)))
            yield Finding("policy.project", "projects", said, wanted, fits)
        if self.purposes is not None:
            purpose = project.purpose if project else "none"
            wanted = _list(self.purposes)
            fits = project is not None and purpose in self.purposes
            yield Finding("policy.purpose", "purposes", f"the purpose is {purpose}", wanted, fits)
        if self.views is not None:
            fits = view in self.views
            yield Finding("policy.view", "views", f"the view's digest is {view}", _list(self.views), fits)


class Policy(_Part):
    """The contents of ``policy.yaml``. ``budgets`` is what each population may spend, over all runs ever."""

    allow: list[Rule] = []
    require: Requirements = Requirements()
    budgets: dict[str, Budget] = {}
    notify: Notify = Notify()

    def check(
        self,
        document: Any,
        digest: str,
        *,
        project: Project | None = None,
        view: str = "",
        now: datetime | None = None,
    ) -> list[Rule]:
        """Refuse a document that this policy does not accept; return the rules that accept it.

        Approvals that a rule asks for are still to be looked for. Parameters are as for :meth:`findings`.

        Raises
        ------
        PolicyRefused
            The first finding's code; the message names every one.
        """
        refuse(list(self.findings(document, digest, project=project, view=view, now=now)))
        return self.accepting(digest, project=project, view=view)

    def findings(
        self,
        document: Any,
        digest: str,
        *,
        project: Project | None = None,
        view: str = "",
        now: datetime | None = None,
    ) -> Iterator[Finding]:
        """Yield what every line says that follows from the document.

        Parameters
        ----------
        document, digest
            The parsed document, and its digest as this site computes it.
        project
            The project of the run; None for none.
        view
            Digest of the view at this site.
        now
            None is the present.
        """
        yield from self._allowed(digest, project, view)
        yield from self.require.findings(document, utc_now() if now is None else now)

    def accepting(self, digest: str, *, project: Project | None, view: str) -> list[Rule]:
        """Return the rules of ``allow`` that accept the digest, project and view."""
        return [
            rule for rule in self.allow if all(one.accepted for one in rule.findings(digest, project, view))
        ]

    def _allowed(self, digest: str, project: Project | None, view: str) -> Iterator[Finding]:
        """Yield the findings of the rule that fits best, or that no rule names the digest."""
        said = [list(rule.findings(digest, project, view)) for rule in self.allow]
        named = [found for found in said if not any(_refuses_digest(one) for one in found)]
        if named:
            yield from min(named, key=lambda found: sum(not one.accepted for one in found))
        else:
            digests = [one for rule in self.allow for one in rule.recipes or ()]
            code = "policy.digest_not_allowed"
            yield Finding(code, "allow", f"the digest is {digest}", _list(digests), False)

    def budget(self, population: str) -> Budget:
        """Return what *population* may spend. Raises PolicyRefused (``policy.no_budget``)."""
        if population not in self.budgets:
            raise PolicyRefused(
                "policy.no_budget",
                f"the policy gives the population {population!r} no privacy budget.",
                "Add it under 'budgets' in policy.yaml: {unit, epsilon, delta}.",
            )
        return self.budgets[population]


def refuse(findings: Sequence[Finding]) -> None:
    """Raise PolicyRefused with the first refusal's code and every refusal's sentence, if there is one."""
    refused = [one for one in findings if not one.accepted]
    if refused:
        hint = "Read the recipe, then add its digest under 'allow' in policy.yaml." if any(
            _refuses_digest(one) for one in refused
        ) else "Ask for a recipe that meets these lines; a policy never changes one."  # fmt: skip
        raise PolicyRefused(refused[0].code, "\n".join(one.sentence for one in refused), hint)


def read_policy(path: Path) -> Policy:
    """Return the policy in *path* as it is now; it is parsed again only when its bytes have changed.

    Raises
    ------
    PolicyRefused
        ``policy.absent`` or ``policy.invalid``.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PolicyRefused(
            "policy.absent",
            f"there is no policy at {path}, so nothing runs.",
            "Write one; see docs/site-files.md.",
        ) from None
    except OSError as error:
        raise PolicyRefused(
            "policy.invalid",
            f"{path}: cannot be read ({error.strerror}).",
            "Let the site's own user read it.",
        ) from error
    try:
        return _parsed(content, path)
    except RecipeError as error:
        raise PolicyRefused("policy.invalid", error.message, error.hint) from error


@lru_cache(maxsize=64)
def _parsed(content: bytes, path: Path) -> Policy:
    return parse_settings(content, path, Policy)


def _refuses_digest(finding: Finding) -> bool:
    return finding.code == "policy.digest_not_allowed" and not finding.accepted


def _list(names: Sequence[str]) -> str:
    """Return up to three of *names*, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "nothing"
