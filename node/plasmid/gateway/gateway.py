"""The gateway: everything computed from rows that leaves a site passes through :meth:`Gateway.contribute`.

    authenticate -> admit -> verify the state -> charge and mark the attempt -> compute -> output contract
      -> bounds -> fixed point -> noise share -> tag and mask -> sign -> log -> send

Rules
-----
1. Every message is checked against the identity that the owner pinned for its author.
2. A run is admitted by the site's own policy, on a digest that the site computes itself.
3. A manifest is compared, field by field, with what the admitted document implies; the site chooses
   nothing and believes nothing. The state that it names must follow from the sums that this site knows
   (:mod:`plasmid.gateway.verify_states`): nothing is computed at any other.
4. **An attempt is answered once.** It is charged and marked before the computation starts; the same manifest
   again gets the stored bytes, another one for that slot, or an older slot, is refused.
5. Bounds and shared noise are applied here, whatever the computation returned; wrong shape, dtype or a
   non-finite value is refused, size is not (that would leak). Computations hold no clip, noise or ledger.
   What has cells and no privacy unit is subject to the rules of :mod:`plasmid.disclosure.suppression`.
6. What the log or the ledger cannot record does not leave, nor does anything while the owner's pause is in
   force.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import Clock, now
from plasmid.core.errors import PlasmidError, ProtocolError
from plasmid.disclosure.rules import layout_of
from plasmid.gateway.admission import AdmittedRun, Answer, admit
from plasmid.gateway.approvals.quorum import AwaitingApproval
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.contribution_entry import released
from plasmid.gateway.epochs import Epochs
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import KeyStore
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.manifests import check_manifest
from plasmid.gateway.members.peers import read_peers
from plasmid.gateway.members.projects import Projects
from plasmid.gateway.members.revocations import Revoked
from plasmid.gateway.noise_check import check_noised
from plasmid.gateway.output import bounded, in_ring
from plasmid.gateway.pause import check_running
from plasmid.gateway.personal import Personal
from plasmid.gateway.policy.conditions import check_go_on, error_detail
from plasmid.gateway.policy.file import Policy
from plasmid.gateway.replay import Marks
from plasmid.gateway.sentences import public
from plasmid.gateway.totals import Answered, Source
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.body import pack
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.messages import (
    Admission,
    Admit,
    Ask,
    Blobs,
    Bundles,
    Conclude,
    Countersigned,
    Epoch,
    Manifest,
    Relay,
    Signed,
    open_signed,
    sign,
)
from plasmid.protocol.revocation import Revocation
from plasmid.release.result import hardware_name
from plasmid.secagg.ring import Words
from plasmid.secagg.samples import body_root
from plasmid.secagg.statements import Contribution, IsolationLevel

if TYPE_CHECKING:
    from plasmid.disclosure.contributors import Evidence


@dataclass(frozen=True)
class Summed:
    """The raw vector of a sum in cells, and what the site's own worker says about their people."""

    vector: NDArray[Any]
    evidence: Evidence | None


Computation = Callable[[Manifest], NDArray[Any] | Summed]
"""Runs the site half for one manifest and returns the raw vector, float [length]."""


