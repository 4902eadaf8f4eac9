"""Who takes part in a key epoch: adverts that belong together, how many may collude, the threshold.

Rules
-----
1. n is 3 to :data:`MAX_ROSTER` sites. No name, key or commitment stands in an epoch's adverts twice.
2. Each site works out its own least c from its owner's confirmations and refuses a smaller one.
3. c >= n - 1 is refused: each of two honest sites is the other's only mask.
4. theta = floor((n + c) / 2) + 1, so that 2 theta > n + c: two sets of theta sites share an honest one, and c
   sites alone are never theta. Every sum over theta sites holds at least two honest ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from plasmid.core.errors import ProtocolError
from plasmid.secagg.statements import MAX_ROSTER, Advert

_COMMITMENT_BYTES = 32


def threshold(n: int, c: int) -> int:
    """Return theta, the number of sites that must agree and answer, for *n* sites of which *c* collude."""
    return (n + c) // 2 + 1


def least_colluders(organisations: Mapping[str, str | None], largest: int, *, me: str) -> int:
    """Return the smallest c that a site accepts.

    Parameters
    ----------
    organisations
        For each site of the roster its organisation as this owner confirmed it, None if unconfirmed.
    largest
        How many whole organisations are assumed to collude (the recipe's ``colluding_organisations``).
    me
        The site that asks; its own organisation does not collude against itself.
    """
    mine = organisations[me]
    others = [org for site, org in organisations.items() if site != me]
    unconfirmed = sum(org is None for org in others)
    sizes = Counter(org for org in others if org is not None and org != mine)
    return max(1, unconfirmed + sum(count for _, count in sizes.most_common(largest)))


def check_colluders(n: int, c: int, least: int) -> None:
    """Refuse a plan that assumes fewer colluders than *least*, or that no mask could withstand.

    Raises
    ------
    ProtocolError
        ``protocol.colluders``.
    """
    if c < max(1, least):
        raise ProtocolError(
            "protocol.colluders",
            f"the plan assumes {c} colluding sites, this site assumes at least {max(1, least)}.",
            "Confirm the peers in peers.yaml, or raise the recipe's colluding_organisations.",
        )
    if c >= n - 1:
        raise ProtocolError(
            "protocol.colluders",
            f"with {n} sites, {c} of them colluding, a mask hides nothing.",
            "Invite more organisations: at least c + 2 sites are needed.",
        )


def check_adverts(adverts: Sequence[Advert]) -> list[Advert]:
    """Return *adverts* in the order of the roster.

    Raises
    ------
    ProtocolError
        ``protocol.adverts``: fewer than 3 or more than 64, a site, key or commitment twice, or adverts of
        different runs, epochs, recipes or numbers of slots.
    """
    keys = [key for advert in adverts for key in (advert.x25519, advert.mlkem768)]
    secrets = [
        digests[start : start + _COMMITMENT_BYTES]
        for advert in adverts
        for digests in (advert.self_commitments, advert.key_commitments, advert.group_commitment)
        for start in range(0, len(digests), _COMMITMENT_BYTES)
    ]
    alike = {
        (a.run, a.epoch, a.document, len(side))
        for a in adverts
        for side in (a.self_commitments, a.key_commitments)
    }
    problem = (
        f"a roster holds 3 to {MAX_ROSTER} sites, not {len(adverts)}"
        if not 3 <= len(adverts) <= MAX_ROSTER
        else "a site, key or commitment appears twice"
        if len({advert.site for advert in adverts}) != len(adverts)
        or len(set(keys)) != len(keys)
        or len(set(secrets)) != len(secrets)
        else "an advert is for another run, epoch, recipe or number of slots"
        if len(alike) != 1
        else ""
    )
    if problem:
        raise ProtocolError("protocol.adverts", f"{problem}.", "The epoch is void; start the run again.")
    return sorted(adverts, key=lambda advert: advert.site)
