"""A person as a keyed hash: what a site remembers of whose rows were where."""

from __future__ import annotations

from hashlib import blake2b


def person_key(identity: bytes, secret: bytes) -> int:
    """Return 64 bits of BLAKE2b (RFC 7693) of *identity* under *secret*, at most 64 bytes."""
    return int.from_bytes(blake2b(identity, digest_size=8, key=secret).digest(), "big")
