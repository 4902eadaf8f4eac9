"""Admission: from a document that someone wants to run to a run that this site takes part in, or a refusal.

Rules
-----
1. The digest is computed here, from the document and this site's own copy of the computation.
2. The policy decides; a privacy unit needs a budget, and the run's whole epsilon is reserved at admission.
3. A run that was admitted before, on the same digest, may be admitted again after a restart: its key epochs
   are over, and :mod:`plasmid.gateway.marks` and the ledger remember what it has done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from plasmid.computations import api
from plasmid.core.errors import ProtocolError, RecipeError
from plasmid.data.csv import read_table
from plasmid.data.table import Table
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.journal import Journal
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.marks import Marks
from plasmid.gateway.policy import read_policy
from plasmid.gateway.terms import unit_terms
from plasmid.models.store import BaseModel, ensure_model
from plasmid.privacy.secure_aggregation import SiteEpoch
from plasmid.protocol.messages import Admit, Ask, Planned, Signed, UnitTerms
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document


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
    terms
        Rate, noise and attempts under a privacy unit, else None.
    number, roster, c, planned
        The current epoch's number, sites and collusion bound, and what the first epoch fixed.
    epoch
        The epoch's secrets; None where nothing is masked.
    last
        The last attempt: (epoch, slot), the manifest's digest, and the answer once there is one.
    """

    run: str
    document: Any
    digest: str
    base: BaseModel | None
    shape: api.Shape
    table: Table | None
    terms: UnitTerms | None
    number: int = 0
    roster: tuple[str, ...] = ()
    c: int = 0
    planned: Planned | None = None
    epoch: SiteEpoch | None = None
    last: tuple[tuple[int, int], str, Answer | None] = field(default=((0, -1), "", None))

    @property
    def masked(self) -> bool:
        """Whether contributions leave masked."""
        return bool(self.document.privacy.protect == "masked")


def admit(home: SiteHome, journal: Journal, ledger: Ledger, request: Ask | Admit) -> AdmittedRun:
    """Return the run of *request*, if this site takes part.

    Raises
    ------
    PlasmidError
        Why it does not.
    """
    digest = recipe_digest(request.document, str(request.document.get("computation")))
    if digest != request.digest:
        raise ProtocolError(
            "protocol.digest",
            f"the document's digest here is {digest}, announced was {request.digest}.",
            "Use the same release of the computation at both ends.",
        )
    document: Any = parse_document(request.document)
    policy = read_policy(home.policy)
    policy.check(document, digest)
    known = Marks(home.runs).read(request.run) if isinstance(request, Admit) else None
    if known is not None and known.digest != digest:
        raise ProtocolError("protocol.epoch_used", f"{request.run} was admitted here with another document.")
    config = home.config()
    terms = unit_terms(document, config)
    base: BaseModel | None = None
    model = getattr(document, "model", None)
    if model is not None:
        base = ensure_model(model.base, revision=model.revision, digest=model.digest)
    contract = getattr(document, "contract", None)
    table = None if contract is None else read_table(home.view(document.name), contract)
    for notice in table.notices if table else ():
        journal.write("notice", run=request.run, text=notice)
    computation = api.load(document.computation)
    shape = computation.shape(document, base)
    if document.privacy.record_clip is not None and computation.SITE_HALF == "vector":
        raise RecipeError(
            "recipe.opaque",
            f"mechanism: {document.privacy.mechanism} clips every {document.privacy.unit}; "
            f"{document.computation} returns a finished vector, in which nobody can.",
            "Use mechanism: output, which noises the vector for its whole bound.",
        )
    if terms is not None:
        _reserve(ledger, request, document, config, terms, policy.budget(config.population))
    return AdmittedRun(
        run=request.run, document=document, digest=digest, base=base, shape=shape, table=table, terms=terms
    )


def _reserve(
    ledger: Ledger, request: Ask | Admit, document: Any, config: SiteConfig, terms: UnitTerms, budget: Any
) -> None:
    """Reserve what the run may cost; for a question only see whether it could be."""
    cost = {
        "population": config.population,
        "unit": document.privacy.unit,
        "epsilon": document.privacy.epsilon,
        "delta": document.privacy.delta,
        "budget": budget,
    }
    if isinstance(request, Ask):
        ledger.check(**cost)
    else:
        ledger.reserve(run=request.run, digest=request.digest, attempts=terms.attempts, **cost)
