"""A federation without processes or a network: gateways, and the coordinator's messages made by hand.

Each step of the protocol is one method, so that an attack is a few lines: take what one step returned,
change it, hand it to the next.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.computations import api
from plasmid.core.clock import now, stamp
from plasmid.core.errors import LinkError
from plasmid.dp.rotation import unrotate
from plasmid.gateway.admission import Answer
from plasmid.gateway.gateway import Computation, Gateway
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.members.peers import Peer, Peers, write_peers
from plasmid.gateway.members.projects import Projects
from plasmid.link.bodies import Bodies
from plasmid.planner.attempts import attempt_plan, attempts
from plasmid.protocol.body import pack, unpack
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import (
    Admission,
    Admit,
    Ask,
    Blobs,
    Epoch,
    Manifest,
    Planned,
    Relay,
    RunRequest,
    Signed,
    Start,
    Total,
    run_id,
    sign,
)
from plasmid.protocol.project import Project, ProjectPerson, ProjectSite
from plasmid.recipes.beside import advanced
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.query import PingDocument
from plasmid.secagg import tags
from plasmid.secagg.coordinator import CoordinatorEpoch
from plasmid.secagg.keystream import Keystreams
from plasmid.secagg.ring import TAIL, decode_sum
from plasmid.secagg.statements import PROTOCOL, Advert, Contribution, Recovery, Shares

SITES = ("alpha", "beta", "gamma")
MADE_UP = Total(digest="0" * 64, size=100, survivors=list(SITES), tag=bytes(8))
"""What a coordinator says that has no sum."""


@dataclass(frozen=True)
class MemoryKeys:
    """A key store without a file: whatever answers these two calls is one."""

    signer: Identity

    def identity(self) -> Identity:
        """Return who signs."""
        return self.signer

    def tls_password(self) -> bytes:
        """Return a password that opens nothing."""
        return b"none"


def document_of(model: Any) -> tuple[dict[str, Any], str]:
    """Return a document as JSON values, and its digest."""
    document = model.model_dump(mode="json")
    return document, recipe_digest(document, document["computation"])


def flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of the log with its facts beside its own fields."""
    return {**entry["facts"], **{name: value for name, value in entry.items() if name != "facts"}}


def log_text(home: SiteHome) -> str:
    """Return the log as the text that is on disk."""
    return (home.audit / "log.jsonl").read_text(encoding="utf-8")


def _returning(vector: np.ndarray) -> Computation:
    """Return a computation that returns *vector*."""
    return lambda _: vector


