"""Secure aggregation in memory: sites of one key epoch, their coordinator, and what left them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from plasmid.secagg.coordinator import CoordinatorEpoch, Reader, sum_words
from plasmid.secagg.ring import Encoding, RingBits, Words, plan_encoding
from plasmid.secagg.samples import body_root
from plasmid.secagg.site import SiteEpoch
from plasmid.secagg.statements import Advert, Bundle, Consent, Contribution, Ready, Recovery, Shares

DOCUMENT = "d" * 64
H = "a1" * 32
NO_LEDGER = "0" * 64
NO_TAG = bytes(8)
NAMES = ("alpha", "beta", "gamma", "delta")


def started(
    names: Sequence[str] = NAMES, *, epoch: int = 1, slots: int = 2, run: str = "run"
) -> dict[str, SiteEpoch]:
    """Return sites that have made their adverts."""
    return {
        name: SiteEpoch(run=run, epoch=epoch, site=name, document=DOCUMENT, slots=slots) for name in names
    }


def adverts(sites: dict[str, SiteEpoch]) -> list[Advert]:
    """Return everyone's advert."""
    return [site.advert for site in sites.values()]


def bundled(sites: dict[str, SiteEpoch], *, c: int = 1) -> dict[str, list[Bundle]]:
    """Exchange adverts; return the bundles by receiver."""
    inbox: dict[str, list[Bundle]] = {name: [] for name in sites}
    for site in sites.values():
        for bundle in site.bundles(adverts(sites), c=c, least=1):
            inbox[bundle.receiver].append(bundle)
    return inbox


def recovered(sites: dict[str, SiteEpoch], *, c: int = 1) -> dict[str, tuple[Recovery, list[bytes]]]:
    """Exchange adverts and bundles; return everyone's recovery."""
    inbox = bundled(sites, c=c)
    return {name: site.recovery(inbox[name]) for name, site in sites.items()}


def statements_of(recoveries: dict[str, tuple[Recovery, list[bytes]]]) -> list[Recovery]:
    """Return the statements without the blobs."""
    return [said for said, _ in recoveries.values()]


@dataclass
class Sealed:
    """An epoch whose sites may mask, and one attempt after the other in it."""

    sites: dict[str, SiteEpoch]
    coordinator: CoordinatorEpoch
    recoveries: dict[str, tuple[Recovery, list[bytes]]]
    statements: list[Ready]
    vectors: dict[str, Words] = field(default_factory=dict)
    tags: dict[str, bytes] = field(default_factory=dict)

    @property
    def theta(self) -> int:
        """The threshold."""
        return self.coordinator.theta

    @property
    def roster(self) -> tuple[str, ...]:
        """The sites in order."""
        return self.coordinator.roster

    def contribute(
        self,
        name: str,
        words: Words,
        *,
        slot: int = 0,
        manifest: str = H,
        invited: Sequence[str] | None = None,
    ) -> Contribution:
        """Let *name* mask a copy of *words*, keep the vector, and return what it says."""
        site, masked = self.sites[name], words.copy()
        sites = self.roster if invited is None else invited
        tag = site.mask(masked, slot=slot, manifest=manifest, invited=sites)
        self.vectors[name] = masked
        place = {"slot": slot, "manifest": manifest, "run": site.run, "epoch": site.epoch}
        said = contribution(name, masked, tag=tag, **place)
        self.tags[name] = tag
        site.contributed(said)
        return said

    def consents(
        self, names: Iterable[str], said: Sequence[Contribution], *, slot: int = 0, m: int = 3
    ) -> list[Consent]:
        """Let *names* agree to the survivors that *said* names."""
        return [self.sites[name].consent(slot, said, m=m) for name in names]

    def shares(self, names: Iterable[str], consents: Sequence[Consent], *, slot: int = 0) -> list[Shares]:
        """Let *names* answer."""
        return [self.sites[name].shares(slot, consents) for name in names]

    def attempt(
        self, plain: dict[str, Words], *, slot: int = 0, manifest: str = H, invited: Sequence[str] = ()
    ) -> list[Shares]:
        """Take one attempt up to the answers; the sites of *plain* survive."""
        said = [
            self.contribute(name, words, slot=slot, manifest=manifest, invited=invited or None)
            for name, words in plain.items()
        ]
        return self.shares(plain, self.consents(plain, said, slot=slot), slot=slot)

    def total(
        self,
        encoding: Encoding,
        shares: Sequence[Shares],
        survivors: Iterable[str],
        *,
        slot: int = 0,
        manifest: str = H,
        invited: Sequence[str] | None = None,
    ) -> Words:
        """Return the opened sum of *survivors*."""
        alive = list(survivors)
        pads = self.coordinator.pads(
            slot,
            manifest,
            invited=self.roster if invited is None else invited,
            survivors=alive,
            shares=shares,
        )
        readers = [reader(self.vectors[name]) for name in alive]
        return sum_words(readers, encoding, pads, 0, self.vectors[alive[0]].size)


def reader(words: Words) -> Reader:
    """Return how the coordinator reads *words*."""
    return lambda offset, count: words[offset : offset + count]


def contribution(name: str, words: Words | memoryview, **fields: Any) -> Contribution:
    """Return the statement of *name* over *words*."""
    body = body_root(words.tobytes())
    said: dict[str, Any] = {
        "run": "run",
        "epoch": 1,
        "round": 1,
        "slot": 0,
        "manifest": H,
        "body": body,
        "tag": NO_TAG,
        **fields,
    }
    return Contribution(
        site=name, body_bytes=words.nbytes, ledger_counter=0, ledger_head=NO_LEDGER, isolation="none", **said
    )


def sealed(names: Sequence[str] = NAMES, *, c: int = 1, slots: int = 2, epoch: int = 1) -> Sealed:
    """Return an epoch whose set-up is done."""
    sites = started(names, slots=slots, epoch=epoch)
    recoveries = recovered(sites, c=c)
    statements = [site.ready(statements_of(recoveries)) for site in sites.values()]
    for site in sites.values():
        site.seal(statements)
    coordinator = CoordinatorEpoch(adverts(sites), recoveries, c=c)
    return Sealed(sites, coordinator, recoveries, statements)


def plan(sites: int, *, length: int = 10, bits: RingBits = 32) -> Encoding:
    """Return the encoding of *sites* vectors within ±1."""
    return plan_encoding(length=length, bound=1.0, sites=sites, bits=bits)
