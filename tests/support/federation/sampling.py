"""The contributions to a sum that is known, and the samples of them that a coordinator serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plasmid.core.errors import LinkError
from plasmid.core.merkle import inclusion_proof
from plasmid.protocol.body import pack
from plasmid.secagg.keystream import Keystreams, Pad, commitment, self_key
from plasmid.secagg.ring import Words
from plasmid.secagg.samples import Shown, body_root, leaf_bytes, leaf_hashes


@dataclass
class Contributions:
    """Masked bodies, and the secrets b of their self-masks, by site in order."""

    bodies: dict[str, bytes]
    secrets: dict[str, bytes]

    @property
    def opening(self) -> bytes:
        """What opened the sum."""
        return b"".join(self.secrets.values())

    def shown(self) -> dict[str, Shown]:
        """Return what a site was shown before the sum opened."""
        return {
            site: Shown(bytes.fromhex(body_root(body)), commitment(self.secrets[site]))
            for site, body in self.bodies.items()
        }

    def part(self, part: str) -> bytes:
        """Return the ``opening``, or the sample at a leaf."""
        return self.opening if part == "opening" else self.sample(int(part))

    def sample(self, index: int) -> bytes:
        """Return the sample at a leaf."""
        parts = []
        for body in self.bodies.values():
            step = leaf_bytes(len(body))
            leaf = body[index * step : (index + 1) * step]
            parts.append(leaf + b"".join(inclusion_proof(leaf_hashes(body), index)))
        if not parts[0]:
            raise LinkError("link.no_body", f"there is no leaf {index}.")
        return b"".join(parts)


def contributions(words: Words, sites: Sequence[str], manifest: str, *, seed: int = 1) -> Contributions:
    """Return masked vectors of which *words* are the opened sum; no site has dropped out."""
    source = np.random.default_rng(seed)
    secrets = {site: source.bytes(32) for site in sites}
    vectors = [np.frombuffer(source.bytes(words.nbytes), words.dtype) for _ in sites[1:]]
    rest = words.copy()
    Keystreams([Pad(self_key(b, manifest)) for b in secrets.values()], words.dtype).add(rest)
    for vector in vectors:
        rest -= vector
    return Contributions(
        {site: pack("words", vector) for site, vector in zip(sites, [rest, *vectors], strict=True)}, secrets
    )
