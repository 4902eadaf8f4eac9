"""The gateway: everything that leaves a site passes through :meth:`Gateway.contribute`.

    authenticate -> admit -> mark the round -> compute -> output contract -> clip -> fixed point
      -> mask -> sign -> log -> send

Rules
-----
1. Every message is checked against the identity that the owner pinned for its author.
2. A run is admitted by the site's own policy, on a digest that the site computes itself.
3. A manifest is compared, field by field, with what the admitted document implies; the site chooses
   nothing and believes nothing.
4. **A round is answered once.** The manifest is marked before the computation starts; the same manifest
   again gets the stored bytes, another one for that round is refused.
5. The clip is applied here, by a norm in float64, whatever the computation returned; wrong shape, dtype or a
   non-finite value is refused, size is not (that would leak).
6. What the log cannot record does not leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import PlasmidError, ProtocolError
from plasmid.data.csv import read_table
from plasmid.data.table import Table
from plasmid.gateway.disclosure import public
from plasmid.gateway.home import SiteHome
from plasmid.gateway.journal import Journal
from plasmid.gateway.output import clip
from plasmid.gateway.peers import read_peers
from plasmid.gateway.policy import read_policy
from plasmid.models.store import BaseModel, ensure_model
from plasmid.privacy.ring import Encoding, check_no_overflow, encode, plan_encoding
from plasmid.privacy.secure_aggregation import SiteEpoch, check_colluders, least_colluders
from plasmid.privacy.statements import PROTOCOL
from plasmid.protocol.body import body_bytes, pack
from plasmid.protocol.messages import (
    Admission,
    Admit,
    Ask,
    Bundles,
    Contribution,
    Epoch,
    Manifest,
    Relay,
    Signed,
    open_signed,
    sign,
)
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document

Computation = Callable[[Manifest], NDArray[Any]]
"""Runs the site half for one manifest and returns the raw vector, float [length]."""


@dataclass(frozen=True)
class Answer:
    """What leaves for one manifest: the signed contribution, and the body that it names by its SHA-256."""

    contribution: Signed
    digest: str
    body: bytes


@dataclass
class AdmittedRun:
    """What the gateway holds about one run, in memory only."""

    run: str
    document: Any
    digest: str
    base: BaseModel | None
    shape: api.Shape
    table: Table | None
    roster: tuple[str, ...] = ()
    plan: Encoding | None = None
    c: int = 0
    epoch: SiteEpoch | None = None
    answered: dict[int, tuple[str, Answer | None]] = field(default_factory=dict)

    @property
    def masked(self) -> bool:
        """Whether contributions leave masked."""
        return bool(self.document.privacy.protect == "masked")


class Gateway:
    """One site's gateway. Not thread-safe across one run; runs are independent."""

    def __init__(self, home: SiteHome) -> None:
        self.home = home
        self.identity = home.identity()
        self.journal = Journal(home.journal)
        self._runs: dict[str, AdmittedRun] = {}

    @property
    def site(self) -> str:
        """The site's name."""
        return self.identity.name

    def open(self, signed: Signed) -> Any:
        """Return the message inside *signed*. Raises ProtocolError if it isn't the coordinator's."""
        return open_signed(signed, read_peers(self.home.peers).coordinator)

    # -- admission ---------------------------------------------------------------------------------

    def answer(self, request: Ask | Admit) -> Admission:
        """Answer ``ask`` or ``admit``; with ``admit`` and a yes, the run is known from now on."""
        try:
            self.journal.write(request.type, run=request.run, digest=request.digest)
            admitted = self._admit(request)
            if isinstance(request, Admit):
                self._runs[request.run] = admitted
            self.journal.write("accepted", run=request.run, digest=request.digest, request=request.type)
        except PlasmidError as error:
            return self.refusal(request.run, error)
        return Admission(run=request.run, site=self.site, accepted=True)

    def refusal(self, run: str, error: PlasmidError) -> Admission:
        """Log *error* in full and return the answer that says no in a constant sentence."""
        self.journal.write("refused", run=run, code=error.code, detail=error.message)
        code, sentence = public(error)
        return Admission(run=run, site=self.site, accepted=False, code=code, sentence=sentence)

    def _admit(self, request: Ask | Admit) -> AdmittedRun:
        if isinstance(request, Admit) and self.home.last_epoch(request.run):
            raise ProtocolError(
                "protocol.epoch_used", f"{request.run} was admitted here before; its rounds may be answered."
            )
        digest = recipe_digest(request.document, str(request.document.get("computation")))
        if digest != request.digest:
            raise ProtocolError(
                "protocol.digest",
                f"the document's digest here is {digest}, announced was {request.digest}.",
                "Use the same release of the computation at both ends.",
            )
        document: Any = parse_document(request.document)
        read_policy(self.home.policy).check(document, digest)
        base: BaseModel | None = None
        model = getattr(document, "model", None)
        if model is not None:
            base = ensure_model(model.base, revision=model.revision, digest=model.digest)
        contract = getattr(document, "contract", None)
        table = None if contract is None else read_table(self.home.view(document.name), contract)
        for notice in table.notices if table else ():
            self.journal.write("notice", run=request.run, text=notice)
        shape = api.load(document.computation).shape(document, base)
        return AdmittedRun(
            run=request.run, document=document, digest=digest, base=base, shape=shape, table=table
        )

    def run(self, run: str) -> AdmittedRun:
        """Return an admitted run. Raises ProtocolError (``run.unknown``)."""
        if run not in self._runs:
            raise ProtocolError("run.unknown", f"the run {run} is not known here.")
        return self._runs[run]

    def forget(self, run: str) -> None:
        """Drop a run and its secrets."""
        self._runs.pop(run, None)

    # -- key epoch ---------------------------------------------------------------------------------

    def begin_epoch(self, request: Epoch) -> Signed | None:
        """Take the roster; return this site's signed advert, or None where nothing is masked."""
        admitted = self.run(request.run)
        roster = tuple(request.roster)
        if admitted.roster or self.site not in roster or sorted(set(roster)) != list(roster):
            raise ProtocolError("protocol.manifest", f"the roster of {request.run} is not acceptable.")
        if len(roster) < admitted.document.federation.min_sites:
            raise ProtocolError(
                "protocol.manifest", f"{len(roster)} sites are fewer than the recipe's min_sites."
            )
        if request.slots < admitted.document.rounds:
            raise ProtocolError("protocol.manifest", "there are fewer slots than rounds.")
        shape = admitted.shape
        plan = plan_encoding(length=shape.schema.size, bound=shape.bound, sites=len(roster), bits=shape.bits)
        epoch = None
        if admitted.masked:
            check_colluders(len(roster), request.c, self._least_colluders(admitted, roster))
            epoch = SiteEpoch(
                run=request.run,
                epoch=request.epoch,
                site=self.site,
                document=admitted.digest,
                slots=request.slots,
            )
        self.home.claim_epoch(request.run, request.epoch)
        self.journal.write("epoch", run=request.run, epoch=request.epoch, roster=list(roster), c=request.c)
        admitted.roster, admitted.plan, admitted.c, admitted.epoch = roster, plan, request.c, epoch
        return sign(self.identity, epoch.advert) if epoch else None

    def _least_colluders(self, admitted: AdmittedRun, roster: tuple[str, ...]) -> int:
        peers = read_peers(self.home.peers)
        organisations = {site: peers.organisation(site) for site in roster}
        organisations[self.site] = self.home.config().organisation
        return least_colluders(
            organisations, admitted.document.federation.colluding_organisations, me=self.site
        )

    def relay(self, message: Relay) -> Bundles | Signed | None:
        """Take other sites' statements; return what this site says next (None after ``ready``)."""
        admitted = self.run(message.run)
        epoch = admitted.epoch
        if epoch is None:
            raise ProtocolError("protocol.ready", f"{message.run} has no key epoch.")
        peers = read_peers(self.home.peers)
        statements = []
        for signed in message.statements:
            key = self.identity.public if signed.signer == self.site else peers.key(signed.signer)
            statement = open_signed(signed, key)
            author = statement.sender if statement.type == "bundle" else getattr(statement, "site", None)
            if statement.type != message.kind or author != signed.signer:
                raise ProtocolError("protocol.signature", f"a statement of {signed.signer} names {author}.")
            statements.append(statement)
        if message.kind == "advert":
            if sorted(statement.site for statement in statements) != list(admitted.roster):
                raise ProtocolError("protocol.adverts", "the adverts are not those of the roster.")
            bundles = epoch.bundles(statements)
            return Bundles(
                run=message.run,
                site=self.site,
                statements=[sign(self.identity, bundle) for bundle in bundles],
            )
        if message.kind == "bundle":
            least = self._least_colluders(admitted, admitted.roster)
            ready = epoch.ready(statements, c=admitted.c, least=least)
            self.journal.write("ready", run=message.run, rho=epoch.rho, n=ready.n, c=ready.c)
            return sign(self.identity, ready)
        epoch.seal(statements)
        return None

    # -- the one way out ---------------------------------------------------------------------------

    def contribute(self, manifest: Manifest, computation: Computation) -> Answer:
        """Answer one manifest.

        The answer is stored before it is returned, and returned again, byte for byte, for the same manifest
        until a later round is answered.

        Raises
        ------
        ProtocolError
            ``protocol.manifest``: the manifest isn't what the admitted document implies;
            ``protocol.second_manifest``: the round was answered, or begun, under another one;
            ``protocol.vector``: the computation broke the output contract.
        StorageError
            The decision could not be logged.
        """
        admitted = self.run(manifest.run)
        self._check_manifest(admitted, manifest)
        digest = manifest.digest()
        if manifest.round in admitted.answered:
            known, answer = admitted.answered[manifest.round]
            if known != digest or answer is None:
                raise ProtocolError(
                    "protocol.second_manifest", f"round {manifest.round} of {manifest.run} was begun before."
                )
            return answer
        admitted.answered = {done: (known, None) for done, (known, _) in admitted.answered.items()}
        admitted.answered[manifest.round] = (digest, None)
        self.journal.write(
            "manifest", run=manifest.run, round=manifest.round, slot=manifest.slot, digest=digest
        )
        vector, norm = clip(computation(manifest), admitted.shape, admitted.document.computation)
        words = encode(vector, manifest.encoding())
        if admitted.epoch is not None:
            admitted.epoch.mask(words, slot=manifest.slot, manifest=digest, invited=manifest.invited)
        body = pack("words", words)
        body_digest = sha256_hex(body)
        contribution = sign(
            self.identity,
            Contribution(
                run=manifest.run,
                site=self.site,
                round=manifest.round,
                slot=manifest.slot,
                manifest=digest,
                body=body_digest,
                body_bytes=len(body),
            ),
        )
        self.journal.write(
            "contributed",
            run=manifest.run,
            round=manifest.round,
            body=body_digest,
            bytes=len(body),
            norm=norm if api.load(admitted.document.computation).SITE_HALF == "loss" else None,
            bound=manifest.bound,
            masked=admitted.masked,
        )
        done = Answer(contribution, body_digest, body)
        admitted.answered[manifest.round] = (digest, done)
        return done

    def _check_manifest(self, admitted: AdmittedRun, manifest: Manifest) -> None:
        plan = admitted.plan
        expected = {
            "protocol": PROTOCOL if admitted.masked else "none",
            "epoch": admitted.epoch.epoch if admitted.epoch else manifest.epoch,
            "slot": manifest.round - 1,
            "rho": admitted.epoch.rho if admitted.epoch else None,
            "document": admitted.digest,
            "base": admitted.base.digest if admitted.base else None,
            "state_bytes": body_bytes("state", admitted.shape.schema.size, admitted.shape.dtype),
            "invited": list(admitted.roster),
            "min_sites": admitted.document.federation.min_sites,
        }
        wrong = [name for name, value in expected.items() if getattr(manifest, name) != value]
        if plan is None or manifest.encoding() != plan:
            wrong.append("encoding")
        if not 1 <= manifest.round <= admitted.document.rounds:
            wrong.append("round")
        if wrong:
            raise ProtocolError(
                "protocol.manifest",
                f"round {manifest.round}: the manifest differs from the admitted run in {', '.join(wrong)}.",
            )
        check_no_overflow(manifest.encoding(), len(admitted.roster))
