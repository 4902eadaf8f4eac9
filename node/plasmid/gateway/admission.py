"""Admission: from a document that someone wants to run to a run that this site takes part in, or a refusal.

Rules
-----
1. The project and the requester's own signature come first (:mod:`plasmid.gateway.members.projects`).
2. The digest is computed here, from the document and this site's own copy of the computation.
3. The policy decides; a privacy unit needs a budget, and the run's whole epsilon is reserved at admission.
4. A run that was admitted before, on the same digest, may be admitted again after a restart: its key epochs
   are over, and :mod:`plasmid.gateway.replay` and the ledger remember what it has done.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from plasmid.adapters.adapter import AdapterSchema
from plasmid.bases.store import BaseModel, check_pinned, ensure_model
from plasmid.computations import api
from plasmid.computations._personal import personal_of
from plasmid.core.clock import Clock, now, stamp
from plasmid.core.errors import PolicyRefused, ProtocolError
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.members.projects import Projects, Requested, check_request
from plasmid.gateway.members.revocations import Revoked
from plasmid.gateway.open_view import Opened, open_view, told_alike
from plasmid.gateway.participation import Derived, Lineage
from plasmid.gateway.pause import check_running
from plasmid.gateway.policy.conditions import check_begin
from plasmid.gateway.policy.decide import decide
from plasmid.gateway.policy.file import Policy
from plasmid.gateway.policy.rule import Facts, refuse
from plasmid.gateway.replay import Marks
from plasmid.gateway.site_parameters import unit_terms
from plasmid.gateway.verify_states import Following
from plasmid.gateway.views import Slice, described, slice_of
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.messages import Admit, Ask, Planned, Signed, UnitTerms
from plasmid.protocol.project import Project
from plasmid.recipes.beside import shape_of
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document, unit_of
from plasmid.secagg.site import SiteEpoch
from plasmid.secagg.statements import IsolationLevel


@dataclass(frozen=True)
class Answer:
    """What leaves for one manifest: the signed contribution, and the body that it names by its SHA-256."""

    contribution: Signed
    digest: str
    body: bytes


@dataclass
class AdmittedRun:
    """What the gateway holds about one run, in memory only.

    Attributes
    ----------
    requested
        Who asked for what, in which project.
    facts
        What the policy decides on, now and before each step: the view's digest and figures among them.
    population
        Whose data they are.
    opened
        The view's snapshot and figures; None where no row is read.
    terms
        Rate, noise and attempts under a privacy unit, else None.
    number, roster, c, planned
        The current epoch's number, sites and collusion bound, and what the first epoch fixed.
    epoch
        The epoch's secrets; None where nothing is masked.
    last
        The last attempt: (epoch, slot), the manifest's digest, and the answer once there is one.
    following
        The public states so far, and whether each followed from the one before.
    personal
        The tensors that the site keeps for itself from round to round; none where nothing is personal.
    """

    run: str
    requested: Requested
    document: Any
    digest: str
    facts: Facts
    population: str
    base: BaseModel | None
    shape: api.Shape
    opened: Opened | None
    terms: UnitTerms | None
    number: int = 0
    roster: tuple[str, ...] = ()
    c: int = 0
    planned: Planned | None = None
    epoch: SiteEpoch | None = None
    last: tuple[tuple[int, int], str, Answer | None] = field(default=((0, -1), "", None))
    following: Following = field(init=False)
    personal: AdapterSchema = field(init=False)

    def __post_init__(self) -> None:
        self.following = Following(self.document, self.digest, self.shape)
        trains = api.makes_adapter(api.load(self.document.computation))
        self.personal = personal_of(self.document, self.base) if trains else AdapterSchema(())

    @property
    def project(self) -> Project:
        """The project that the run belongs to."""
        return self.requested.project

    @property
    def requester(self) -> str:
        """The name of who asked for the run."""
        return self.requested.requester.name

    @property
    def masked(self) -> bool:
        """Whether contributions leave masked."""
        return bool(self.document.privacy.protect == "masked")


def admit(
    home: SiteHome,
    projects: Projects,
    audit: AuditLog,
    ledger: Ledger,
    approvals: Approvals,
    asked: Ask | Admit,
    *,
    isolation: IsolationLevel,
    clock: Clock = now,
) -> AdmittedRun:
    """Return the run of *asked*, if this site takes part.

    Parameters
    ----------
    isolation
        How the worker that would compute is locked in.

    Raises
    ------
    PlasmidError
        Why it does not.
    """
    check_running(home)
    requested = check_request(asked, projects, time=clock())
    Revoked(home.revoked).check(requested.requester.key)
    request = requested.request
    digest = recipe_digest(request.document, str(request.document.get("computation")))
    if digest != request.digest:
        raise ProtocolError(
            "protocol.digest",
            f"the document's digest here is {digest}, announced was {request.digest}.",
            "Use the same release of the computation at both ends.",
        )
    document: Any = parse_document(request.document)
    run = asked.run if isinstance(asked, Admit) else None
    policy, facts = check_begin(home, approvals, requested, asked.project, document, digest, run=run)
    known = Marks(home.runs).read(asked.run) if isinstance(asked, Admit) else None
    if known is not None and known.digest != digest:
        raise ProtocolError("protocol.epoch_used", f"{asked.run} was admitted here with another document.")
    part = slice_of(home, document)
    view = facts.view
    if described(part, document).digest() != view:
        raise PolicyRefused("policy.view", "the view was changed while the run was looked at.", "Ask again.")
    lineage = Lineage(home.lineage / "runs")
    begun = replace(facts, isolation=isolation, part=part, ledger=ledger)
    refuse(decide(policy, replace(begun, log=audit)))  # before a row is read
    terms = unit_terms(document, part.public_size)
    base: BaseModel | None = None
    model = getattr(document, "model", None)
    if model is not None:
        check_pinned(model.base, model.digest)
        base = ensure_model(model.base, revision=model.revision, digest=model.digest)
    opened = None
    if getattr(document, "contract", None) is not None:
        with told_alike(document):
            opened = _open(home, audit, asked, document, digest, view, part)
    try:
        shape = shape_of(api.load(document.computation), document, base)
        facts = replace(begun, shape=shape, opened=opened)
        refuse(decide(policy, replace(facts, lineage=lineage)))
        if terms is not None:
            _reserve(ledger, asked, requested, document, part.population, terms, policy)
        if opened is not None and isinstance(asked, Admit):
            _remember(home, asked, requested, document, digest, view, part, opened, clock)
    except BaseException:
        if opened is not None:
            opened.close()
        raise
    return AdmittedRun(
        run=asked.run,
        requested=requested,
        document=document,
        digest=digest,
        facts=replace(facts, ledger=None),  # a record of what was known; the ledger is the gateway's
        population=part.population,
        base=base,
        shape=shape,
        opened=opened,
        terms=terms,
    )


def _open(
    home: SiteHome,
    audit: AuditLog,
    asked: Ask | Admit,
    document: Any,
    digest: str,
    view: str,
    part: Slice,
) -> Opened:
    """Open the view, and log that it was, before and after."""
    said: dict[str, Any] = {"object": view, "run": asked.run, "rule": "policy.allow"}
    audit.write(
        "view.opened",
        **said,
        recipe=digest,
        source=part.source,
        columns=sorted(document.contract.columns),
        population=part.population,
    )
    opened = open_view(home, part, document, keep=isinstance(asked, Admit))
    for step in opened.steps:
        counts = [f"{what}: {count}" for what, count in step["counts"].items()]
        audit.write("view.step", **said, step=step["name"], counts=counts)
    notices = opened.notices
    if unit_of(document) != "none":  # one entry, whatever was found: peers see how long the log is
        notices = ("\n".join(notices) or "nothing to note",)
    for notice in notices:
        audit.write("notice", run=asked.run, reason=notice, result="noted")
    return opened


def _remember(
    home: SiteHome,
    asked: Admit,
    requested: Requested,
    document: Any,
    digest: str,
    view: str,
    part: Slice,
    opened: Opened,
    clock: Clock,
) -> None:
    """Keep whose rows the run is computed from."""
    derived = Derived(
        run=asked.run,
        document=document.name,
        digest=digest,
        project=requested.project.name,
        requester=requested.requester.name,
        view=view,
        population=part.population,
        snapshot=str(opened.digest),
        by_patient=opened.by_patient,
        admitted=stamp(clock()),
    )
    Lineage(home.lineage / "runs").record(derived, opened.keys)


def _reserve(
    ledger: Ledger,
    asked: Ask | Admit,
    requested: Requested,
    document: Any,
    population: str,
    terms: UnitTerms,
    policy: Policy,
) -> None:
    """Reserve what the run may cost; for a question only see whether it could be."""
    if isinstance(asked, Ask):
        return
    ledger.reserve(
        run=asked.run,
        digest=requested.request.digest,
        project=requested.request.project,
        population=population,
        unit=document.privacy.unit,
        epsilon=document.privacy.epsilon,
        delta=document.privacy.delta,
        attempts=terms.attempts,
        budget=policy.budget(population),
    )
