"""What must hold after every step of whatever schedule: one function each, which yields what is broken.

The attack that ``shared_states`` and ``unverified_states`` are about: sum round 1 over S, say that X fell
silent, and begin round 2 from the same state over S without X, with no total or a false one. The difference
of the two sums is X's vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from hostile.coordinator import Coordinator
from hostile.opening import Opened
from hostile.protocol import Vector, alike, near
from hostile.world import HONEST, Basis
from plasmid.protocol.body import unpack

Invariant = Callable[[Coordinator], Iterator[str]]


def slots_mask_once(seen: Coordinator) -> Iterator[str]:
    """No two different masked vectors of a site under one run, epoch and slot."""
    for (site, place), bodies in seen.world.masked.items():
        if len(bodies) > 1:
            yield f"{site} masked {len(bodies)} vectors in {place}"


def sums_are_of_their_survivors(seen: Coordinator) -> Iterator[str]:
    """What opens is the sum of what its survivors computed: the coordinator holds no more, and no less."""
    for one in [] if seen.world.unit else seen.sums[-1:]:
        expected = sum(seen.world.vector(site, one.attempt.state) for site in one.survivors)
        if not np.allclose(one.values, expected, atol=1e-7):
            yield f"{one.values} is not the sum {expected} of {one.survivors}"


def shared_states(seen: Coordinator) -> Iterator[str]:
    """Without a unit, no two sums of a run begin from states near each other, over different survivors."""
    for one, other in [] if seen.world.unit else combinations(seen.sums, 2):
        if (
            one.attempt.manifest.run == other.attempt.manifest.run
            and one.survivors != other.survivors
            and near(one.attempt.state, other.attempt.state)
        ):
            yield (
                f"two sums from near states, over {one.survivors} and {other.survivors}, "
                f"differ by {one.values - other.values}"
            )


def unverified_states(seen: Coordinator) -> Iterator[str]:
    """An honest site computes from the first state, or from what follows from a sum of the round before.

    Who did not agree to that sum can be deceived: a colluder makes the tag, or a survivor list that nobody
    else agrees to. That it does no harm is what ``sums_follow`` says.
    """
    for one in seen.world.taken:
        about = one.manifest
        deceived = one.basis in (Basis.TAG, Basis.OTHER_LIST)
        if not deceived and not _is_true(seen, about.run, about.round, one.state):
            yield f"{one.site} computed round {about.round} from {one.state}, which follows from no sum"


def sums_follow(seen: Coordinator) -> Iterator[str]:
    """No sum opens at a state that does not follow from a sum, whoever was deceived."""
    for one in seen.sums[-1:]:
        about, state = one.attempt.manifest, one.attempt.state
        if not _is_true(seen, about.run, about.round, state):
            yield f"round {about.round} was summed over {one.survivors} at {state}, which follows from no sum"


def signed_states(seen: Coordinator) -> Iterator[str]:
    """An honest site signs that it verified a state only if it could, and if the state is true.

    In a ready statement it says so of what it re-ran itself; in a consent also of what others re-ran. The tag
    alone is no reason to. Who agreed to another survivor list than all others may sign what is false.
    """
    world = seen.world
    for one in world.vouched:
        state = unpack(
            world.bodies[one.state], "state", length=world.shape.state.size, dtype=world.shape.dtype
        )
        true = one.basis is Basis.OTHER_LIST or _is_true(seen, one.run, one.round, state)
        if not (one.could and true):
            yield f"{one.site} signs state {state} of round {one.round}, which it did not verify"
    signed = [said for said in seen.said["consent"] if said.signer in HONEST and said.payload["verified"]]
    consents = {(said.signer, said.payload["manifest"]) for said in signed}
    for taken in world.taken:
        about, state = taken.manifest, taken.state
        if taken.basis is Basis.OTHER_LIST or _is_true(seen, about.run, about.round, state):
            continue
        if (taken.site, about.digest()) in consents:
            yield f"{taken.site} consents in round {about.round} at {state}, which follows from no sum"


def _is_true(seen: Coordinator, run: str, round_: int, state: Vector) -> bool:
    true = [seen.follows(last) for last in seen.sums if _is_before(last, run, round_)]
    if round_ == 1:
        true.append(seen.world.computation.initial(seen.world.document, seen.world.shape))
    return any(alike(state, other) for other in true)


def _is_before(last: Opened, run: str, round_: int) -> bool:
    return (last.attempt.manifest.run, last.attempt.manifest.round) == (run, round_ - 1)


def sums_are_charged(seen: Coordinator) -> Iterator[str]:
    """Under a unit, each honest survivor of a sum has charged its attempt, and no more than it reserved."""
    if not (seen.world.unit and seen.sums):
        return
    for site in HONEST:
        entries = seen.world.gateways[site].ledger.entries()
        attempts = Counter((one["run"], *one["slot"]) for one in entries if one["event"] == "attempt")
        reserved = {one["run"]: one["attempts"] for one in entries if one["event"] == "reserve"}
        for run, most in reserved.items():
            charged = sum(count for place, count in attempts.items() if place[0] == run)
            if charged > most:
                yield f"{site} charged {charged} attempts of {run}, it reserved {most}"
        for one in seen.sums:
            about = one.attempt.manifest
            if site in one.survivors and not attempts[about.run, about.epoch, about.slot]:
                yield f"{site} is in the sum of slot {about.slot} of epoch {about.epoch}, and charged nothing"


INVARIANTS: tuple[Invariant, ...] = (
    slots_mask_once,
    sums_are_of_their_survivors,
    shared_states,
    unverified_states,
    sums_follow,
    signed_states,
    sums_are_charged,
)