@contextmanager
def full_disk(gateway: Gateway) -> Iterator[None]:
    """Have the disk of a gateway's log full."""

    def full(data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    gateway.audit._durable = full  # type: ignore[method-assign]
    try:
        yield
    finally:
        del gateway.audit._durable


def project_of(
    identities: Mapping[str, Identity], organisations: Mapping[str, str], requester: Identity, **changes: Any
) -> Project:
    """Return a project of sites, which *requester* may launch runs in and receive results of."""
    sites = [
        ProjectSite(name=name, organisation=organisations[name], key=identities[name].public)
        for name in sorted(identities)
    ]
    person = ProjectPerson(
        name=requester.name, organisation="lab", key=requester.public, roles=["launch", "receive"]
    )
    values: dict[str, Any] = {
        "name": "trial",
        "purpose": "research",
        "sites": sites,
        "people": [person],
        "first_day": "2020-01-01",
        "last_day": "2099-12-31",
    }
    return Project(**values | changes)


def signed_by(project: Project, identities: Mapping[str, Identity]) -> Envelope:
    """Return *project* with the signatures of its sites that are among *identities*."""
    envelope = Envelope.of(project)
    for site in project.sites:
        if site.name in identities:
            envelope = envelope.signed(identities[site.name])
    return envelope


@dataclass
class Federation:
    """Gateways over folders below *root*; every site allows *document* and has confirmed the others.

    All have signed one project, in which ``ada`` asked for the run.

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
        self.requester = Identity.generate("ada")
        organisations = {site: self.organisation(site) for site in self.sites}
        self.project = project_of(self.identities, organisations, self.requester)
        self.envelope = signed_by(self.project, self.identities)
        self.requested = stamp(now())
        self.bodies: dict[str, bytes] = {}
        self.store = Bodies(self.root / "coordinator")
        self._served: Any = self._own
        self.new_run("run-1")
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
        confirmed = [
            Peer(name=name, organisation=self.organisation(name), key=self.identities[name].public)
            for name in self.sites
            if name != site and name not in self.strangers
        ]
        write_peers(home.peers, Peers(coordinator=self.coordinator.public, sites=confirmed))
        self.allow(site, [self.digest], **self.require)
        Projects(home.projects, name=site, key=self.identities[site].public).keep(self.envelope)
        if site in self.tables:
            (home.folder / "data" / "table.csv").write_text(self.tables[site], encoding="utf-8")
        return Gateway(home, self.keys(site), source=self)

    def keys(self, site: str) -> MemoryKeys:
        """Return a site's keys, as a store of another kind would hold them."""
        return MemoryKeys(self.identities[site])

    def allow(self, site: str, digests: Sequence[str], **require: Any) -> None:
        """Write a site's policy. A recipe's Python may return any number of numbers: tables are tiny."""
        if getattr(self.document, "bundle", None) is not None:
            require.setdefault("disclosure", {"max_parameters_share": None})
        policy = {"allow": list(digests), "require": require, "budgets": dict(self.budgets)}
        self.home(site).policy.write_text(json.dumps(policy), encoding="utf-8")

    def restart(self, site: str) -> Gateway:
        """Replace a site's gateway by a new one over the same folder."""
        self.gateways[site] = Gateway(self.home(site), self.keys(site), source=self)
        return self.gateways[site]

    def log(self, site: str) -> list[dict[str, Any]]:
        """Return the entries of a site's audit log, each with its facts beside its own fields."""
        return [flat(entry) for entry in self.gateways[site].audit.entries()]

    # -- the requester's request -------------------------------------------------------------------

    def new_run(self, label: str) -> str:
        """Make the run another one, asked for anew; return its id, the same for the same *label*."""
        self.states: dict[int, np.ndarray] = {}
        self.totals: dict[int, Total] = {}
        self.nonce = hashlib.sha256(label.encode()).hexdigest()[:32]
        self.run = run_id(self.request())
        return self.run

    def request(self, **changes: Any) -> RunRequest:
        """Return what the requester asks for, or something else."""
        values: dict[str, Any] = {
            "document": self.values,
            "digest": self.digest,
            "project": self.project.digest(),
            "requested": self.requested,
            "nonce": self.nonce,
        }
        return RunRequest(**values | changes)

    def signed_request(self, **changes: Any) -> Signed:
        """Return what the requester asks for, or something else, as the requester signed it."""
        return sign(self.requester, self.request(**changes))

    # -- the coordinator's messages ----------------------------------------------------------------

    def asking(self, **changes: Any) -> Ask:
        """Return the question about the requester's request, or about another one of the requester's."""
        return Ask(run="ask-1", request=self.signed_request(**changes), project=self.envelope)

    def admitting(self, **changes: Any) -> Admit:
        """Return the message that has the requester's run admitted, or another one of the requester's."""
        request = self.request(**changes)
        return Admit(run=run_id(request), request=sign(self.requester, request), project=self.envelope)

    def admit(self, site: str) -> Admission:
        """Ask a site to admit the run."""
        return self.gateways[site].answer(self.admitting())

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
            "begins": self.start(max(self.totals, default=0) + 1) if changes.get("epoch", 1) > 1 else None,
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
            site: self.gateways[site].contribute(manifest, _returning(vector))
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
        pads, opening = self.coordinator_epoch.opening(
            manifest.slot,
            manifest.digest(),
            invited=manifest.invited,
            survivors=[answer.contribution.signer for answer in answers],
            shares=[Shares.model_validate(said.payload) for said in shares],
        )
        Keystreams(pads, total.dtype).add(total)
        if manifest.phase == "train":
            said = [Contribution.model_validate(answer.contribution.payload) for answer in answers]
            tag = tags.opened((one.tag for one in said), pads)
            self.keep(answers, manifest, opening)
            self.totals[manifest.round] = self.published(total, sorted(one.site for one in said), tag)
            self.advance(manifest, total, len(said))
        return total

    def keep(self, answers: Sequence[Answer], manifest: Manifest, opening: bytes) -> None:
        """Keep the bodies of an opened sum, for samples."""
        paths = {}
        for answer in answers:
            site, body, digest = answer.contribution.signer, answer.body, answer.digest
            self.store.expect(self.run, len(body))
            self.store.take_chunk(self.run, site, digest, 0, len(body), body, digest)
            paths[site] = self.store.received(self.run, site, digest)
        self.store.keep(self.run, manifest.digest(), paths, opening)

    def rounds(self, count: int) -> None:
        """Go through *count* honest rounds of zeros, in as many slots."""
        for round_ in range(1, count + 1):
            manifest = self.manifest(round_)
            self.open_sum(list(self.answers(manifest).values()), manifest)

    # -- public states -----------------------------------------------------------------------------

    def download(self, digest: str, size: int) -> bytes:
        """Return a published body, as every site fetches it."""
        body: bytes = self._served(digest, size)
        assert len(body) == size
        return body

    def sample(self, run: str, manifest: str, part: str, size: int) -> bytes:
        """Return what a site asks for of an opened sum; a test may put another function here."""
        return self.store.read_sample(run, manifest, part, 0)[0]

    def _own(self, digest: str, _: int) -> bytes:
        if digest not in self.bodies:
            raise LinkError("link.not_found", f"there is no body {digest[:12]}.")
        return self.bodies[digest]

    def serve(self, source: Any) -> None:
        """Have the sites get bodies and samples from elsewhere."""
        self._served, self.sample = source.download, source.sample  # type: ignore[method-assign]

    def publish(self, body: bytes) -> str:
        """Publish *body*; return its digest."""
        digest = hashlib.sha256(body).hexdigest()
        self.bodies[digest] = body
        return digest

    def published(self, words: np.ndarray, survivors: Sequence[str], tag: bytes | None) -> Total:
        """Publish a total; return what a manifest says of it."""
        body = pack("total", words)
        return Total(digest=self.publish(body), size=len(body), survivors=list(survivors), tag=tag)

    def advance(self, manifest: Manifest, total: np.ndarray, sites: int) -> None:
        """Make the next state of a *total*, as the coordinator does for a document without a server."""
        site = self.gateways[manifest.invited[0]].run(self.run)
        values = decode_sum(total, manifest.encoding(), sites)
        if self.document.privacy.rotation == "hadamard":
            values = unrotate(values, seed=bytes.fromhex(self.digest), length=site.shape.schema.size)
        summed = api.Sum(values, sites, manifest.round)
        computation, state = api.load(self.document.computation), self.state(manifest.round)
        after = advanced(computation, self.document, site.shape, state, summed)
        self.states[manifest.round + 1] = np.asarray(after)

    def state(self, round_: int) -> np.ndarray:
        """Return the state with which a round begins; there is one after the first once a sum is opened."""
        if round_ == 1 and round_ not in self.states:
            knows = next(one for one in self.gateways.values() if self.run in one._runs)
            shape = knows.run(self.run).shape
            computation = api.load(self.document.computation)
            self.states[1] = api.first_state(computation, self.document, shape, None)
        return self.states[round_]

    def start(self, round_: int = 1) -> Start:
        """Return the state of a round as sites are told of it; made up where no sum leads to it."""
        known = round_ in self.states
        body = pack("state", self.state(round_ if known else 1))
        total = self.totals.get(round_ - 1, MADE_UP) if round_ > 1 else None
        return Start(round=round_, state=self.publish(body), state_bytes=len(body), total=total)

    def manifest(self, round_: int = 1, **changes: Any) -> Manifest:
        """Return the manifest of a round, as every site expects it."""
        site = self.gateways[changes.get("invited", self.sites)[0]].run(self.run)
        shape = site.shape
        plan = attempt_plan(
            self.document, shape, sites=len(site.roster or self.sites), c=self._c, planned=self.planned
        )
        encoding, start = plan.encoding, self.start(round_)
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
            "state": start.state,
            "state_bytes": start.state_bytes,
            "invited": list(site.roster) or sorted(self.sites),
            "ring_bits": encoding.bits,
            "scale_log2": encoding.scale_log2,
            "bound": encoding.bound,
            "length": encoding.length,
            "noise_variance": encoding.noise_variance,
            "mechanism": self.document.privacy.mechanism or "none",
            "min_sites": plan.min_sites,
            "theta": plan.theta,
            "total": start.total,
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
