"""What a coordinator answers to the questions of sites for samples: the truth, or whatever might help a lie.

Bodies are so short that each is one leaf: a total that is false is false in every leaf that a site can draw.
"""

from __future__ import annotations

from dataclasses import dataclass

from plasmid.core.errors import ProtocolError
from plasmid.protocol.body import pack, unpack
from plasmid.secagg.ring import Words

ANSWERS = ("true", "another leaf", "fits", "signed again", "another opening", "none")


@dataclass(frozen=True)
class Kept:
    """What the coordinator keeps of an opened sum: the opening, bodies by site in order, the sum [n]."""

    opening: bytes
    bodies: dict[str, bytes]
    words: Words


class Answering:
    """Answers to questions for samples.

    Attributes
    ----------
    how
        One of :data:`ANSWERS`.
    kept
        By manifest: what was opened.
    claimed
        By manifest: what the coordinator says that the sum was, where that is a lie.
    """

    def __init__(self, colluder: str) -> None:
        self._colluder, self.how = colluder, "true"
        self.kept: dict[str, Kept] = {}
        self.claimed: dict[str, Words] = {}

    def sample(self, manifest: str, part: str, size: int) -> bytes:
        """Return *size* bytes or any other number. Raises ProtocolError: the coordinator has no answer."""
        kept = self.kept.get(manifest)
        if self.how == "none" or (kept is None and self.how == "true"):
            raise ProtocolError("protocol.body", "there is no such sum.")
        if kept is None:
            return bytes(size)
        if part == "opening":
            changed = self.how == "another opening"
            return kept.opening[:-1] + bytes([kept.opening[-1] ^ changed])
        return b"".join(self._bodies(manifest, kept).values())

    def _bodies(self, manifest: str, kept: Kept) -> dict[str, bytes]:
        match self.how:
            case "another leaf":
                others = [one.bodies for digest, one in self.kept.items() if digest != manifest]
                return others[-1] if others else dict(reversed(kept.bodies.items()))
            case "fits":
                return kept.bodies | self.fitting(manifest, next(iter(kept.bodies)))
            case "signed again" if self._colluder in kept.bodies:
                return kept.bodies | self.fitting(manifest, self._colluder)
            case _:
                return kept.bodies

    def fitting(self, manifest: str, site: str) -> dict[str, bytes]:
        """Return the body that *site* would have sent, for the sum to be what is claimed."""
        kept = self.kept[manifest]
        own = unpack(kept.bodies[site], "words", length=kept.words.size, dtype=kept.words.dtype)
        return {site: pack("words", own + (self.claimed.get(manifest, kept.words) - kept.words))}
