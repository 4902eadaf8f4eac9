"""What this site's policy would say about a document, before anything runs: every line, not only the first.

Rules
-----
1. The same functions decide here and at admission; this only collects what they say. Organisations are
   counted over the whole project: a run over some of its sites may have fewer.
2. Nothing is written: no run waits, nobody is told, nothing is reserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plasmid.bases.store import ensure_model
from plasmid.computations import api
from plasmid.core.errors import PlasmidError, PolicyRefused
from plasmid.gateway.approvals.quorum import Standing
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.conditions import isolation_finding, subject_of
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.members.peers import read_peers
from plasmid.gateway.open_view import open_view
from plasmid.gateway.policy import Policy
from plasmid.gateway.requirements import Finding
from plasmid.gateway.views import slice_of, view_digest
from plasmid.protocol.approval import Subject
from plasmid.protocol.project import Project, ProjectPerson
from plasmid.recipes.beside import shape_of
from plasmid.secagg.statements import IsolationLevel


@dataclass(frozen=True)
class Verdict:
    """What every line says.

    Attributes
    ----------
    subject
        What people would approve; None without a project.
    findings
        One for each line that has something to say.
    unknown
        Why lines that need this site's data or the base model could not be looked at, empty if they were.
    standing
        How far the approvals are; None where no rule asks for them, or the document is refused.
    """

    digest: str
    view: str
    subject: Subject | None
    findings: tuple[Finding, ...]
    unknown: str
    standing: Standing | None

    @property
    def accepted(self) -> bool:
        """Whether no line refuses; approvals may still be awaited."""
        return all(finding.accepted for finding in self.findings)


def verdict(
    home: SiteHome,
    policy: Policy,
    approvals: Approvals,
    document: Any,
    digest: str,
    *,
    project: Project | None,
    requester: ProjectPerson | None = None,
    isolation: IsolationLevel | None = None,
) -> Verdict:
    """Return what *policy* says about a parsed *document* in *project*.

    Parameters
    ----------
    isolation
        How a worker would be locked in here; None where that is not known.
    """
    view, time = view_digest(home, document), approvals.time()
    findings = list(policy.findings(document, digest, project=project, view=view, now=time))
    figures, unknown = _figures(home, policy, document)
    findings += [*figures, *_budget(home, policy, document)]
    if isolation is not None:
        findings.append(isolation_finding(policy, isolation))
    if project is not None and document.privacy.protect == "masked":
        findings.append(_organisations(home, policy, project))
    subject = None if project is None else subject_of(home.config().name, digest, view, project)
    standing = None
    if subject is not None and all(finding.accepted for finding in findings):
        rules = policy.accepting(digest, project=project, view=view)
        standing = approvals.best(rules, subject, requester)
    return Verdict(digest, view, subject, tuple(findings), unknown, standing)


def _organisations(home: SiteHome, policy: Policy, project: Project) -> Finding:
    """Return what the policy says about a sum over every site of *project* that the owner has confirmed."""
    peers = read_peers(home.peers) if home.peers.exists() else None
    known = {(one.name, one.key): one.organisation for one in (peers.sites if peers else ())}
    config = home.config()
    confirmed = {known[site.name, site.key] for site in project.sites if (site.name, site.key) in known}
    number, least = len(confirmed | {config.organisation}), policy.require.min_organisations
    return Finding(
        "policy.min_organisations",
        "min_organisations",
        f"the project has {number} organisations that the owner has confirmed",
        f"{least} or more",
        number >= least,
    )


def _figures(home: SiteHome, policy: Policy, document: Any) -> tuple[list[Finding], str]:
    require = policy.require
    if require.max_bytes_out is None and require.min_cohort is None:
        return [], ""
    try:
        model, contract = getattr(document, "model", None), getattr(document, "contract", None)
        base = None if model is None else ensure_model(
            model.base, revision=model.revision, digest=model.digest
        )  # fmt: skip
        shape = shape_of(api.load(document.computation), document, base)
        part = slice_of(home, document)
        view = None if contract is None else open_view(home, part, document, keep=False)
    except PlasmidError as error:
        return [], f"{error.message} [{error.code}]"
    return list(require.here(document, shape, view, part.public_size)), ""


def _budget(home: SiteHome, policy: Policy, document: Any) -> list[Finding]:
    privacy = document.privacy
    if privacy.unit == "none":
        return []
    population = slice_of(home, document).population
    said = f"the run costs epsilon {privacy.epsilon:g} and delta {privacy.delta:g} for one {privacy.unit}"
    try:
        budget = policy.budget(population)
        Ledger(home.ledger).check(
            population=population,
            unit=privacy.unit,
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            budget=budget,
        )
    except PolicyRefused as error:
        return [Finding(error.code, "budgets", said, f"what is left ({error.message.rstrip('.')})", False)]
    return [Finding("policy.budget", "budgets", said, f"what the population {population} has left", True)]
