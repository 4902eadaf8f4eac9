"""Under which conditions a run may begin and go on: the owner's policy, and the approvals that it asks for.

Rules
-----
1. A node does not start on a policy that does not parse.
2. The policy decides first, so that whoever is not allowed learns nothing about what there is, and makes
   nobody sign anything.
3. The same conditions hold for each task of a run: a changed policy, a revoked or expired approval, and the
   end of the hours stop it at its next step, before anything leaves.
"""

from __future__ import annotations

import logging
from typing import Any

from plasmid.computations.api import Shape
from plasmid.core.errors import PolicyRefused
from plasmid.gateway.approvals.files import Case
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.home import SiteHome
from plasmid.gateway.members.projects import Requested
from plasmid.gateway.open_view import Opened
from plasmid.gateway.policy import Policy, read_policy, refuse
from plasmid.gateway.requirements import Finding
from plasmid.gateway.views import view_digest
from plasmid.isolation.port import at_least
from plasmid.protocol.approval import Subject
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.project import Project
from plasmid.secagg.statements import IsolationLevel

log = logging.getLogger(__name__)


def subject_of(site: str, digest: str, view: str, project: Project) -> Subject:
    """Return what people at *site* approve when they approve this."""
    return Subject(recipe=digest, view=view, project=project.digest(), audience=project.audience, site=site)


def check_start(home: SiteHome) -> None:
    """Refuse to start a site's node on a policy that does not parse; without any it starts, and nothing runs.

    Raises
    ------
    PolicyRefused
        ``policy.invalid``, with file, line and key of every problem.
    """
    try:
        read_policy(home.policy)
    except PolicyRefused as error:
        if error.code != "policy.absent":
            raise
        log.warning("%s", error)


def policy_problem(home: SiteHome) -> str:
    """Return why this site's policy cannot be read, with what to do; empty if it can."""
    try:
        read_policy(home.policy)
    except PolicyRefused as error:
        return f"{error.message} {error.hint}".rstrip()
    return ""


def check_begin(
    home: SiteHome,
    approvals: Approvals,
    requested: Requested,
    project: Envelope,
    document: Any,
    digest: str,
    *,
    run: str | None,
) -> tuple[Policy, str]:
    """Return the policy under which *document* may run, and the digest of the view that it may see.

    Parameters
    ----------
    run
        The run that waits if approvals are not there yet; None only asks.

    Raises
    ------
    PolicyRefused
        What the policy says; ``policy.approval_expired``: the run has waited long enough.
    AwaitingApproval
        People are to approve it first.
    """
    policy, view = read_policy(home.policy), view_digest(home, document)
    rules = policy.check(document, digest, project=requested.project, view=view, now=approvals.time())
    subject = subject_of(home.config().name, digest, view, requested.project)
    case = Case(subject=subject, document=requested.request.document, project=project)
    approvals.require(rules, case, requested.requester, run=run)
    return policy, view


def check_figures(policy: Policy, document: Any, shape: Shape, view: Opened | None, size: int | None) -> None:
    """Refuse what the policy does not accept of the vector's *shape* and this site's *view*.

    Parameters
    ----------
    size
        The view's public size, None where its owner has declared none.

    Raises
    ------
    PolicyRefused
        ``policy.bytes_out``, ``policy.cohort``.
    """
    refuse(list(policy.require.here(document, shape, view, size)))


def check_isolation(policy: Policy, level: IsolationLevel) -> None:
    """Refuse to compute at a *level* that is weaker than the policy accepts.

    Raises
    ------
    PolicyRefused
        ``policy.isolation``.
    """
    found = isolation_finding(policy, level)
    if not found.accepted:
        raise PolicyRefused(
            found.code,
            found.sentence,
            "Say a stronger level under 'isolation' in site.yaml, and start the site anew.",
        )


def isolation_finding(policy: Policy, level: IsolationLevel) -> Finding:
    """Return what *policy* says of workers at *level*."""
    said, least = f"this site's workers run at {level}", policy.require.isolation
    return Finding("policy.isolation", "isolation", said, f"{least} or stronger", at_least(level, least))


def check_go_on(
    home: SiteHome,
    approvals: Approvals,
    requested: Requested,
    document: Any,
    digest: str,
    view: str,
) -> Policy:
    """Refuse the next step of a run admitted for *view* that would not be admitted now; return the policy.

    Raises
    ------
    PolicyRefused
        As :func:`check_begin`; ``policy.approval_revoked``.
    """
    policy = read_policy(home.policy)
    rules = policy.check(document, digest, project=requested.project, view=view, now=approvals.time())
    subject = subject_of(home.config().name, digest, view, requested.project)
    approvals.check(rules, subject, requested.requester)
    return policy


def error_detail(home: SiteHome) -> str:
    """Return what leaves of an error: its ``code``, or its ``sentence`` too; without a policy, both."""
    try:
        return read_policy(home.policy).require.error_detail
    except PolicyRefused:
        return "sentence"
