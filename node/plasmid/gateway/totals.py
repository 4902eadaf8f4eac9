"""Verify a published total: by its tag, and by samples of what it is said to be the sum of.

Rules
-----
1. The tag fits, under the group's key and the manifest that this site answered, and the total is over the
   sites to whose sum it consented. Without that key nobody makes another one that passes, but with a chance
   of 2 / (2**61 - 1).
2. Where this site consented, drawn leaves of all contributions add up to the total, too
   (:mod:`plasmid.secagg.samples`): that holds against a coordinator that has the key from a site.
3. **One total, one opening, one draw** for a manifest: whoever is asked again after a failure gets the same
   leaves, and no other total is sampled. What cannot be sampled is not accepted.
*Claim*: who has not agreed verifies the tag alone, and signs no state after it as verified. So no sum opens
at a state after a round that was never summed. If it was, such sites and c others are fewer than theta: no
sum of their epoch opens without a site that has sampled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any, Protocol

from numpy.typing import NDArray

from plasmid.core.errors import ProtocolError
from plasmid.protocol.body import Body, body_bytes, unpack
from plasmid.protocol.messages import Total
from plasmid.secagg import samples, tags
from plasmid.secagg.ring import TAIL, Encoding, Words

OPENING = "opening"


class Source(Protocol):
    """Where a site gets what the coordinator has published. Each method raises LinkError."""

    def download(self, digest: str, size: int, /) -> Body:
        """Return the published body of a digest and a size."""

    def sample(self, run: str, manifest: str, part: str, size: int, /) -> bytes:
        """Return *size* bytes of the sum under *manifest*: its ``opening``, or the sample at a leaf."""


@dataclass(frozen=True)
class Published:
    """A verified sum: its numbers, float64 [length of a vector], over how many sites, if it was sampled."""

    values: NDArray[Any]
    sites: int
    sampled: bool


@dataclass(frozen=True)
class Answered:
    """A round to which this site contributed.

    Attributes
    ----------
    manifest, state
        Digests.
    honest
        m - c.
    invited
        The sites of the attempt.
    encoding
        Of its vectors.
    key, needs
        The group's key, and how many sites must have verified the next state for one that missed the round;
        empty and 0 where nothing is masked.
    survivors
        Those to whose sum this site has consented, in order; None as long as it has not.
    drawn
        The total and opening that were sampled, and the leaves.
    """

    run: str
    manifest: str
    state: str
    honest: int
    invited: tuple[str, ...]
    encoding: Encoding
    key: bytes = b""
    needs: int = 0
    survivors: dict[str, samples.Shown] | None = None
    drawn: list[tuple[str, bytes, list[int]]] = field(default_factory=list)

    @property
    def is_sampled(self) -> bool:
        """Whether a total of it counts as verified: it is sampled, or nothing is masked."""
        return self.survivors is not None or not self.key


def verified(round_: int, answered: Answered, total: Total, source: Source) -> Words:
    """Return the words [length + TAIL] of a *total* from which the state of *round_* shall follow.

    Raises
    ------
    ProtocolError
        ``protocol.step``: it is not the sum of the round before; ``protocol.body``.
    """
    length, dtype = answered.encoding.length + TAIL, answered.encoding.dtype
    if total.size != body_bytes("total", length, dtype):
        raise differs(round_, f"a total of {total.size} bytes")
    words = unpack(source.download(total.digest, total.size), "total", length=length, dtype=dtype)
    _check(round_, answered, total, words, source)
    return words


def _check(round_: int, answered: Answered, total: Total, words: Words, source: Source) -> None:
    shown, survivors = answered.survivors, tuple(total.survivors)
    invited = tuple(site for site in answered.invited if site in survivors)
    if survivors != invited or (shown is not None and survivors != tuple(shown)):
        raise differs(round_, "a total over other sites than were agreed on")
    if not answered.key:
        return
    if total.tag != tags.pack_tag(tags.tag(answered.key, answered.manifest, words, survivors)):
        raise differs(round_, "a total whose tag does not fit, so that it is not what the sites summed")
    if shown is not None and not _is_sum(answered, shown, total.digest, words, source):
        raise differs(round_, "a total that is not the sum of the contributions that were agreed on")


def _is_sum(
    answered: Answered, shown: dict[str, samples.Shown], digest: str, words: Words, source: Source
) -> bool:
    """Return whether the opening and each leaf that is drawn are those of *words*."""
    run, manifest = answered.run, answered.manifest
    gone = [site for site in answered.invited if site not in shown]
    opening = source.sample(run, manifest, OPENING, samples.opening_bytes(len(shown), len(gone)))
    pads = samples.pads_in(opening, manifest, shown, gone)
    size = body_bytes("words", words.size, words.dtype)
    if not answered.drawn:
        count = samples.leaf_count(size)
        leaves = SystemRandom().sample(range(count), min(samples.SAMPLES, count))
        answered.drawn.append((digest, opening, leaves))
    ((*before, leaves),) = answered.drawn
    if not pads or before != [digest, opening]:
        return False
    for leaf in leaves:
        found = source.sample(run, manifest, str(leaf), samples.sample_bytes(size, leaf, len(shown)))
        if not samples.fits(words, found, leaf, header=size - words.nbytes, shown=shown, pads=pads):
            return False
    return True


def differs(round_: int, how: str) -> ProtocolError:
    """Return the error that a state does not follow."""
    return ProtocolError(
        "protocol.step",
        f"the state of round {round_} does not follow from the published totals: {how}.",
        "The coordinator does not do what the recipe says, or runs another release. Ask its operator.",
    )
