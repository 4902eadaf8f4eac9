"""A rule of the policy: one object that decides one thing about a run, with every text that follows from it.

Rules
-----
1. A rule accepts or refuses; it never changes a document.
2. Each refusal names the value that would be accepted, so that all can be told at once.
3. A rule is looked at once all facts that it needs are known. Admission knows the document's first, then the
   site's own; ``policy explain`` and the approvers' page gather both at once.
4. The sentence that leaves the site, the line of ``docs/errors.md``, and the lines of the example policy and
   of ``docs/gateway/policy.md`` are a rule's own: nothing else lists the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from plasmid.computations.api import Shape
from plasmid.core.errors import PlasmidError, PolicyRefused, StorageError
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.open_view import Opened
from plasmid.gateway.participation import Lineage
from plasmid.gateway.views import Slice
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.project import Project
from plasmid.secagg.statements import IsolationLevel

HINT = "Ask for a recipe that meets these lines; a policy never changes one."


class Section(BaseModel):
    """A part of ``policy.yaml``. Keys that are unknown are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True)
class Facts:
    """What is known about a run when it is decided on; None where it isn't known, or there is none.

    Attributes
    ----------
    document, digest
        The parsed document, and its digest as this site computes it.
    project
        The project of the run; None for none.
    view
        Digest of the view at this site.
    now
        Present time, UTC.
    run
        The run's id, if it has one yet.
    isolation
        How the worker would be locked in.
    organisations
        Number of organisations behind the sum that this owner has confirmed, its own included.
    part
        What the owner wrote about the document's view.
    shape
        Of the vector that would leave.
    opened
        Figures of the view.
    ledger, log, lineage
        The site's own records.
    unknown
        Why a fact could not be had, by its name. Rules that need it are not looked at.
    """

    document: Any
    digest: str
    project: Project | None
    view: str
    now: datetime
    run: str | None = None
    isolation: IsolationLevel | None = None
    organisations: int | None = None
    part: Slice | None = None
    shape: Shape | None = None
    opened: Opened | None = None
    ledger: Ledger | None = None
    log: AuditLog | None = None
    lineage: Lineage | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What one rule says about one run.

    Attributes
    ----------
    code
        Of the refusal.
    rule
        The rule's name, as the policy file spells it.
    given, accepts
        The run's value, and what the policy would accept.
    hint
        What to do after a refusal.
    error
        The problem that refuses, where the rule met one.
    """

    code: str
    rule: str
    given: str
    accepts: str
    accepted: bool
    hint: str = HINT
    error: PlasmidError | None = None

    @property
    def sentence(self) -> str:
        """The rule's name and the two values in a sentence."""
        return f"{self.rule}: {self.given}, the policy accepts {self.accepts}."


Said = tuple[str, str, bool]
"""The run's value, what the policy would accept, and whether the one is among the other."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes
    ----------
    code
        Of the refusal.
    sentence
        What others are told of it: constant, without a value.
    when, do
        The condition and what to do next, for ``docs/errors.md``.
    test
        Yields what the rule says of the facts under its section of the policy, if it has anything to say.
        It may raise PlasmidError, which refuses.
    needs
        Names of the :class:`Facts` without which the rule is not looked at.
    asks
        What it asks for, for a rule that is not the key of a section; those have the key's description.
    part
        The heading in ``docs/errors.md`` below the code's family.
    name
        As the policy file spells it; empty is the name of the key that it stands at.
    hint
        See :class:`Finding`.
    """

    code: str
    sentence: str
    when: str
    do: str
    test: Callable[[Any, Facts], Iterable[Said]]
    needs: tuple[str, ...] = ()
    asks: str = ""
    part: str = ""
    name: str = ""
    hint: str = HINT

    def ready(self, facts: Facts) -> bool:
        """Return whether all that the rule needs is known."""
        return all(getattr(facts, name) is not None for name in self.needs)

    def look(self, section: Any, facts: Facts) -> Iterator[Finding]:
        """Yield what the rule says; a problem that it meets refuses. Raises StorageError."""
        if not self.ready(facts):
            return
        try:
            for given, accepts, accepted in self.test(section, facts):
                yield Finding(self.code, self.name, given, accepts, accepted, self.hint)
        except StorageError:  # nothing can be decided on a record that cannot be read
            raise
        except PlasmidError as error:
            given = error.message.rstrip(".")
            yield Finding(error.code, self.name, given, self.asks, False, error.hint, error)


def rules_of(section: type[Section]) -> list[Rule]:
    """Return the rules that stand at the keys of *section*, in their order."""
    return [
        rule if rule.name else Rule(**vars(rule) | {"name": name})
        for name, key in section.model_fields.items()
        for rule in key.metadata
        if isinstance(rule, Rule)
    ]


def refuse(findings: Sequence[Finding]) -> None:
    """Raise the first refusal's code with every refusal's sentence, if there is one.

    Raises
    ------
    PlasmidError
        PolicyRefused, or of the type of the problem that the first refusal met.
    """
    refused = [one for one in findings if not one.accepted]
    if not refused:
        return
    first = refused[0]
    if first.error is not None and len(refused) == 1:
        raise first.error
    kind = PolicyRefused if first.error is None else type(first.error)
    raise kind(first.code, "\n".join(one.sentence for one in refused), first.hint)
