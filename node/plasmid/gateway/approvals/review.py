"""What an approver reads before signing: the facts of a case, and how it differs from the last approved one.

Rules
-----
1. The last approved version is the newest case of the same name that somebody signed ``approved`` without
   its being revoked since.
2. Both versions are explained with this site's present figures, so that what differs is the documents' doing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plasmid.core.errors import PolicyRefused
from plasmid.gateway.approvals.files import Case, Waiting
from plasmid.gateway.approvals.quorum import Signature
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.explanation import Fact, changed, differences, explain, visible
from plasmid.gateway.home import SiteHome
from plasmid.gateway.policy.file import read_policy
from plasmid.gateway.policy.verdict import Verdict, verdict
from plasmid.protocol.project import Project, ProjectPerson
from plasmid.recipes.documents import parse_document


@dataclass(frozen=True)
class Review:
    """Everything about one case.

    Attributes
    ----------
    facts
        What runs, on which rows, what will leave, what it costs, who receives.
    previous
        The signature of the last approved version; None where this is the first.
    changed, differences
        What is different from that version: in sentences, and value by value.
    waiting
        The runs that wait for this case.
    signatures
        All that were given, whatever their state.
    verdict
        What the policy says; None without one, then ``problem`` says why.
    """

    case: Case
    name: str
    facts: list[Fact]
    previous: Signature | None
    changed: list[str]
    differences: list[str]
    waiting: list[Waiting]
    signatures: list[Signature]
    verdict: Verdict | None
    problem: str

    @property
    def refused(self) -> list[str]:
        """What refuses it: a sentence for each line, or why there is no policy; empty if nothing does."""
        if self.verdict is None:
            return [self.problem]
        return [one.sentence for one in self.verdict.findings if not one.accepted]

    @property
    def python(self) -> list[tuple[str, list[str]]]:
        """The names and lines of a bundle's files, as they would run; none of any other document."""
        files = (self.case.document.get("bundle") or {}).get("files") or {}
        return [(name, [visible(line) for line in files[name].split("\n")]) for name in sorted(files)]


def review(home: SiteHome, approvals: Approvals, case: Case) -> Review:
    """Return what there is to read about *case*. Raises PlasmidError where it cannot be understood."""
    document: Any = parse_document(case.document)
    project = case.opened_project()
    policy, said, problem = None, None, ""
    try:
        policy = read_policy(home.policy)
    except PolicyRefused as error:
        problem = error.message
    waiting = [one for one in approvals.files.all_waiting() if one.subject == case.subject]
    if policy is not None:
        said = verdict(
            home,
            policy,
            approvals,
            document,
            case.subject.recipe,
            project=project,
            requester=requester_of(project, waiting[-1:]),
        )
    facts = explain(home, policy, document, project, None if said is None else said.facts)
    previous, before = _last_approved(approvals, case)
    lines: list[str] = []
    if before is not None:
        old: Any = parse_document(before.document)
        lines = changed(explain(home, policy, old, before.opened_project()), facts)
        if before.subject.view != case.subject.view:
            lines.append("the view of this site's data is not the one that was approved")
    return Review(
        case=case,
        name=document_name(case),
        facts=facts,
        previous=previous,
        changed=lines,
        differences=[] if before is None else differences(before.document, case.document),
        waiting=waiting,
        signatures=approvals.signatures(case.subject),
        verdict=said,
        problem=problem,
    )


def document_name(case: Case) -> str:
    """Return the name of a case's document."""
    return str(case.document.get("name") or case.document.get("computation"))


def requester_of(project: Project, waiting: Sequence[Waiting]) -> ProjectPerson | None:
    """Return who asked for a run that waits, whose own signature may not count."""
    names = {(one.requester, one.organisation) for one in waiting}
    return next((one for one in project.people if (one.name, one.organisation) in names), None)


def _last_approved(approvals: Approvals, case: Case) -> tuple[Signature | None, Case | None]:
    for said in reversed(approvals.all_signatures()):
        subject = said.approval.subject
        if said.approval.meaning != "approved" or said.state == "revoked" or subject == case.subject:
            continue
        other = approvals.files.case(subject)
        if other is not None and document_name(other) == document_name(case):
            return said, other
    return None, None
