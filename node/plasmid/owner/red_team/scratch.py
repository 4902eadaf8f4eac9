"""A scratch federation around a copy of a site: its own settings and the lines of its own policy, other keys.

The site is called as the real one; made-up peers, a made-up coordinator and a made-up requester are around
it, all in one folder that goes afterwards. No key, row, ledger or log of the real site is in it, no network.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import now, stamp
from plasmid.core.errors import LinkError, PolicyRefused
from plasmid.gateway.admission import Answer
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.members.peers import Peer, Peers, write_peers
from plasmid.gateway.members.projects import Projects
from plasmid.gateway.policy.file import read_policy
from plasmid.gateway.policy.require import Requirements
from plasmid.isolation.port import Isolation
from plasmid.planner.attempts import attempt_plan, attempts
from plasmid.protocol.body import body_bytes, pack
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admit, Epoch, Manifest, Planned, Relay, RunRequest, Signed, run_id, sign
from plasmid.protocol.project import Project, ProjectPerson, ProjectSite
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.protection import Limits
from plasmid.recipes.query import PingDocument, QueryDocument, noised
from plasmid.secagg.statements import PROTOCOL

MOST_SITES = 8
PUBLIC_SIZE = 1000
BUDGET = {"unit": "record", "epsilon": 1.0, "delta": 1e-5}
SPARE = "spare-site"
"""A site of the project that no run of the requester invites."""


@dataclass(frozen=True)
class Keys:
    """Keys in memory, for the scratch federation only."""

    signer: Identity

    def identity(self) -> Identity:
        """Return who signs."""
        return self.signer

    def tls_password(self) -> bytes:
        """Return a password that opens nothing."""
        return b""


class Scratch:
    """One federation, before admission. The *target* is the copy of the site in *real*.

    Attributes
    ----------
    target
        The target's gateway.
    roster
        The sites that are invited, by name.
    """

    def __init__(self, folder: Path, real: SiteHome, isolation: Isolation) -> None:
        config = real.config()
        self.real, self.folder, self.name = real, folder, config.name
        self.isolation = isolation
        self.require = _require(real)
        count = min(MOST_SITES, max(3, self.require["min_sites"], self.require["min_organisations"]))
        self.roster = sorted([self.name, *(f"made-up-{number}" for number in range(1, count))])
        self.identities = {name: Identity.generate(name) for name in [*self.roster, SPARE]}
        self.coordinator, self.requester = Identity.generate("coordinator"), Identity.generate("requester")
        self.project = self._project()
        self.envelope = self.signed_project()
        self.document: Any = PingDocument(length=6, rounds=2, federation=Limits(min_sites=count))
        self.nonce = secrets.token_hex(16)
        self._config = config
        self._bodies: dict[str, bytes] = {}
        self.state = self.publish(np.zeros(6, np.float32))
        self.gateways = {name: self._site(name) for name in self.roster}
        self.target = self.gateways[self.name]
        self.request = self.make_request()

    def home(self, name: str | None = None) -> SiteHome:
        """Return the folder of a site, by default the target's."""
        return SiteHome(self.folder / (name or self.name))

    # -- before a run ------------------------------------------------------------------------------

    def _project(self) -> Project:
        sites = [
            ProjectSite(name=name, organisation=f"Organisation {name}", key=self.identities[name].public)
            for name in sorted(self.identities)
        ]
        person = ProjectPerson(
            name="requester", organisation="Lab", key=self.requester.public, roles=["launch", "receive"]
        )
        return Project(
            name="red-team",
            purpose="red-team",
            sites=sites,
            people=[person],
            first_day="2020-01-01",
            last_day="2099-12-31",
        )

    def signed_project(self, *, without: str = "") -> Envelope:
        """Return the project, signed by every member but *without*."""
        envelope = Envelope.of(self.project)
        for site in self.project.sites:
            if site.name != without:
                envelope = envelope.signed(self.identities[site.name])
        return envelope

    def _site(self, name: str) -> Gateway:
        home = self.home(name)
        (home.folder / "data").mkdir(parents=True)
        (home.folder / "data" / "table.csv").write_text("age\n30\n", encoding="utf-8")
        organisation = f"Organisation {name}"
        home.write_config(
            SiteConfig(
                name=name,
                organisation=organisation,
                public_size=PUBLIC_SIZE,
                isolation=self._config.isolation,
                limits=self._config.limits,
            )
        )
        peers = [
            Peer(name=other, organisation=f"Organisation {other}", key=self.identities[other].public)
            for other in self.roster
            if other != name
        ]
        write_peers(home.peers, Peers(coordinator=self.coordinator.public, sites=peers))
        Projects(home.projects, name=name, key=self.identities[name].public).keep(self.envelope)
        self.allow([digest_of(self.document), digest_of(counted(0.6))], home)
        return self.gateway(home)

    def gateway(self, home: SiteHome | None = None, **arguments: Any) -> Gateway:
        """Return a new gateway over a folder, by default the target's: what a restart makes."""
        where = home or self.home()
        keys = Keys(self.identities[where.folder.name])
        level = self.isolation.level
        return Gateway(where, keys, source=self, isolation=level, **arguments)

    def publish(self, state: NDArray[np.float32]) -> str:
        """Publish a *state*; return its digest."""
        body = pack("state", state)
        self._bodies[sha256_hex(body)] = body
        return sha256_hex(body)

    def download(self, digest: str, size: int) -> bytes:
        """Return what was published; what names anything else is not this federation's."""
        assert len(self._bodies[digest]) == size, "the scratch federation names what it published"
        return self._bodies[digest]

    def sample(self, run: str, *_: Any) -> bytes:
        """Refuse: nothing is summed here."""
        raise LinkError("link.no_body", f"{run} has no sum.")

    def allow(self, digests: list[str], home: SiteHome | None = None) -> None:
        """Write a policy with the real one's lines that names *digests*."""
        policy = {"allow": digests, "require": self.require, "budgets": {"default": BUDGET}}
        (home or self.home()).policy.write_text(json.dumps(policy), encoding="utf-8")

    # -- a run -------------------------------------------------------------------------------------

    def make_request(self, document: Any = None, **changes: Any) -> RunRequest:
        """Return what the requester asks for."""
        wanted = self.document if document is None else document
        values: dict[str, Any] = {
            "document": wanted.model_dump(mode="json"),
            "digest": digest_of(wanted),
            "project": self.project.digest(),
            "requested": stamp(now()),
            "sites": self.roster,
            "nonce": self.nonce,
        }
        return RunRequest(**values | changes)

    def admit(
        self,
        request: RunRequest | None = None,
        *,
        signer: Identity | None = None,
        run: str = "",
        **changes: Any,
    ) -> Admit:
        """Return the message that asks for a run; *changes* replace its parts."""
        wanted = request or self.request
        values: dict[str, Any] = {
            "run": run or run_id(wanted),
            "request": sign(signer or self.requester, wanted),
            "project": self.envelope,
        }
        return Admit(**values | changes)

    @property
    def run(self) -> str:
        """The id of the honest run."""
        return run_id(self.request)

    def admit_everywhere(self) -> None:
        """Have every site admit the honest run."""
        for gateway in self.gateways.values():
            answer = gateway.answer(self.admit())
            assert answer.accepted, answer

    @property
    def planned(self) -> Planned:
        """What the first epoch fixes."""
        return Planned(sites=len(self.roster), c=1, noise_rate=0.0)

    def epoch(self, number: int = 1, **changes: Any) -> Epoch:
        """Return the message that begins a key epoch."""
        values: dict[str, Any] = {
            "run": self.run,
            "epoch": number,
            "roster": self.roster,
            "slots": attempts(self.document),
            "c": 1,
            "planned": self.planned,
        }
        return Epoch(**values | changes)

    def relay(self, kind: Any, statements: list[Signed], *, slot: int = 0) -> Relay:
        """Return the message that relays *statements*."""
        return Relay(run=self.run, epoch=1, slot=slot, kind=kind, statements=statements)

    def adverts(self, number: int = 1) -> list[Signed]:
        """Begin an epoch everywhere."""
        made = [self.gateways[name].begin_epoch(self.epoch(number)) for name in self.roster]
        return [advert for advert in made if advert is not None]

    def set_up(self) -> Manifest:
        """Admit the run everywhere, go through the key epoch, and return the first manifest."""
        self.admit_everywhere()
        adverts = self.adverts()
        inbox: dict[str, list[Signed]] = {name: [] for name in self.roster}
        for name in self.roster:
            said: Any = self.gateways[name].relay(self.relay("advert", adverts))
            for bundle in said.statements:
                inbox[bundle.payload["receiver"]].append(bundle)
        blobs: list[Any] = [
            self.gateways[name].relay(self.relay("bundle", inbox[name])) for name in self.roster
        ]
        recoveries = [said.statement for said in blobs]
        ready: list[Any] = [
            self.gateways[name].relay(self.relay("recovery", recoveries)) for name in self.roster
        ]
        for name in self.roster:
            self.gateways[name].relay(self.relay("ready", ready))
        return self.manifest()

    def manifest(self, **changes: Any) -> Manifest:
        """Return the manifest of the first round."""
        site = self.target.run(self.run)
        assert site.epoch is not None
        plan = attempt_plan(self.document, site.shape, sites=len(self.roster), c=1, planned=self.planned)
        encoding = plan.encoding
        values: dict[str, Any] = {
            "protocol": PROTOCOL,
            "run": self.run,
            "phase": "train",
            "epoch": 1,
            "slot": 0,
            "round": 1,
            "rho": site.epoch.rho,
            "document": digest_of(self.document),
            "base": None,
            "state": self.state,
            "state_bytes": body_bytes("state", site.shape.state.size, site.shape.dtype),
            "invited": self.roster,
            "ring_bits": encoding.bits,
            "scale_log2": encoding.scale_log2,
            "bound": encoding.bound,
            "length": encoding.length,
            "noise_variance": encoding.noise_variance,
            "mechanism": "none",
            "min_sites": plan.min_sites,
            "theta": plan.theta,
            "total": None,
        }
        return Manifest(**values | changes)

    def contribute(self, manifest: Manifest, vector: Any = None) -> Answer:
        """Have the target answer a manifest with *vector*, by default zeros."""
        given = np.zeros(6, np.float32) if vector is None else vector
        return self.target.contribute(manifest, lambda _: given)


def counted(epsilon: float, *, name: str = "ages") -> QueryDocument:
    """Return a count under differential privacy that costs *epsilon*."""
    privacy = noised(epsilon, 1e-6)
    assert privacy is not None
    return QueryDocument(name=name, column="age", bounds=(0.0, 120.0), max_rows=1000, privacy=privacy)


def digest_of(document: Any) -> str:
    """Return a document's digest."""
    values = document.model_dump(mode="json")
    return recipe_digest(values, values["computation"])


def _require(real: SiteHome) -> dict[str, Any]:
    """Return the lines of the real policy that a document without data and without a unit can meet."""
    try:
        known = read_policy(real.policy).require
    except PolicyRefused:
        known = Requirements()
    return {
        "min_sites": known.min_sites,
        "min_organisations": known.min_organisations,
        "isolation": known.isolation,
    }
