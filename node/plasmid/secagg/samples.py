"""Samples of all contributions to a sum, by which a site tells a forged total without any key. Pure.

Rules
-----
1. The digest of a contribution's body is the root (RFC 6962) of a tree over its bytes, in leaves of
   :func:`leaf_bytes`. Each site signs its own and agrees to those of all survivors before the sum opens, so
   that a site that works with the coordinator cannot put another vector in place of its own afterwards.
2. A site is told the total, then the :func:`opening`. Only then does it draw leaves, in secret, and ask for
   each one of every survivor with its proof: their words, less the pads, are the total's, or it is forged.
3. A self-mask comes as the secret that its site had committed to. The keys of pairs with drop-outs are the
   coordinator's word, but it gives them before it knows the leaves: they would have to make all of a false
   total fit, and no search among some thousand AES streams hits the 2,048 bits of even one whole leaf.
*Claim*: a total that is false in a share f of its leaves passes one site with (1 - f)**SAMPLES, or less. With
drop-outs, a vector much shorter than a leaf leaves the keys of pairs room for a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from plasmid.core.merkle import HASH_BYTES, leaf_hash, root_of, verify_inclusion
from plasmid.secagg.keystream import KEY_BYTES, Keystreams, Pad, commitment, self_key
from plasmid.secagg.ring import Words
from plasmid.secagg.statements import SECRET_BYTES

SAMPLES = 2
_LEAVES = 256
_LEAST_BYTES = 256


class Shown(NamedTuple):
    """What a site was shown of a survivor before the sum opened: its body's root, its commitment to b."""

    root: bytes
    commitment: bytes


def leaf_bytes(size: int) -> int:
    """Return the length of a leaf of a body of *size* bytes: at most 256 leaves, of 256 bytes or more."""
    return max(_LEAST_BYTES, 8 * -(-size // (8 * _LEAVES)))


def leaf_count(size: int) -> int:
    """Return how many leaves a body of *size* bytes has."""
    return -(-size // leaf_bytes(size))


def leaf_hashes(body: bytes | memoryview) -> list[bytes]:
    """Return the hashes of the leaves of *body*."""
    view, step = memoryview(body), leaf_bytes(len(body))
    return [leaf_hash(view[start : start + step]) for start in range(0, len(view), step)]


def body_root(body: bytes | memoryview) -> str:
    """Return the digest of a contribution's *body*, hexadecimal."""
    return root_of(leaf_hashes(body)).hex()


def sample_bytes(size: int, index: int, sites: int) -> int:
    """Return the length of the sample at leaf *index*: that leaf of each body, and its path to the root."""
    last, length = leaf_count(size) - 1, min(leaf_bytes(size), size - index * leaf_bytes(size))
    while last:
        length += HASH_BYTES * bool(index & 1 or index < last)
        index, last = index >> 1, last >> 1
    return sites * length


def opening_bytes(sites: int, gone: int) -> int:
    """Return the length of an opening: b of each survivor, keys of each drop-out's pairs with them."""
    return sites * (SECRET_BYTES + gone * KEY_BYTES)


def pads_in(opening: bytes, manifest: str, shown: Mapping[str, Shown], gone: Sequence[str]) -> list[Pad]:
    """Return the pads of the sum over the sites of *shown*, in order; none if *opening* is not theirs."""
    parts = [opening[start : start + SECRET_BYTES] for start in range(0, len(opening), SECRET_BYTES)]
    secrets, keys = parts[: len(shown)], opening[SECRET_BYTES * len(shown) :]
    committed = [one.commitment for one in shown.values()]
    if len(opening) != opening_bytes(len(shown), len(gone)) or list(map(commitment, secrets)) != committed:
        return []
    pads = [Pad(self_key(secret, manifest), subtract=True) for secret in secrets]
    for place, (site, other) in enumerate(product(gone, shown)):
        pads.append(Pad(keys[KEY_BYTES * place : KEY_BYTES * (place + 1)], subtract=other < site))
    return pads


def fits(
    total: Words, sample: bytes, index: int, *, header: int, shown: Mapping[str, Shown], pads: Sequence[Pad]
) -> bool:
    """Return whether *total* [n] is what leaf *index* says; *header* bytes of a body precede words."""
    size = header + total.nbytes
    start, each = index * leaf_bytes(size), sample_bytes(size, index, 1)
    stop = min(size, start + leaf_bytes(size))
    if len(sample) != each * len(shown):
        return False
    first, last = (max(0, end - header) // total.itemsize for end in (start, stop))
    found = np.zeros(last - first, total.dtype)
    for place, one in enumerate(shown.values()):
        leaf = sample[each * place : each * place + stop - start]
        path = sample[each * place + stop - start : each * (place + 1)]
        proof = [path[at : at + HASH_BYTES] for at in range(0, len(path), HASH_BYTES)]
        if not verify_inclusion(leaf_hash(leaf), index, leaf_count(size), proof, one.root):
            return False
        found += np.frombuffer(leaf, total.dtype, offset=max(0, header - start))
    Keystreams(pads, total.dtype, offset=first).add(found)
    return np.array_equal(found, total[first:last])
