"""Tags of ``plasmid-sa/2``: by one field element a site tells a published total from any other.

Rules
-----
1. The field is F_p, p = 2**61 - 1. A vector of signed words x, tail included, is rows of :data:`COLUMNS`; its
   hash is sum_i s_i * (sum_j r_j * x_ij) mod p, with a coefficient r_j for each column and s_i for each row.
   The tag of a site's vector is its hash plus the site's own offset, a secret element.
2. Coefficients and offsets are drawn for one manifest H from the key K of the sites' group, which the
   coordinator does not have. It sees one total T with its tag for each H, and since the offset is uniform,
   that tells nothing of the coefficients: it is a one-time authenticator (Wegman and Carter 1981). Another
   total passes with a chance of at most 2 / p (Schwartz 1980, Zippel 1979: a polynomial of degree 2).
   **Without offsets 0 would have the tag 0, and k * T the tag k * t.**
3. Tags add up: the sum of the tags of sites S is the hash of the sum of their vectors over the integers, plus
   the offsets of S, so that S is authentic, too. Each site masks its tag in the field, with one element of
   each of its key streams: only the sum opens.
4. The inner products are exact. The coefficients are split into limbs of :data:`_LIMB` bits and the words
   into parts of 32: 2**12 products below 2**(32 + 9) add up to at most 2**53, which float64 holds.
*Claim*: every site has K. This binds the coordinator, and not one that works with a site.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from plasmid.secagg.keystream import KEY_BYTES, Pad, derive
from plasmid.secagg.ring import Words

P = 2**61 - 1
COLUMNS = 4096
_LIMB = 9
_LIMBS = 7
_ROWS = 16
"""Rows of a block: half a megabyte of float64, which stays in the processor's cache."""
_MASK = np.uint64(P)
_ELEMENT_COUNTER = (1 << 64).to_bytes(16, "big")
"""Where a key stream's field element begins, in AES blocks: no word of a vector lies that far."""


def group_key(contributions: Iterable[bytes], rho: str) -> bytes:
    """Return K, 32 bytes, of the *contributions* in the order of the roster and the adverts' digest."""
    return derive(b"".join(contributions), "group", bytes.fromhex(rho))


def tag(key: bytes, manifest: str, words: Words, sites: Iterable[str]) -> int:
    """Return the tag of *words* [n] (unsigned, read as two's complement) under the group's key K.

    Parameters
    ----------
    manifest
        SHA-256 of the canonical manifest under which the words are summed, H.
    sites
        Whose words these are, or are the sum of.
    """
    h = bytes.fromhex(manifest)
    offsets = (int(elements(derive(key, "offset", h, site, length=KEY_BYTES), 1)[0]) for site in sites)
    rows = -(-words.size // COLUMNS)
    coefficients = elements(derive(key, "total", h, length=KEY_BYTES), COLUMNS + rows)
    found = _inner(words, _limbs(coefficients[:COLUMNS]))
    products = zip(coefficients[COLUMNS:].tolist(), found.tolist(), strict=True)
    hashed: int = sum(row * value for row, value in products)
    return (sum(offsets) + hashed) % P


def _limbs(coefficients: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return *coefficients* [COLUMNS] as float64 [COLUMNS, _LIMBS], the lowest limb first."""
    shifts = np.arange(_LIMBS, dtype=np.uint64) * np.uint64(_LIMB)
    return ((coefficients[:, None] >> shifts) & np.uint64(2**_LIMB - 1)).astype(np.float64)


def _inner(words: Words, limbs: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return the inner product mod p of each row of *words* with the coefficients, uint64 [rows]."""
    rows = -(-words.size // COLUMNS)
    parts = [(np.dtype("<i4"), 0)] if words.itemsize == 4 else [(np.dtype("<u4"), 0), (np.dtype("<i4"), 32)]
    total, products = np.zeros(rows, np.uint64), np.empty((rows, _LIMBS))
    block = np.zeros((_ROWS, COLUMNS))
    for place, (dtype, shift) in enumerate(parts):
        part = words.view(dtype)[place :: len(parts)]
        for first in range(0, rows, _ROWS):
            own = part[first * COLUMNS : (first + _ROWS) * COLUMNS]
            flat, count = block.reshape(-1), min(_ROWS, rows - first)
            flat[: own.size] = own
            flat[own.size : count * COLUMNS] = 0
            np.matmul(block[:count], limbs, out=products[first : first + count])
        whole = np.mod(products.astype(np.int64), np.int64(P)).view(np.uint64)
        for limb in range(_LIMBS):
            total = _reduced(total + _rotated(whole[:, limb], (shift + _LIMB * limb) % 61))
    return total


def _rotated(values: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Return *values* times 2**bits mod p: 2**61 is 1, so bits that leave at the top come in below."""
    return ((values << np.uint64(bits)) & _MASK) | (values >> np.uint64(61 - bits))


def _reduced(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.where(values >= _MASK, values - _MASK, values)


def elements(key: bytes, count: int, *, start: bytes = bytes(16)) -> NDArray[np.uint64]:
    """Return *count* field elements of the AES-128-CTR stream of *key* from counter *start*, uniform in F_p.

    Each is the low 61 bits of 8 bytes, little-endian; p itself is rejected, and what follows takes its place.
    """
    stream = Cipher(AES(key), CTR(start)).encryptor()
    found = np.empty(0, np.uint64)
    while found.size < count:
        drawn = np.frombuffer(stream.update(bytes(8 * count)), "<u8") & _MASK
        found = np.concatenate([found, drawn[drawn != _MASK]])
    return found[:count]


def masked(value: int, pads: Iterable[Pad]) -> int:
    """Return *value* with an element of each of *pads* added, or subtracted, mod p."""
    for pad in pads:
        element = int(elements(pad.key, 1, start=_ELEMENT_COUNTER)[0])
        value += -element if pad.subtract else element
    return value % P


def opened(tags: Iterable[bytes | None], pads: Iterable[Pad]) -> bytes:
    """Return the sum of the survivors' masked *tags*, none of them None, opened by their words' *pads*."""
    return pack_tag(masked(sum(read_tag(one or b"") for one in tags), pads))


def pack_tag(value: int) -> bytes:
    """Return a field element as 8 bytes, big-endian."""
    return value.to_bytes(8, "big")


def read_tag(data: bytes) -> int:
    """Return the element that :func:`pack_tag` wrote."""
    return int.from_bytes(data, "big")


def is_element(data: bytes) -> bool:
    """Return whether *data* is an element of the field in its one spelling."""
    return len(data) == 8 and read_tag(data) < P
