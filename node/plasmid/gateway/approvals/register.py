"""Approvals at a site: what waits for them, who has signed, and whether that is enough.

Rules
-----
1. An approval counts for its own subject alone, byte for byte, under the key of a person whom the policy
   names; one person counts once for each meaning.
2. It holds until its end or its revocation. The time is the later one of the clock and of the newest entry
   of the log, so that setting the clock back revives nothing.
3. A signature is logged before it counts, a revocation is logged once it holds.
4. A run waits until its own deadline, which the first look at it sets.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from pydantic import ValidationError

from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import parse, stamp
from plasmid.core.errors import PolicyRefused, ProtocolError, UsageError
from plasmid.gateway.approvals.files import ApprovalFiles, Case, Waiting
from plasmid.gateway.approvals.people import People, Person
from plasmid.gateway.approvals.quorum import AwaitingApproval, Signature, Standing, State, standing_of
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import Cost, Passphrase
from plasmid.gateway.policy.grants import Approvers, Grant
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.approval import Approval, ApprovalRevocation, Meaning, Subject
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.project import ProjectPerson

MAX_DAYS = 366
"""An approval lasts no longer."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of the present an approval may have been signed."""

T = TypeVar("T")


class Approvals:
    """The approvals of one site. Every call reads the folder as it is."""

    def __init__(self, home: SiteHome, log: AuditLog) -> None:
        self.files = ApprovalFiles(home.approvals)
        self.people = People(home.people)
        self._site, self._log = home.config(), log

    def time(self) -> datetime:
        """Return the later one of the clock and the newest entry of the log."""
        return self._log.log_time()

    # -- what a gateway asks -----------------------------------------------------------------------

    def check(self, grants: Sequence[Grant], subject: Subject, requester: ProjectPerson) -> None:
        """Refuse a task whose approvals under *grants*, of which one must hold, are not there any more.

        Raises
        ------
        PolicyRefused
            ``policy.awaiting_approval``, ``policy.approval_revoked``, ``policy.approval_expired``.
        """
        standing = self.best(grants, subject, requester)
        if standing is not None and not standing.met:
            raise PolicyRefused(
                standing.code, f"{standing.have} of {standing.need} approvals hold for {subject.recipe}."
            )

    def require(
        self, grants: Sequence[Grant], case: Case, requester: ProjectPerson, *, run: str | None
    ) -> None:
        """Make *run* wait for the approvals that *grants* ask for; None only asks how far they are.

        Raises
        ------
        AwaitingApproval
            They are not there yet.
        PolicyRefused
            ``policy.approval_expired``: the run has waited long enough.
        """
        standing = self.best(grants, case.subject, requester)
        if standing is None or standing.met:
            if run is not None:
                self.files.end(run, case.subject.recipe)
            return
        if run is None:
            raise AwaitingApproval(standing, None, new=False)
        days = max(grant.approvers.wait_days for grant in grants if grant.approvers)
        waiting, new = self._wait(run, case, requester, timedelta(days=days))
        if self.time() >= parse(waiting.expires):
            raise PolicyRefused(
                "policy.approval_expired",
                f"{run} has waited for approvals until {waiting.expires}: "
                f"{standing.have} of {standing.need} were given.",
                "Ask for a new run.",
            )
        raise AwaitingApproval(standing, waiting, new=new)

    def best(
        self, grants: Sequence[Grant], subject: Subject, requester: ProjectPerson | None
    ) -> Standing | None:
        """Return the standing under the rule that lacks least; None where a rule asks for no approval."""
        if any(grant.approvers is None for grant in grants):
            return None
        standings = [
            self.standing(subject, grant.approvers, requester)
            for grant in grants
            if grant.approvers is not None
        ]
        return min(standings, key=lambda one: one.need - one.have)

    def standing(
        self, subject: Subject, approvers: Approvers, requester: ProjectPerson | None = None
    ) -> Standing:
        """Return how far the approvals of *subject* are.

        Parameters
        ----------
        requester
            Whose own signature does not count where the rule separates duties; None for nobody's.
        """
        excluded: set[str] = set()
        if approvers.separation and requester is not None:
            own = requester.organisation == self._site.organisation
            excluded = self.people.known_as(requester.key, requester.name if own else None)
        named = [
            said
            for said in self.signatures(subject)
            if said.person.name in approvers.people and said.person.name not in excluded
        ]
        return standing_of(named, approvers)

    # -- what people do ----------------------------------------------------------------------------

    def add_person(
        self, name: str, *, full_name: str, role: str, passphrase: Passphrase, cost: Cost | None = None
    ) -> Person:
        """Record a person, and log it. Raises as :meth:`plasmid.gateway.approvals.people.People.add`."""
        made = self.people.add(
            name, full_name=full_name, role=role, passphrase=passphrase, cost=cost, since=self.time()
        )
        self._log.write("person.added", actor="owner", object=sha256_hex(bytes.fromhex(made.key)), name=name)
        return made

    def sign(
        self, case: Case, name: str, *, meaning: Meaning, reason: str, days: int, passphrase: Passphrase
    ) -> Signature:
        """Sign *case* as *name*, for *days* days, and keep the approval.

        Raises
        ------
        UsageError
            ``usage.no_person``; ``usage.approval``: reason or days cannot be used.
        KeysError
            ``keys.passphrase``, as every signature is made anew.
        StorageError
            The signature could not be logged or kept.
        """
        if not 1 <= days <= MAX_DAYS:
            raise UsageError(
                "usage.approval", f"{days} days: an approval lasts 1 to {MAX_DAYS} days.", "Give --days."
            )
        self.people.get(name)
        time = self.time()
        try:
            approval = Approval(
                subject=case.subject,
                signer=name,
                meaning=meaning,
                reason=reason.strip(),
                signed_at=stamp(time),
                expires=stamp(time + timedelta(days=days)),
                nonce=secrets.token_hex(16),
            )
        except ValidationError as error:
            raise _unusable_reason() from error
        envelope = Envelope.of(approval).signed(self.people.signer(name, passphrase))
        digest = approval.digest()
        self._log.write(
            "approval.signed",
            actor=f"person:{name}",
            object=case.subject.recipe,
            reason=approval.reason,
            approval=digest,
            meaning=meaning,
            expires=approval.expires,
        )
        self.files.keep_approval(case.subject.recipe, digest, envelope)
        return Signature(approval, digest, self.people.get(name), "valid")

    def revoke(self, digest: str, name: str, *, reason: str, passphrase: Passphrase) -> Signature:
        """Take the approval *digest* (or its first 8 digits or more) back as *name*.

        Raises
        ------
        UsageError
            ``usage.no_approval``, ``usage.no_person``, ``usage.approval``.
        KeysError
            ``keys.passphrase``.
        """
        found = _only([said for said in self.all_signatures() if said.digest.startswith(digest)], digest)
        self.people.get(name)
        try:
            revocation = ApprovalRevocation(
                approval=found.digest,
                site=found.approval.subject.site,
                signer=name,
                reason=reason.strip(),
                revoked_at=stamp(self.time()),
                nonce=secrets.token_hex(16),
            )
        except ValidationError as error:
            raise _unusable_reason() from error
        envelope = Envelope.of(revocation).signed(self.people.signer(name, passphrase))
        recipe = found.approval.subject.recipe
        self.files.keep_revocation(recipe, found.digest, envelope)
        self._log.write(
            "approval.revoked",
            actor=f"person:{name}",
            object=recipe,
            reason=revocation.reason,
            approval=found.digest,
        )
        return Signature(found.approval, found.digest, found.person, "revoked")

    # -- reading -----------------------------------------------------------------------------------

    def signatures(self, subject: Subject) -> list[Signature]:
        """Return the approvals of *subject* whose signature is their signer's, oldest first."""
        return [said for said in self._of(subject.recipe) if said.approval.subject == subject]

    def all_signatures(self) -> list[Signature]:
        """Return every approval at this site whose signature is its signer's, oldest first."""
        found = [said for recipe in self.files.recipes() for said in self._of(recipe)]
        return sorted(found, key=lambda said: said.approval.signed_at)

    def find(self, digits: str) -> Case:
        """Return the case whose recipe or subject digest begins with *digits* (8 or more).

        Raises
        ------
        UsageError
            ``usage.no_approval``: none, or several.
        """
        found = [
            case
            for case in self.files.cases()
            if case.subject.recipe.startswith(digits) or case.subject.digest().startswith(digits)
        ]
        return _only(found, digits)

    def _of(self, recipe: str) -> list[Signature]:
        time, revoked = self.time(), self.files.revoked(recipe)
        people = {person.name: person for person in self.people.all()}
        found = []
        for digest, envelope in self.files.approvals(recipe):
            try:
                approval = envelope.open(Approval)
                person = people[approval.signer]
                if not envelope.signers({person.key}) or approval.digest() != digest:
                    continue
            except (ProtocolError, KeyError):  # it counts for nothing
                continue
            if approval.subject.recipe != recipe or approval.subject.site != self._site.name:
                continue
            if parse(approval.signed_at) > time + CLOCK_SKEW:
                continue
            state: State = "valid" if approval.holds_at(time) else "expired"
            found.append(Signature(approval, digest, person, "revoked" if digest in revoked else state))
        return sorted(found, key=lambda said: said.approval.signed_at)

    def _wait(
        self, run: str, case: Case, requester: ProjectPerson, patience: timedelta
    ) -> tuple[Waiting, bool]:
        known = self.files.waiting(run, case.subject.recipe)
        if known is not None and known.subject == case.subject:
            return known, False
        time = self.time()
        waiting = Waiting(
            run=run,
            subject=case.subject,
            requester=requester.name,
            organisation=requester.organisation,
            since=stamp(time),
            expires=stamp(time + patience),
        )
        self._log.write(
            "approval.requested",
            object=case.subject.recipe,
            run=run,
            result="noted",
            requester=requester.name,
            view=case.subject.view,
            project=case.subject.project,
            expires=waiting.expires,
        )
        self.files.keep_case(case)
        self.files.keep_waiting(waiting)
        return waiting, True


def _only(found: Sequence[T], digits: str) -> T:
    if len(digits) >= 8 and len(found) == 1:
        return found[0]
    what = "several" if len(found) > 1 else "nothing"
    if len(digits) < 8:
        what = "too few digits to name one:"
    raise UsageError(
        "usage.no_approval",
        f"{what} begins with {digits[:64]!r} among the cases and approvals of this site.",
        "Give 8 digits or more, as 'plasmid approvals ls' prints them.",
    )


def _unusable_reason() -> UsageError:
    return UsageError(
        "usage.approval", "the reason is empty, too long or more than one line.", "Give one line of text."
    )
