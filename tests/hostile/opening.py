"""What a coordinator opens, and what it publishes as a total: the opened one, or any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hostile.answering import Kept
from hostile.protocol import Vector
from hostile.world import World
from plasmid.computations import api
from plasmid.gateway.admission import Answer
from plasmid.protocol.body import pack, unpack
from plasmid.protocol.messages import Manifest, Start, Total
from plasmid.secagg import tags
from plasmid.secagg.coordinator import CoordinatorEpoch
from plasmid.secagg.keystream import Keystreams
from plasmid.secagg.ring import TAIL, Encoding, Words, decode_sum
from plasmid.secagg.statements import Contribution, Shares


@dataclass(eq=False)
class Attempt:
    """A manifest, the state that it names, and the masked bodies that came for it."""

    manifest: Manifest
    state: Vector
    digest: str
    bodies: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """What a coordinator says was summed: words with tail, over whom, and with which tag."""

    words: Words
    survivors: tuple[str, ...]
    tag: bytes


@dataclass(frozen=True, eq=False)
class Opened:
    """A sum that the coordinator knows: the attempt, over whom, the values [length], and as opened."""

    attempt: Attempt
    survivors: tuple[str, ...]
    values: Vector
    told: Told


def opened(
    world: World,
    held: CoordinatorEpoch,
    attempt: Attempt,
    survivors: tuple[str, ...],
    shares: Sequence[Shares],
) -> Opened:
    """Return the sum of *attempt* over *survivors*. Raises ProtocolError: *shares* do not open it."""
    about, answers = attempt.manifest, [attempt.bodies[site] for site in survivors]
    encoding = about.encoding()
    pads, opening = held.opening(
        about.slot, attempt.digest, invited=about.invited, survivors=survivors, shares=shares
    )
    total = np.zeros(encoding.length + TAIL, encoding.dtype)
    for answer in answers:
        total += unpack(answer.body, "words", length=total.size, dtype=total.dtype)
    Keystreams(pads, total.dtype).add(total)
    bodies = {site: attempt.bodies[site].body for site in about.invited if site in survivors}
    world.answering.kept[attempt.digest] = Kept(opening, bodies, total)
    said = (Contribution.model_validate(answer.contribution.payload).tag for answer in answers)
    told = Told(total, survivors, tags.opened(said, pads))
    return Opened(attempt, survivors, decode_sum(total, encoding, len(survivors)), told)


def tagged(told: Told, key: bytes, attempt: Attempt) -> Told:
    """Return what is *told* of *attempt* with the right tag for it, by the group's *key*."""
    tag = tags.tag(key, attempt.digest, told.words, told.survivors)
    return replace(told, tag=tags.pack_tag(tag))


def published(world: World, told: Told) -> Total:
    """Publish a total; return what a manifest says of it."""
    body = pack("total", told.words)
    return Total(digest=world.publish(body), size=len(body), survivors=list(told.survivors), tag=told.tag)


def start(world: World, round_: int, state: Vector, total: Total | None) -> Start:
    """Publish the state of a round; return what an epoch says of it."""
    body = pack("state", state.astype(world.shape.dtype))
    return Start(round=round_, state=world.publish(body), state_bytes=len(body), total=total)


def follows(world: World, told: Told, *, before: Vector, round_: int, encoding: Encoding) -> Vector:
    """Return the state that follows from *before* by what was told of *round_*, right or wrong."""
    steps = told.words.view(encoding.signed_dtype)[: encoding.length]
    summed = api.Sum(np.multiply(steps, encoding.step, dtype=np.float64), len(told.survivors), round_)
    return np.asarray(world.computation.advance(world.document, world.shape, before, summed))


def forged(kind: str, last: Told, *, gain: Vector, encoding: Encoding) -> Told:
    """Return another total than *last*, a true one, by the *kind* of lie.

    Parameters
    ----------
    gain
        By how much the state shall change, [length]: what "fits" makes up a sum for.
    """
    words, tag = last.words.copy(), tags.read_tag(last.tag)
    match kind:
        case "zeros":
            return Told(np.zeros_like(words), last.survivors, bytes(8))
        case "k times":
            return Told(words * words.dtype.type(3), last.survivors, tags.pack_tag(3 * tag % tags.P))
        case "a word":
            words[:1] += words.dtype.type(1 << 20)
            return Told(words, last.survivors, last.tag)
        case "other sites":
            return Told(words, last.survivors[1:] or last.survivors, last.tag)
        case "fits":
            steps = np.rint(gain.astype(np.float64) * len(last.survivors) / encoding.step)
            words[: encoding.length] = steps.astype(np.int64).astype(encoding.signed_dtype).view(words.dtype)
            return Told(words, last.survivors, last.tag)
        case _:
            return last
