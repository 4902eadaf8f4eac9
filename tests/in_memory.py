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

from plasmid.gateway.gateway import Answer, Gateway
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.peers import Peer, Peers, write_peers
from plasmid.privacy.ring import TAIL, plan_encoding
from plasmid.privacy.statements import PROTOCOL
from plasmid.protocol.body import body_bytes, unpack
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admission, Admit, Epoch, Manifest, Relay, Signed
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
    """

    root: Path
    document: Any = field(default_factory=lambda: PingDocument(length=6, rounds=2))
    sites: Sequence[str] = SITES
    tables: Mapping[str, str] = field(default_factory=dict)
    organisations: Mapping[str, str] = field(default_factory=dict)
    strangers: Sequence[str] = ()
    run: str = "run-1"

    def __post_init__(self) -> None:
        self.coordinator = Identity.generate("coordinator")
        self.values, self.digest = document_of(self.document)
        self.identities = {site: Identity.generate(site) for site in self.sites}
        self.gateways = {site: self._make(site) for site in self.sites}

    def organisation(self, site: str) -> str:
        """Return whose site it is."""
        return self.organisations.get(site, f"{site} hospital")

    def home(self, site: str) -> SiteHome:
        """Return a site's folder."""
        return SiteHome(self.root / site)

    def _make(self, site: str) -> Gateway:
        home = self.home(site)
        (home.folder / "data").mkdir(parents=True)
        home.write_config(SiteConfig(name=site, organisation=self.organisation(site)))
        (home.folder / "identity.key").write_bytes(self.identities[site].to_pem())
        confirmed = [
            Peer(name=name, organisation=self.organisation(name), key=self.identities[name].public)
            for name in self.sites
            if name != site and name not in self.strangers
        ]
        write_peers(home.peers, Peers(coordinator=self.coordinator.public, sites=confirmed))
        self.allow(site, [self.digest])
        if site in self.tables:
            (home.folder / "data" / "table.csv").write_text(self.tables[site], encoding="utf-8")
        return Gateway(home)

    def allow(self, site: str, digests: Sequence[str], **require: Any) -> None:
        """Write a site's policy."""
        policy = {"allow": list(digests), "require": require}
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
            "slots": self.document.rounds,
            "c": 1,
        }
        return Epoch(**values | changes)

    def relay(self, kind: str, statements: Sequence[Signed]) -> Relay:
        """Return the message that relays *statements*."""
        return Relay(run=self.run, kind=kind, statements=list(statements))  # type: ignore[arg-type]

    def adverts(self, **changes: Any) -> list[Signed]:
        """Begin the epoch everywhere and return the adverts."""
        made = [gateway.begin_epoch(self.epoch(**changes)) for gateway in self.gateways.values()]
        return [advert for advert in made if advert is not None]

    def bundles(self, adverts: Sequence[Signed]) -> dict[str, list[Signed]]:
        """Relay adverts and return the bundles by receiver."""
        inbox: dict[str, list[Signed]] = {site: [] for site in self.sites}
        for gateway in self.gateways.values():
            said: Any = gateway.relay(self.relay("advert", adverts))
            for bundle in said.statements:
                inbox[bundle.payload["receiver"]].append(bundle)
        return inbox

    def ready(self, inbox: Mapping[str, Sequence[Signed]]) -> list[Signed]:
        """Relay bundles and return the ready statements."""
        said: list[Any] = [
            gateway.relay(self.relay("bundle", inbox[site])) for site, gateway in self.gateways.items()
        ]
        return said

    def seal(self, statements: Sequence[Signed]) -> None:
        """Relay ready statements."""
        for gateway in self.gateways.values():
            assert gateway.relay(self.relay("ready", statements)) is None

    def set_up(self, **changes: Any) -> None:
        """Admit the run everywhere and go through the key epoch."""
        self.admit_all()
        adverts = self.adverts(**changes)
        if adverts:
            self.seal(self.ready(self.bundles(adverts)))

    def manifest(self, round_: int = 1, **changes: Any) -> Manifest:
        """Return the manifest of a round, as every site expects it."""
        site = self.gateways[self.sites[0]].run(self.run)
        shape = site.shape
        plan = plan_encoding(
            length=shape.schema.size, bound=shape.bound, sites=len(self.sites), bits=shape.bits
        )
        state_dtype = np.dtype("<f4" if shape.bits == 32 else "<f8")
        values: dict[str, Any] = {
            "protocol": PROTOCOL if site.masked else "none",
            "run": self.run,
            "epoch": 1,
            "slot": round_ - 1,
            "round": round_,
            "rho": site.epoch.rho if site.epoch else None,
            "document": self.digest,
            "base": site.base.digest if site.base else None,
            "state": STATE,
            "state_bytes": body_bytes("state", plan.length, state_dtype),
            "invited": sorted(self.sites),
            "ring_bits": plan.bits,
            "scale_log2": plan.scale_log2,
            "bound": plan.bound,
            "length": plan.length,
            "min_sites": self.document.federation.min_sites,
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
