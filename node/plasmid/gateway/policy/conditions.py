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
from dataclasses import replace
from typing import Any

from plasmid.core.errors import PolicyRefused
from plasmid.gateway.approvals.files import Case
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.home import SiteHome
from plasmid.gateway.members.projects import Requested
from plasmid.gateway.policy.decide import decide
from plasmid.gateway.policy.file import Policy, read_policy
from plasmid.gateway.policy.grants import accepting
from plasmid.gateway.policy.rule import Facts, refuse
from plasmid.gateway.views import view_digest
from plasmid.protocol.approval import Subject
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.project import Project

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
) -> tuple[Policy, Facts]:
    """Return the policy under which *document* may run, and what it was decided on.

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
    facts = Facts(document, digest, requested.project, view, approvals.time(), run=run)
    refuse(decide(policy, facts))
    subject = subject_of(home.config().name, digest, view, requested.project)
    case = Case(subject=subject, document=requested.request.document, project=project)
    approvals.require(accepting(policy.allow, facts), case, requested.requester, run=run)
    return policy, facts


def check_go_on(home: SiteHome, approvals: Approvals, requested: Requested, facts: Facts) -> Policy:
    """Refuse the next step of a run that would not be admitted now on these *facts*; return the policy.

    Raises
    ------
    PolicyRefused
        As :func:`check_begin`; ``policy.approval_revoked``.
    """
    policy, facts = read_policy(home.policy), replace(facts, now=approvals.time())
    refuse(decide(policy, facts))
    subject = subject_of(home.config().name, facts.digest, facts.view, requested.project)
    approvals.check(accepting(policy.allow, facts), subject, requested.requester)
    return policy


def check_organisations(home: SiteHome, facts: Facts, number: int) -> Policy:
    """Refuse a sum over *number* confirmed organisations where that is too few; return the policy."""
    policy = read_policy(home.policy)
    found = decide(policy, replace(facts, organisations=number))
    refuse([one for one in found if one.rule == "min_organisations"])
    return policy


def error_detail(home: SiteHome) -> str:
    """Return what leaves of an error: its ``code``, or its ``sentence`` too; without a policy, both."""
    try:
        return read_policy(home.policy).require.error_detail
    except PolicyRefused:
        return "sentence"