class Gateway:
    """One site's gateway. Not thread-safe across one run; runs are independent."""

    def __init__(
        self,
        home: SiteHome,
        keys: KeyStore,
        *,
        source: Source,
        isolation: IsolationLevel = "none",
        clock: Clock = now,
    ) -> None:
        self.home = home
        self._source = source
        self.isolation = isolation
        self.identity = keys.identity()
        self.audit = AuditLog(home.audit, self.identity, clock=clock)
        self.ledger = Ledger(home.ledger, self.audit)
        self.projects = Projects(home.projects, name=self.identity.name, key=self.identity.public)
        self._revoked = Revoked(home.revoked)
        self._leaving = threading.Lock()
        self.approvals = Approvals(home, self.audit)
        self.personal = Personal(home.personal)
        self._untold: set[str] = set()
        self._clock = clock
        self._marks = Marks(home.runs)
        self._epochs = Epochs(home, self.identity, self.projects, self.audit, self.ledger, source)
        self._runs: dict[str, AdmittedRun] = {}
        self._broken: dict[str, ProtocolError] = {}

    @property
    def site(self) -> str:
        """The site's name."""
        return self.identity.name

    def open(self, signed: Signed) -> Any:
        """Return the message inside *signed*. Raises ProtocolError if it isn't the coordinator's."""
        return open_signed(signed, read_peers(self.home.peers).coordinator)

    def revoke(self, statement: Envelope) -> Revocation | None:
        """Keep a revocation; return it if it was not known. Raises ProtocolError, StorageError."""
        with self._leaving:
            said = self._revoked.note(statement, read_peers(self.home.peers).coordinator)
            if said is not None:
                self.audit.write(
                    "revoked",
                    actor="coordinator",
                    reason=said.reason,
                    name=said.name,
                    role=said.role,
                    key=said.key,
                    since=said.revoked,
                )
        return said

    # -- admission ---------------------------------------------------------------------------------

    def answer(self, request: Ask | Admit) -> Admission:
        """Answer ``ask`` or ``admit``; with ``admit`` and a yes, the run is known from now on."""
        try:
            if request.run in self._broken:
                raise self._broken[request.run]
            if isinstance(request, Admit):
                self.audit.verify()
            self.audit.write(
                request.type,
                actor="coordinator",
                run=request.run,
                project=sha256_hex(request.project.payload),
            )
            admitted = admit(
                self.home,
                self.projects,
                self.audit,
                self.ledger,
                self.approvals,
                request,
                isolation=self.isolation,
                clock=self._clock,
            )
            if isinstance(request, Admit):
                before = self._runs.get(request.run)
                if before is not None:
                    admitted.following = before.following
                if before is not None and before.opened is not None:
                    before.opened.close()
                self._runs[request.run] = admitted
            self.audit.write(
                "accepted",
                object=admitted.digest,
                run=request.run,
                rule="policy.allow",
                policy=sha256_hex(self.home.policy.read_bytes()) if self.home.policy.exists() else None,
                view=admitted.facts.view,
                project=admitted.project.digest(),
                requester=admitted.requester,
                request=request.type,
            )
        except PlasmidError as error:
            return self.refusal(request.run, error)
        return Admission(run=request.run, site=self.site, accepted=True, terms=admitted.terms)

    def refusal(self, run: str, error: PlasmidError) -> Admission:
        """Log *error* in full and return the answer that says no in a constant sentence."""
        waits = isinstance(error, AwaitingApproval)
        self.audit.write(
            "awaiting" if waits else "refused",
            run=run,
            rule=error.code,
            reason=error.message,
            result="noted" if waits else "refused",
        )
        code, sentence = self.public(error)
        said = Admission(run=run, site=self.site, accepted=False, code=code, sentence=sentence)
        if not isinstance(error, AwaitingApproval):
            return said
        if error.new:
            self._untold.add(run)
        return said.model_copy(update={"pending": error.pending})

    def began_to_wait(self, run: str) -> bool:
        """Return whether *run* has begun to wait for approvals since this was last asked about it."""
        began = run in self._untold
        self._untold.discard(run)
        return began

    def stop_waiting(self, run: str) -> None:
        """Forget that *run*, which is over, waits for approvals."""
        self.approvals.files.end_run(run)
        self._untold.discard(run)

    def public(self, error: Exception) -> tuple[str, str]:
        """Return what may leave of *error*: its code, and its sentence unless the policy keeps that."""
        code, sentence = public(error)
        return code, sentence if error_detail(self.home) == "sentence" else ""

    def run(self, run: str) -> AdmittedRun:
        """Return an admitted run. Raises ProtocolError (``run.unknown``)."""
        if run not in self._runs:
            raise ProtocolError("run.unknown", f"the run {run} is not known here.")
        return self._runs[run]

    def forget(self, run: str) -> None:
        """Drop a run and its secrets; a reservation of which nothing was spent is given back."""
        admitted = self._runs.pop(run, None)
        if admitted is not None and admitted.opened is not None:
            admitted.opened.close()
        if admitted is not None and admitted.terms is not None:
            self.ledger.release(run)

    # -- key epoch and the opening of sums -------------------------------------------------------------

    def begin_epoch(self, request: Epoch) -> Signed | None:
        """See :meth:`plasmid.gateway.epochs.Epochs.begin`."""
        admitted = self.run(request.run)
        self._check_may_leave(admitted)
        with self._noting(request.run):
            return self._epochs.begin(admitted, request)

    def relay(self, message: Relay) -> Bundles | Blobs | Signed | None:
        """See :meth:`plasmid.gateway.epochs.Epochs.relay`."""
        admitted = self.run(message.run)
        self._check_may_leave(admitted)
        return self._epochs.relay(admitted, message)

    # -- the one way out ---------------------------------------------------------------------------

    def contribute(self, manifest: Manifest, computation: Computation) -> Answer:
        """Answer one manifest.

        The answer is stored before it is returned, and returned again, byte for byte, for the same manifest
        until the next attempt.

        Raises
        ------
        ProtocolError
            ``protocol.manifest``: the manifest isn't what the admitted document implies;
            ``protocol.second_manifest``: the slot was used, or begun, under another one, or is older than the
            last; ``protocol.consented``: the round is over; ``protocol.step``, ``protocol.unverified``: the
            state does not follow, or this site cannot tell; ``protocol.vector``: the computation broke the
            output contract.
        ProjectRefused
            ``project.not_signed_here``: the owner has left the run's project since.
        PolicyRefused
            ``policy.attempts``: the run has no attempt left to charge; ``policy.overlap``: with what left
            before it would tell about very few people.
        SiteFailed
            ``site.paused``.
        StorageError
            The decision could not be logged, or the ledger not written; ``storage.log_damaged``: an entry of
            the log is not as it was.
        """
        admitted = self.run(manifest.run)
        self._check_may_leave(admitted)
        shape = check_manifest(self.site, admitted, manifest)
        digest, attempt = manifest.digest(), (manifest.epoch, manifest.slot)
        if attempt <= admitted.last[0]:
            if admitted.last[:2] == (attempt, digest) and admitted.last[2] is not None:
                return admitted.last[2]
            raise ProtocolError(
                "protocol.second_manifest",
                f"slot {manifest.slot} of epoch {manifest.epoch} of {manifest.run} was begun before.",
            )
        charged = admitted.terms is not None
        self._marks.check_round(manifest.run, manifest.round, digest, again=charged)
        with self._noting(manifest.run):
            admitted.following.take(manifest.begins(), self._source)
        admitted.last = (attempt, digest, None)
        if charged and manifest.phase == "train":
            self.ledger.spend(manifest.run)
            self.ledger.charge_attempt(manifest.run, attempt)
        self.audit.write(
            "manifest",
            actor="coordinator",
            object=digest,
            run=manifest.run,
            round=manifest.round,
            epoch=manifest.epoch,
            slot=manifest.slot,
        )
        noised = manifest.mechanism == "dp-sgd"
        made = computation(manifest)
        raw, evidence = (made.vector, made.evidence) if isinstance(made, Summed) else (made, None)
        vector, norm = bounded(raw, shape, noised=noised)
        if noised:
            self._check_noised(admitted, manifest, shape, raw)
        policy = self._check_may_leave(admitted)  # it may have changed while this was computed
        layout = layout_of(admitted.document)
        suppressed: dict[str, Any] = {}
        if layout is not None:
            from plasmid.disclosure.suppression import controlled  # which runs without cells do not need

            vector, suppressed = controlled(
                layout,
                vector,
                evidence,
                disclosure=policy.require.disclosure,
                min_cohort=policy.require.min_cohort,
                folder=self.home.lineage / "statistics" / admitted.population,
                run=manifest.run,
                digest=admitted.digest,
            )
            vector = np.clip(vector, -shape.bound, shape.bound)  # what was rounded may lie beyond
        words, tag = self._protect(admitted, manifest, vector, digest)
        answer = self._answer(admitted, manifest, digest, pack("words", words), tag)
        with self._leaving:
            self._revoked.check(admitted.requested.requester.key)  # it may have come while this was masked
            self.audit.write(
                "released",
                object=answer.digest,
                run=manifest.run,
                bytes=len(answer.body),
                isolation=self.isolation,
                **self._released(admitted, manifest, shape, vector, norm),
                **suppressed,
            )
        admitted.last = (attempt, digest, answer)
        admitted.following.answered[manifest.round] = Answered(
            run=manifest.run,
            manifest=digest,
            state=manifest.state,
            honest=manifest.min_sites - admitted.c,
            invited=tuple(manifest.invited),
            encoding=manifest.encoding(),
            key=admitted.epoch.group_key if admitted.epoch else b"",
            needs=min(manifest.theta, len(admitted.roster) - 1),
        )
        admitted.following.attempts += manifest.phase == "train"
        return answer

    def countersign(self, message: Conclude) -> Countersigned:
        """Countersign what a run came to, if it is what this site took part in; logged before it is signed.

        Raises
        ------
        ProtocolError
            ``protocol.result``, ``protocol.step``, ``protocol.claims``: see
            :func:`plasmid.gateway.countersign.check_result`.
        PlasmidError
            What lets nothing leave, as for :meth:`contribute`.
        """
        from plasmid.gateway.countersign import (
            adapter_digest,
            check_result,
            word_of,
        )  # what a query needs not

        admitted = self.run(message.run)
        self._check_may_leave(admitted)
        coordinator = read_peers(self.home.peers).coordinator
        with self._noting(message.run):
            statement = check_result(self.site, coordinator, admitted, message, self._source)
        hardware = hardware_name(self.home.config().devices)
        word = word_of(self.site, admitted, statement, hardware=hardware)
        self.audit.write(
            "countersigned",
            object=word.digest(),
            run=message.run,
            outcome=statement.digest(),
            contributed=len(admitted.following.answered),
            rerun=admitted.following.rerun,
            epsilon=admitted.document.privacy.epsilon,
            adapter=adapter_digest(admitted),
        )
        return Countersigned(
            run=message.run, site=self.site, statement=Envelope.of(word).signed(self.identity)
        )

    @contextmanager
    def _noting(self, run: str) -> Iterator[None]:
        """Take part no more in a run whose states do not follow from its totals, asked again or not."""
        try:
            yield
        except ProtocolError as error:
            if error.code == "protocol.step":
                self._broken[run] = ProtocolError(error.code, error.message, error.hint)
            raise

    def _check_may_leave(self, admitted: AdmittedRun) -> Policy:
        """Refuse what the owner has paused, a project that he has left, and a requester who was revoked.

        Nothing leaves either once an entry of the log has changed. Returns the policy that holds now.
        """
        self.audit.check_unchanged()
        check_running(self.home)
        self.projects.check(admitted.project.digest())
        self._revoked.check(admitted.requested.requester.key)
        facts = replace(admitted.facts, ledger=self.ledger)
        return check_go_on(self.home, self.approvals, admitted.requested, facts)

    def _check_noised(
        self, admitted: AdmittedRun, manifest: Manifest, shape: api.Shape, raw: NDArray[Any]
    ) -> None:
        terms, opened, document = admitted.terms, admitted.opened, admitted.document
        assert terms is not None, "a mechanism has a unit"
        units = terms.public_size or 0
        if opened is not None:
            units = opened.people if document.privacy.unit == "patient" else opened.rows
        if document.privacy.audit is not None:
            units += document.privacy.audit.canaries
        check_noised(document, shape, terms, raw, site=self.site, round_=manifest.round, units=units)

    def _released(
        self, admitted: AdmittedRun, manifest: Manifest, shape: api.Shape, vector: NDArray[Any], norm: float
    ) -> dict[str, Any]:
        """Return what the log says about a release; see :mod:`plasmid.gateway.contribution_entry`."""
        population, spent = self.ledger.spent(manifest.run)
        return released(
            admitted,
            manifest,
            shape,
            vector,
            norm=norm,
            coordinator=read_peers(self.home.peers).coordinator,
            population=population,
            spent=spent,
        )

    def _protect(
        self, admitted: AdmittedRun, manifest: Manifest, vector: NDArray[Any], digest: str
    ) -> tuple[Words, bytes | None]:
        """Return *vector* as words: rotated if the document says so, noised by this site's share, masked.

        Beside it the masked tag, None where nothing is masked.
        """
        turned = manifest.phase == "train" and admitted.document.privacy.rotation == "hadamard"
        turned_by = bytes.fromhex(admitted.digest) if turned else None
        words = in_ring(vector, manifest.encoding(), turned_by=turned_by)
        if admitted.masked:
            assert admitted.epoch is not None, "what is masked has an epoch"
            invited = manifest.invited
            return words, admitted.epoch.mask(words, slot=manifest.slot, manifest=digest, invited=invited)
        return words, None

    def _answer(
        self, admitted: AdmittedRun, manifest: Manifest, digest: str, body: bytes, tag: bytes | None
    ) -> Answer:
        counter, head = self.ledger.charged()
        body_digest = body_root(body)
        contribution = Contribution(
            run=manifest.run,
            site=self.site,
            epoch=manifest.epoch,
            round=manifest.round,
            slot=manifest.slot,
            manifest=digest,
            body=body_digest,
            body_bytes=len(body),
            tag=tag,
            ledger_counter=counter,
            ledger_head=head,
            isolation=self.isolation,
        )
        if admitted.epoch is not None:
            admitted.epoch.contributed(contribution)
        return Answer(sign(self.identity, contribution), body_digest, body)
