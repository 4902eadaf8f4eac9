"""What this site's policy would say about a document before anything runs: every line, not only the first.

Rules
-----
1. The facts are gathered here, the decision is :func:`plasmid.gateway.policy.decide.decide`, as at admission.
   Organisations are counted over the whole project: a run over some of its sites may have fewer.
2. Nothing of the site's records is written: no run waits, no one is told, nothing is reserved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from plasmid.bases.store import ensure_model
from plasmid.computations import api
from plasmid.core.errors import PlasmidError
from plasmid.gateway.approvals.quorum import Standing
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.members.peers import read_peers
from plasmid.gateway.open_view import open_view
from plasmid.gateway.participation import Lineage
from plasmid.gateway.policy.conditions import subject_of
from plasmid.gateway.policy.decide import decide, not_looked_at
from plasmid.gateway.policy.file import Policy
from plasmid.gateway.policy.grants import accepting
from plasmid.gateway.policy.rule import Facts, Finding
from plasmid.gateway.views import slice_of, view_digest
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.approval import Subject
from plasmid.protocol.project import Project, ProjectPerson
from plasmid.recipes.beside import shape_of
from plasmid.secagg.statements import IsolationLevel

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """What every line says.

    Attributes
    ----------
    facts
        What it was said about.
    subject
        What people would approve; None without a project.
    findings
        One for each line that has something to say.
    standing
        How far the approvals are; None where no rule asks for them, or the document is refused.
    """

    facts: Facts
    subject: Subject | None
    findings: tuple[Finding, ...]
    standing: Standing | None

    @property
    def accepted(self) -> bool:
        """Whether no line refuses; approvals may still be awaited."""
        return all(finding.accepted for finding in self.findings)

    @property
    def not_looked_at(self) -> list[str]:
        """The rules that need a fact which could not be had."""
        return not_looked_at(self.facts)

    @property
    def unknown(self) -> str:
        """Why facts could not be had, empty if all could."""
        return "; ".join(dict.fromkeys(self.facts.unknown.values()))


def verdict(
    home: SiteHome,
    policy: Policy,
    approvals: Approvals,
    document: Any,
    digest: str,
    *,
    project: Project | None,
    requester: ProjectPerson | None = None,
) -> Verdict:
    """Return what *policy* says about a parsed *document* in *project*."""
    facts = _facts(home, policy, approvals, document, digest, project)
    findings = tuple(decide(policy, facts))
    subject = None if project is None else subject_of(home.config().name, digest, facts.view, project)
    standing = None
    if subject is not None and all(finding.accepted for finding in findings):
        standing = approvals.best(accepting(policy.allow, facts), subject, requester)
    return Verdict(facts, subject, findings, standing)


def _facts(
    home: SiteHome, policy: Policy, approvals: Approvals, document: Any, digest: str, project: Project | None
) -> Facts:
    part, unknown = slice_of(home, document), dict[str, str]()

    def known(name: str, find: Callable[[], T]) -> T | None:
        try:
            return find()
        except PlasmidError as error:
            unknown[name] = f"{error.message} [{error.code}]"
            return None

    facts = Facts(
        document=document,
        digest=digest,
        project=project,
        view=view_digest(home, document),
        now=approvals.time(),
        isolation=known("isolation", lambda: _isolation(home)),
        organisations=None if project is None else _organisations(home, project),
        part=part,
        ledger=Ledger(home.ledger),
        log=AuditLog(home.audit),
        lineage=Lineage(home.lineage / "runs"),
        unknown=unknown,
    )
    model = getattr(document, "model", None)
    shape, opened = None, None
    if model is None or policy.require.max_bytes_out is not None:  # else no rule needs the base model
        shape = known("shape", lambda: _shape(document, model))
    if getattr(document, "contract", None) is not None:
        opened = known("opened", lambda: open_view(home, part, document, keep=False))
    return replace(facts, shape=shape, opened=opened)


def _isolation(home: SiteHome) -> IsolationLevel:
    from plasmid.isolation.choice import choose

    return choose(home.config().isolation).level


def _shape(document: Any, model: Any) -> api.Shape:
    base = None
    if model is not None:
        base = ensure_model(model.base, revision=model.revision, digest=model.digest)
    return shape_of(api.load(document.computation), document, base)


def _organisations(home: SiteHome, project: Project) -> int:
    """Return how many organisations a sum over every site of *project* has that the owner has confirmed."""
    peers = read_peers(home.peers) if home.peers.exists() else None
    known = {(one.name, one.key): one.organisation for one in (peers.sites if peers else ())}
    confirmed = {known[site.name, site.key] for site in project.sites if (site.name, site.key) in known}
    return len(confirmed | {home.config().organisation})
