"""A site's part in key epochs and in opening sums: what it says to other sites, and what it checks first.

Rules
-----
1. Every statement of another site is checked against the identity that this owner pinned for it.
2. An epoch's number and plan are on disk before its advert leaves, a survivor list's mark before its consent.
3. Survivors must belong to enough organisations that this owner has confirmed; unconfirmed ones count
   as none.
4. Bundles remind their receivers of what these have signed themselves. A site whose ledger lacks such a
   charge stops: it was rolled back. One whose marks lack such a consent takes it on. What a site did not sign
   itself counts for nothing and is logged, with who told it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plasmid.core.errors import ProtocolError, StorageError
from plasmid.gateway.admission import AdmittedRun
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.members.heads import Heads, said_by
from plasmid.gateway.members.peers import counted, read_peers
from plasmid.gateway.members.projects import Projects, check_roster
from plasmid.gateway.members.revocations import Revoked
from plasmid.gateway.policy.conditions import check_organisations
from plasmid.gateway.policy.file import Policy
from plasmid.gateway.policy.rule import Facts
from plasmid.gateway.replay import Marks
from plasmid.gateway.totals import Source
from plasmid.log.audit_log import AuditLog
from plasmid.planner.attempts import attempt_plan, attempts, check_ranks
from plasmid.protocol.identity import NamedSigner
from plasmid.protocol.messages import Blobs, Bundles, Epoch, Relay, Signed, open_signed, sign, wire
from plasmid.secagg.samples import Shown
from plasmid.secagg.site import SiteEpoch, check_colluders, least_colluders
from plasmid.secagg.statements import Bundle, Contribution


class Epochs:
    """See the module's rules; one object for all runs of a site."""

    def __init__(
        self,
        home: SiteHome,
        identity: NamedSigner,
        projects: Projects,
        audit: AuditLog,
        ledger: Ledger,
        source: Source,
    ) -> None:
        self._home, self._identity, self._audit, self._ledger = home, identity, audit, ledger
        self._source = source
        self._projects = projects
        self._revoked = Revoked(home.revoked)
        self._marks = Marks(home.runs)
        self._heads = Heads(home.heads)

    def begin(self, admitted: AdmittedRun, request: Epoch) -> Signed | None:
        """Take the roster; return this site's signed advert, or None where nothing is masked.

        Raises
        ------
        ProtocolError
            ``protocol.manifest``: roster, slots or plan are not acceptable, or no state to begin with is
            named; ``protocol.step``, ``protocol.body``: the state does not follow; ``protocol.colluders``;
            ``protocol.epoch_used``; ``protocol.revoked``: a site of the roster is a member no more.
        ProjectRefused
            ``project.not_signed_here``, or as :func:`plasmid.gateway.members.projects.check_roster`.
        StorageError
            ``storage.ledger_rolled_back``: a peer told so in an epoch before.
        """
        document, roster = admitted.document, tuple(request.roster)
        if self._identity.name not in roster or sorted(set(roster)) != list(roster):
            raise ProtocolError("protocol.manifest", f"the roster of {request.run} is not acceptable.")
        self._projects.check(admitted.project.digest())
        self._check_head("a peer", self._heads.newest(self._identity.name, self._identity.public))
        peers = read_peers(self._home.peers)
        check_roster(admitted.requested, roster, peers)
        self._revoked.check(*(peer.key for peer in peers.sites if peer.name in roster))
        if len(roster) < document.federation.min_sites:
            raise ProtocolError(
                "protocol.manifest", f"{len(roster)} sites are fewer than the recipe's min_sites."
            )
        if not 1 <= request.slots <= attempts(document) + 1:
            raise ProtocolError("protocol.manifest", f"the epoch of {request.run} has {request.slots} slots.")
        if admitted.terms is not None and document.privacy.shares_noise:
            if request.planned.noise_rate < admitted.terms.rate:
                raise ProtocolError(
                    "protocol.manifest",
                    f"the noise is planned for a sampling rate of {request.planned.noise_rate}, "
                    f"this site's is {admitted.terms.rate}.",
                )
        elif request.planned.noise_rate:
            raise ProtocolError("protocol.manifest", "a noise rate is planned where no noise is shared.")
        if admitted.masked:
            check_colluders(len(roster), request.c, self._least(admitted, roster))
            self._check_organisations(admitted.facts, roster)
        check_ranks(document, admitted.shape, roster)
        attempt_plan(document, admitted.shape, sites=len(roster), c=request.c, planned=request.planned)
        admitted.following.begin(request.begins, self._source)
        self._marks.claim_epoch(request.run, request.epoch, digest=admitted.digest, planned=request.planned)
        self._audit.write("epoch", run=request.run, epoch=request.epoch, roster=list(roster), c=request.c)
        epoch = None
        if admitted.masked:
            epoch = SiteEpoch(
                run=request.run,
                epoch=request.epoch,
                site=self._identity.name,
                document=admitted.digest,
                slots=request.slots,
            )
        admitted.number, admitted.roster, admitted.c = request.epoch, roster, request.c
        admitted.planned, admitted.epoch = request.planned, epoch
        return None if epoch is None else sign(self._identity, epoch.advert)

    def relay(self, admitted: AdmittedRun, message: Relay) -> Bundles | Blobs | Signed | None:
        """Take other sites' statements; return what this site says next (None after ``ready``)."""
        epoch = admitted.epoch
        if epoch is None or message.epoch != epoch.epoch:
            raise ProtocolError("protocol.ready", f"{message.run} has no key epoch {message.epoch} here.")
        statements = self._opened(message)
        match message.kind:
            case "advert":
                if sorted(statement.site for statement in statements) != list(admitted.roster):
                    raise ProtocolError("protocol.adverts", "the adverts are not those of the roster.")
                bundles = epoch.bundles(
                    statements, c=admitted.c, least=self._least(admitted, admitted.roster)
                )
                return Bundles(
                    run=message.run,
                    site=self._identity.name,
                    epoch=epoch.epoch,
                    statements=[sign(self._identity, self._reminding(bundle)) for bundle in bundles],
                )
            case "bundle":
                self._be_reminded(statements)
                recovery, sealed = epoch.recovery(statements)
                return Blobs(
                    run=message.run,
                    site=self._identity.name,
                    epoch=epoch.epoch,
                    statement=sign(self._identity, recovery),
                    sealed=sealed,
                )
            case "recovery":
                ready = epoch.ready(statements, verified=admitted.following.statement)
                self._audit.write(
                    "ready", object=epoch.rho, run=message.run, n=ready.n, c=ready.c, theta=ready.theta
                )
                return sign(self._identity, ready)
            case "ready":
                epoch.seal(statements)
                admitted.following.follow([said.verified for said in statements], c=admitted.c)
                return None
            case "contribution":
                consent = self._consent(admitted, epoch, message.slot, statements)
                self._heads.note((self._key(site), said) for site, said in self._of_others(message).items())
                return consent
            case "consent":
                shares = epoch.shares(message.slot, statements)
                self._marks.hear(message.run, self._of_others(message))
                self._audit.write(
                    "shares",
                    run=message.run,
                    slot=message.slot,
                    survivors=sorted(shares.self_shares),
                    dropped=sorted(shares.key_shares),
                )
                return sign(self._identity, shares)

    def _consent(
        self, admitted: AdmittedRun, epoch: SiteEpoch, slot: int, contributions: Sequence[Contribution]
    ) -> Signed:
        survivors = sorted(said.site for said in contributions)
        policy = self._check_organisations(admitted.facts, survivors)
        assert admitted.planned is not None, "an epoch has a plan"
        plan = attempt_plan(
            admitted.document,
            admitted.shape,
            sites=len(admitted.roster),
            c=admitted.c,
            planned=admitted.planned,
        )
        following, m = admitted.following, max(plan.min_sites, policy.require.min_sites)
        epoch.check_survivors(slot, contributions, m=m)
        (round_,) = {said.round for said in contributions}
        following.check_near(round_, survivors)
        consent = epoch.consent(slot, contributions, m=m, verified=following.verified)
        roots = {said.site: bytes.fromhex(said.body) for said in contributions}
        following.consented(
            round_, {site: Shown(roots[site], epoch.committed(site, slot)) for site in survivors}
        )
        try:
            self._marks.consent(admitted.run, round_, consent.manifest, again=admitted.terms is not None)
        except BaseException:
            admitted.epoch = None  # it has agreed in memory alone, so no share may follow
            raise
        self._audit.write(
            "consent",
            object=consent.manifest,
            run=admitted.run,
            round=round_,
            slot=slot,
            survivors=survivors,
        )
        return sign(self._identity, consent)

    def _check_organisations(self, facts: Facts, sites: Sequence[str]) -> Policy:
        """Refuse a sum over too few confirmed organisations; return the policy that says so."""
        organisations = set(self._organisations(sites).values()) - {None}
        return check_organisations(self._home, facts, len(organisations))

    def _opened(self, message: Relay) -> list[Any]:
        peers = read_peers(self._home.peers)
        statements = []
        for signed in message.statements:
            mine = signed.signer == self._identity.name
            key = self._identity.public if mine else peers.key(signed.signer)
            self._revoked.check(key)
            statement = open_signed(signed, key)
            author = statement.sender if statement.type == "bundle" else getattr(statement, "site", None)
            if statement.type != message.kind or author != signed.signer:
                raise ProtocolError("protocol.signature", f"a statement of {signed.signer} names {author}.")
            statements.append(statement)
        return statements

    # -- what others remember of this site's own words ------------------------------------------------

    def _reminding(self, bundle: Bundle) -> Bundle:
        """Return *bundle* with what its receiver has said itself, as far as this site knows."""
        mark, key = self._marks.read(bundle.run), self._key(bundle.receiver)
        charge = self._heads.newest(bundle.receiver, key)
        consent = mark.heard.get(bundle.receiver, "") if mark else ""
        return bundle.model_copy(update={"heard": [said for said in (charge, consent) if said_by(key, said)]})

    def _be_reminded(self, bundles: Sequence[Bundle]) -> None:
        """Look up what this site has signed. Raises StorageError (``storage.ledger_rolled_back``)."""
        me = self._identity
        for bundle in bundles:
            for text in bundle.heard:
                said, run = said_by(me.public, text), bundle.run
                if said is None or said.site != me.name:
                    self._audit.write(
                        "reminder.false", actor=f"site:{bundle.sender}", run=run, result="noted"
                    )
                elif isinstance(said, Contribution):
                    self._check_head(bundle.sender, text)
                elif said.run == run and self._marks.take_on(run, said.round, said.manifest):
                    self._audit.write("consent.restored", object=said.manifest, run=run, round=said.round)

    def _check_head(self, teller: str, text: str) -> None:
        """Look up the charge in this site's own contribution *text*; without it no epoch begins any more."""
        said = said_by(self._identity.public, text)
        if isinstance(said, Contribution):
            try:
                self._ledger.check_seen(teller, said.ledger_counter, said.ledger_head)
            except StorageError:
                self._heads.note([(self._identity.public, text)])
                raise

    def _of_others(self, message: Relay) -> dict[str, str]:
        """Return the wire form of what other sites say in *message*, by site."""
        mine = self._identity.name
        return {said.signer: wire(said).decode() for said in message.statements if said.signer != mine}

    def _key(self, site: str) -> str:
        return read_peers(self._home.peers).key(site)

    def _least(self, admitted: AdmittedRun, roster: Sequence[str]) -> int:
        return least_colluders(
            self._organisations(roster),
            admitted.document.federation.colluding_organisations,
            me=self._identity.name,
        )

    def _organisations(self, sites: Sequence[str]) -> dict[str, str | None]:
        """Return the confirmed organisation of each site, None if it is unconfirmed."""
        peers = read_peers(self._home.peers)
        known = {site: peers.organisation(site) for site in sites}
        if self._identity.name in known:
            known[self._identity.name] = self._home.config().organisation
        return {site: name and counted(name) for site, name in known.items()}
