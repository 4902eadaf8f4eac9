"""One attempt of ``plasmid-sa/2`` with every party in this process: the real arithmetic, and no secrecy.

Rules
-----
1. Every step is the protocol's own (:mod:`plasmid.secagg.site`,
   :mod:`plasmid.secagg.coordinator`): keys, shares, masks, consents. Statements are not signed: whoever would
   check them is whoever made them.
2. An epoch has one slot: who takes part changes from round to round.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from plasmid.core.canonical import sha256_hex
from plasmid.secagg.coordinator import CoordinatorEpoch, sum_words
from plasmid.secagg.ring import Encoding, Words
from plasmid.secagg.site import SiteEpoch
from plasmid.secagg.statements import Bundle, Contribution

_NO_LEDGER = "0" * 64


def masked_total(
    words: Mapping[str, Words], encoding: Encoding, *, document: str, round_: int, c: int, least: int
) -> Words:
    """Return the opened sum [length + TAIL] of the sites' *words*, which are masked in place.

    Parameters
    ----------
    document
        Digest of the recipe.
    least
        The smallest number of survivors, m.

    Raises
    ------
    ProtocolError
        ``protocol.adverts``: not 3 to 64 sites; ``protocol.colluders``.
    """
    sites = {
        name: SiteEpoch(run="simulation", epoch=round_, site=name, document=document, slots=1)
        for name in sorted(words)
    }
    coordinator = _set_up(sites, c)
    manifest, roster = sha256_hex(f"{document}|{round_}".encode()), list(sites)
    said = []
    for name, site in sites.items():
        tag = site.mask(words[name], slot=0, manifest=manifest, invited=roster)
        said.append(_contribution(site, words[name], tag, manifest, round_))
        site.contributed(said[-1])
    consents = [site.consent(0, said, m=least) for site in sites.values()]
    shares = [site.shares(0, consents) for site in sites.values()]
    pads = coordinator.pads(0, manifest, invited=roster, survivors=roster, shares=shares)
    readers = [lambda offset, count, own=own: own[offset : offset + count] for own in words.values()]
    return sum_words(readers, encoding, pads, 0, next(iter(words.values())).size)


def _set_up(sites: Mapping[str, SiteEpoch], c: int) -> CoordinatorEpoch:
    """Take *sites* through a key epoch."""
    adverts = [site.advert for site in sites.values()]
    inbox: dict[str, list[Bundle]] = {name: [] for name in sites}
    for site in sites.values():
        for bundle in site.bundles(adverts, c=c, least=1):
            inbox[bundle.receiver].append(bundle)
    recoveries = {name: site.recovery(inbox[name]) for name, site in sites.items()}
    statements = [site.ready([one for one, _ in recoveries.values()]) for site in sites.values()]
    for site in sites.values():
        site.seal(statements)
    return CoordinatorEpoch(adverts, recoveries, c=c)


def _contribution(site: SiteEpoch, words: Words, tag: bytes, manifest: str, round_: int) -> Contribution:
    return Contribution(
        run=site.run,
        site=site.site,
        epoch=site.epoch,
        round=round_,
        slot=0,
        manifest=manifest,
        body=sha256_hex(np.ascontiguousarray(words).tobytes()),
        body_bytes=words.nbytes,
        tag=tag,
        ledger_counter=0,
        ledger_head=_NO_LEDGER,
        isolation="none",
    )
