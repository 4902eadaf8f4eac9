"""What depends on the protocol's version: what coordinator and colluder say, how a site checks states.

Rules
-----
1. Nothing that is written here was checked: a coordinator writes what it likes, and a colluder signs it.
2. A colluding site gives the coordinator all its shares, and its signature under anything. It does not give
   away what lets a coordinator forge a total: against that the protocol promises nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks import forged
from plasmid.gateway.following import ABSOLUTE, RELATIVE, Fetch
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.marks import Marks
from plasmid.privacy.secure_aggregation import SiteEpoch
from plasmid.privacy.statements import PROTOCOL, Shares
from plasmid.protocol.body import pack, unpack
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Manifest, Signed, Total, sign
from plasmid.protocol.plan import AttemptPlan

KNOWN_HOLES = frozenset({"shared_states", "unverified_states"} if PROTOCOL == "plasmid-sa/1" else ())
"""Invariants that this version of the protocol does not hold."""

Vector = NDArray[Any]

# -- what a coordinator writes ---------------------------------------------------------------------


def manifest(template: Manifest, plan: AttemptPlan, **said: Any) -> Manifest:
    """Return *template* as the manifest of another attempt: by *plan*, with the fields of *said*."""
    encoding = plan.encoding
    changes = {
        "ring_bits": encoding.bits,
        "scale_log2": encoding.scale_log2,
        "bound": encoding.bound,
        "length": encoding.length,
        "noise_variance": encoding.noise_variance,
        "min_sites": plan.min_sites,
        "theta": plan.theta,
    }
    return template.model_copy(update=changes | said)


def total_body(values: Vector) -> bytes:
    """Return the body in which a coordinator publishes *values* [length] as a total."""
    return pack("total", values.astype("<f8"))


def total(digest: str, body: bytes, *, sites: int, like: Total | None) -> Total:
    """Return a total of *sites* sites, whose *body* is published; with the proof of *like*, a true one."""
    changes = {"digest": digest, "size": len(body), "sites": sites}
    return Total(**changes) if like is None else like.model_copy(update=changes)


# -- what a colluding site gives -------------------------------------------------------------------


def signed_as(statement: Signed, identity: Identity, **changes: Any) -> Signed:
    """Return *statement* as *identity* says it, with *changes*."""
    said = forged(statement, identity, **{"site": identity.name, **changes})
    return said.model_copy(update={"signer": identity.name})


def dealt(epoch: SiteEpoch) -> Vector:
    """Return all shares that a site was dealt, uint8 [n, 2 or more, slots, 32]: of b, then of k."""
    return epoch._held.copy()


def shares_of(
    held: Vector, identity: Identity, said: Manifest, *, roster: Sequence[str], survivors: Sequence[str]
) -> Signed:
    """Return the answer of a colluder, which :func:`dealt` *held*, for any *survivors*."""

    def of(kind: int, sites: Sequence[str]) -> dict[str, bytes]:
        return {site: held[roster.index(site), kind, said.slot].tobytes() for site in sites}

    answer = Shares(
        run=said.run,
        epoch=said.epoch,
        slot=said.slot,
        site=identity.name,
        manifest=said.digest(),
        self_shares=of(0, [site for site in said.invited if site in survivors]),
        key_shares=of(1, [site for site in said.invited if site not in survivors]),
    )
    return sign(identity, answer)


# -- what a site does, and how that is weakened ------------------------------------------------------


def checked(admitted: Any, said: Manifest, fetch: Fetch) -> Vector:
    """Take the state of *said* as :mod:`plasmid.site.run` does, before it computes."""
    return np.asarray(admitted.following.take(said, fetch))


def unchecked(admitted: Any, said: Manifest, fetch: Fetch) -> Vector:
    """Take any state, as a site would that believes its coordinator."""
    shape = admitted.shape
    body = fetch(said.state, said.state_bytes)
    return unpack(body, "state", length=shape.state.size, dtype=shape.dtype)


def weakened(defence: str) -> list[tuple[type, str]]:
    """Return the methods that must do nothing so that *defence* is off; beside "state", :func:`unchecked`."""
    off: dict[str, list[tuple[type, str]]] = {
        "": [],
        "state": [],
        "epochs": [(Marks, "claim_epoch")],
        "charge": [(Ledger, "charge_attempt")],
    }
    return off[defence]


def alike(state: Vector, other: Vector) -> bool:
    """Return whether two states [n] differ by no more than rounding explains."""
    largest = float(np.abs(other).max(initial=0.0))
    return bool(np.allclose(state, other, rtol=RELATIVE, atol=ABSOLUTE * largest))
