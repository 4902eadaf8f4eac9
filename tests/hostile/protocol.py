"""What depends on the protocol's version: what coordinator and colluder say, how a site is weakened.

Rules
-----
1. Nothing that is written here was checked: a coordinator writes what it likes, and a colluder signs it.
2. A colluding site gives the coordinator all its shares, the group's key, with which it makes the right tag
   of any total, and its signature under anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.gateway import gateway, totals
from plasmid.gateway.admission import AdmittedRun
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.manifests import check_manifest
from plasmid.gateway.replay import Marks
from plasmid.gateway.totals import Answered, Source
from plasmid.gateway.verify_states import ABSOLUTE, RELATIVE, Following
from plasmid.planner.attempts import AttemptPlan
from plasmid.protocol.body import unpack
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Manifest, Signed, Start, Total, sign
from plasmid.secagg.near_states import NEAR
from plasmid.secagg.site import SiteEpoch
from plasmid.secagg.statements import Shares
from support.federation.attacks import forged

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


# -- what a colluding site gives -------------------------------------------------------------------


def signed_as(statement: Signed, identity: Identity, **changes: Any) -> Signed:
    """Return *statement* as *identity* says it, with *changes*."""
    author = "sender" if statement.payload["type"] == "bundle" else "site"
    said = forged(statement, identity, **{author: identity.name, **changes})
    return said.model_copy(update={"signer": identity.name})


def dealt(epoch: SiteEpoch) -> Vector:
    """Return all shares that a site was dealt, uint8 [n, 2 or more, slots, 32]: of b, then of k."""
    return epoch._held.copy()


def group_key(epoch: SiteEpoch) -> bytes:
    """Return the key of the tags, which all sites have."""
    return epoch.group_key


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


# -- how a site is weakened ----------------------------------------------------------------------------


def _nothing(*_: object, **__: object) -> None:
    """Check nothing."""


def _believing(following: Following, start: Start, source: Source) -> Vector:
    """Take any state, as a site would that believes its coordinator."""
    shape = following._shape
    body = source.download(start.state, start.state_bytes)
    state = unpack(body, "state", length=shape.state.size, dtype=shape.dtype)
    following._at, following.verified = (start.round, start.state, state), True
    return state


def _without_total(site: str, admitted: AdmittedRun, said: Manifest) -> api.Shape:
    """Compare a manifest with what the run implies, but for whether there is a total."""
    total = None if said.round == 1 else said.total or _SOME
    return check_manifest(site, admitted, said.model_copy(update={"total": total}))


_SOME = Total(digest="0" * 64, size=1, survivors=["alpha"], tag=bytes(8))
_NEAR = (Following, "check_near", _nothing)
_TAG = (totals, "_check", _nothing)

DEFENCES: dict[str, list[tuple[Any, str, Any]]] = {
    "": [],
    "state": [
        (Following, "take", _believing),
        (Following, "begin", _nothing),
        (Following, "follow", _nothing),
        (gateway, "check_manifest", _without_total),
        _NEAR,
    ],
    "tag": [_TAG],
    "tag, near": [_TAG, _NEAR],
    "samples": [(totals, "_is_sum", lambda *_: True)],
    "tag alone": [(Answered, "is_sampled", True)],
    "near": [_NEAR],
    "epochs": [(Marks, "claim_epoch", _nothing)],
    "charge": [(Ledger, "charge_attempt", _nothing)],
}
"""What to put in the place of which attribute, so that a defence is off."""


# -- which states are the same -------------------------------------------------------------------------


def alike(state: Vector, other: Vector) -> bool:
    """Return whether two states [n] differ by no more than rounding explains."""
    largest = float(np.abs(other).max(initial=0.0))
    return bool(np.allclose(state, other, rtol=RELATIVE, atol=ABSOLUTE * largest))


def near(state: Vector, other: Vector) -> bool:
    """Return whether two states [n] are so near that two sums at them would tell a vector."""
    sizes = np.linalg.norm(state), np.linalg.norm(other)
    return bool(np.linalg.norm(state.astype(np.float64) - other) <= NEAR * max(sizes))
