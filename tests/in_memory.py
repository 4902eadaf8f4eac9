"""A federation without processes or a network: gateways, and the coordinator's messages made by hand.

Each step of the protocol is one method, so that an attack is a few lines: take what one step returned,
change it, hand it to the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.gateway.admission import Answer
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.peers import Peer, Peers, write_peers
from plasmid.privacy.keystream import Keystreams
from plasmid.privacy.ring import TAIL
from plasmid.privacy.statements import PROTOCOL, Advert, Recovery, Shares
from plasmid.privacy.unmasking import CoordinatorEpoch
from plasmid.protocol.body import body_bytes, unpack
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admission, Admit, Blobs, Epoch, Manifest, Planned, Relay, Signed
from plasmid.protocol.plan import attempt_plan, attempts
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.query import PingDocument

SITES = ("alpha", "beta", "gamma")
STATE = "5" * 64


def document_of(model: Any) -> tuple[dict[str, Any], str]:
    """Return a document as JSON values, and its digest."""
    document = model.model_dump(mode="json")
    return document, recipe_digest(document, document["computation"])


@dataclass
class Federation:
    """Gateways over folders below *root*; every site allows *document* and has confirmed the others.

    Attributes
    ----------
    tables
        The text of each site's CSV; a site without one has no data.
    organisations
        By site; by default each site is its own.
    strangers
        Sites that no other site has confirmed.
    c
        Of the first epoch's plan; an epoch may begin with another.
    public_size
        Every site's.
    require, budgets
        Of every site's policy.
    """

    root: Path
    document: Any = field(default_factory=lambda: PingDocument(length=6, rounds=2))
    sites: Sequence[str] = SITES
    tables: Mapping[str, str] = field(default_factory=dict)
    organisations: Mapping[str, str] = field(default_factory=dict)
    strangers: Sequence[str] = ()
    run: str = "run-1"
    noise_rate: float = 1.0
    c: int = 1
    number: int = 1
    public_size: int | None = None
    require: Mapping[str, Any] = field(default_factory=dict)
    budgets: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coordinator = Identity.generate("coordinator")
        self.values, self.digest = document_of(self.document)
        self.identities = {site: Identity.generate(site) for site in self.sites}
        self.gateways = {site: self._make(site) for site in self.sites}
        self._c = self.c

    def organisation(self, site: str) -> str:
        """Return whose site it is."""
        return self.organisations.get(site, f"{site} hospital")

    def home(self, site: str) -> SiteHome:
        """Return a site's folder."""
        return SiteHome(self.root / site)

    def _make(self, site: str) -> Gateway:
        home = self.home(site)
        (home.folder / "data").mkdir(parents=True)
        home.write_config(
            SiteConfig(name=site, organisation=self.organisation(site), public_size=self.public_size)
        )
        (home.folder / "identity.key").write_bytes(self.identities[site].to_pem())
        confirmed = [
            Peer(name=name, organisation=self.organisation(name), key=self.identities[name].public)
            for name in self.sites
            if name != site and name not in self.strangers
        ]
        write_peers(home.peers, Peers(coordinator=self.coordinator.public, sites=confirmed))
        self.allow(site, [self.digest], **self.require)
        if site in self.tables:
            (home.folder / "data" / "table.csv").write_text(self.tables[site], encoding="utf-8")
        return Gateway(home)

    def allow(self, site: str, digests: Sequence[str], **require: Any) -> None:
        """Write a site's policy."""
        policy = {"allow": list(digests), "require": require, "budgets": dict(self.budgets)}
        self.home(site).policy.write_text(json.dumps(policy), encoding="utf-8")

    def restart(self, site: str) -> Gateway:
        """Replace a site's gateway by a new one over the same folder."""
        self.gateways[site] = Gateway(self.home(site))
        return self.gateways[site]

    def journal(self, site: str) -> list[dict[str, Any]]:
        """Return a site's log."""
        return [json.loads(line) for line in self.home(site).journal.read_text().splitlines()]

    # -- the coordinator's messages ----------------------------------------------------------------

    def admit(self, site: str) -> Admission:
        """Ask a site to admit the run."""
        return self.gateways[site].answer(Admit(run=self.run, document=self.values, digest=self.digest))

    def admit_all(self) -> None:
        """Have every site admit the run."""
        answers = {site: self.admit(site) for site in self.sites}
        assert all(answer.accepted for answer in answers.values()), answers

    def epoch(self, **changes: Any) -> Epoch:
        """Return the message that begins the key epoch."""
        values: dict[str, Any] = {
            "run": self.run,
            "epoch": 1,
            "roster": sorted(self.sites),
            "slots": attempts(self.document),
            "c": self.c,
            "planned": self.planned,
        }
        return Epoch(**values | changes)

    @property
    def planned(self) -> Planned:
        """Return what the first epoch fixes."""
        rate = self.noise_rate if self.document.privacy.shares_noise else 0.0
        return Planned(sites=len(self.sites), c=self.c, noise_rate=rate)

    def relay(
        self, kind: Any, statements: Sequence[Signed], *, slot: int = 0, epoch: int | None = None
    ) -> Relay:
        """Return the message that relays *statements*."""
        number = self.number if epoch is None else epoch
        return Relay(run=self.run, epoch=number, slot=slot, kind=kind, statements=list(statements))

    def adverts(self, **changes: Any) -> list[Signed]:
        """Begin the epoch everywhere and return the adverts."""
        epoch = self.epoch(**changes)
        self.number, self._c = epoch.epoch, epoch.c
        made = [self.gateways[site].begin_epoch(epoch) for site in epoch.roster]
        return [advert for advert in made if advert is not None]

    def bundles(self, adverts: Sequence[Signed]) -> dict[str, list[Signed]]:
        """Relay adverts and return the bundles by receiver."""
        sites = [advert.signer for advert in adverts]
        inbox: dict[str, list[Signed]] = {site: [] for site in sites}
        for site in sites:
            said: Any = self.gateways[site].relay(self.relay("advert", adverts))
            for bundle in said.statements:
                inbox[bundle.payload["receiver"]].append(bundle)
        return inbox

    def recoveries(self, inbox: Mapping[str, Sequence[Signed]]) -> dict[str, Blobs]:
        """Relay bundles and return each site's recovery statement and blobs."""
        said: Any = {
            site: self.gateways[site].relay(self.relay("bundle", bundles)) for site, bundles in inbox.items()
        }
        return dict(said)

    def ready(self, blobs: Mapping[str, Blobs]) -> list[Signed]:
        """Relay recovery statements and return the ready statements."""
        statements = [said.statement for said in blobs.values()]
        said: list[Any] = [self.gateways[site].relay(self.relay("recovery", statements)) for site in blobs]
        return said

    def seal(self, statements: Sequence[Signed]) -> None:
        """Relay ready statements."""
        for signed in statements:
            assert self.gateways[signed.signer].relay(self.relay("ready", statements)) is None

    def set_up(self, **changes: Any) -> None:
        """Admit the run everywhere and go through the key epoch."""
        self.admit_all()
        self.key_epoch(**changes)

    def key_epoch(self, **changes: Any) -> None:
        """Go through a key epoch of sites that have admitted the run."""
        adverts = self.adverts(**changes)
        if not adverts:
            return
        blobs = self.recoveries(self.bundles(adverts))
        self.seal(self.ready(blobs))
        self.coordinator_epoch = CoordinatorEpoch(
            [Advert.model_validate(advert.payload) for advert in adverts],
            {
                site: (Recovery.model_validate(said.statement.payload), said.sealed)
                for site, said in blobs.items()
            },
            c=self._c,
        )

    def answers(
        self, manifest: Manifest, vectors: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, Answer]:
        """Return what invited sites answer: those of *vectors*, by default all with vectors of zeros."""
        shape = self.gateways[manifest.invited[0]].run(self.run).shape
        zeros = np.zeros(shape.schema.size, shape.dtype)
        given = dict.fromkeys(manifest.invited, zeros) if vectors is None else vectors
        return {
            site: self.gateways[site].contribute(manifest, lambda _, vector=vector: vector)
            for site, vector in given.items()
        }

    def consents(self, answers: Sequence[Answer], *, slot: int = 0) -> list[Signed]:
        """Relay contributions to those who made them and return their consents."""
        said = [answer.contribution for answer in answers]
        made: list[Any] = [
            self.gateways[signed.signer].relay(self.relay("contribution", said, slot=slot)) for signed in said
        ]
        return made

    def shares(self, consents: Sequence[Signed], *, slot: int = 0) -> list[Signed]:
        """Relay consents to those who gave them and return their shares."""
        made: list[Any] = [
            self.gateways[signed.signer].relay(self.relay("consent", consents, slot=slot))
            for signed in consents
        ]
        return made

    def open_sum(self, answers: Sequence[Answer], manifest: Manifest) -> np.ndarray:
        """Take the sites of *answers* through consent and shares; return the unmasked sum."""
        shares = self.shares(self.consents(answers, slot=manifest.slot), slot=manifest.slot)
        total = self.total(answers, manifest)
        pads = self.coordinator_epoch.pads(
            manifest.slot,
            manifest.digest(),
            invited=manifest.invited,
            survivors=[answer.contribution.signer for answer in answers],
            shares=[Shares.model_validate(said.payload) for said in shares],
        )
        Keystreams(pads, total.dtype).add(total)
        return total

    def manifest(self, round_: int = 1, **changes: Any) -> Manifest:
        """Return the manifest of a round, as every site expects it."""
        site = self.gateways[changes.get("invited", self.sites)[0]].run(self.run)
        shape = site.shape
        plan = attempt_plan(
            self.document, shape, sites=len(site.roster or self.sites), c=self._c, planned=self.planned
        )
        encoding = plan.encoding
        values: dict[str, Any] = {
            "protocol": PROTOCOL if site.masked else "none",
            "run": self.run,
            "phase": "train",
            "epoch": self.number,
            "slot": round_ - 1,
            "round": round_,
            "rho": site.epoch.rho if site.epoch else None,
            "document": self.digest,
            "base": site.base.digest if site.base else None,
            "state": STATE,
            "state_bytes": body_bytes("state", shape.schema.size, shape.dtype),
            "invited": list(site.roster) or sorted(self.sites),
            "ring_bits": encoding.bits,
            "scale_log2": encoding.scale_log2,
            "bound": encoding.bound,
            "length": encoding.length,
            "noise_variance": encoding.noise_variance,
            "mechanism": self.document.privacy.mechanism or "none",
            "min_sites": plan.min_sites,
            "theta": plan.theta,
        }
        return Manifest(**values | changes)

    # -- what the coordinator does with the answers ------------------------------------------------

    def words(self, answer: Answer, manifest: Manifest) -> np.ndarray:
        """Return the words of a contribution."""
        plan = manifest.encoding()
        return unpack(answer.body, "words", length=plan.length + TAIL, dtype=plan.dtype)

    def total(self, answers: Sequence[Answer], manifest: Manifest) -> np.ndarray:
        """Return the ring sum of contributions."""
        total = np.zeros(manifest.length + TAIL, manifest.encoding().dtype)
        for answer in answers:
            total += self.words(answer, manifest)
        return total
