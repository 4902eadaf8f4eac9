"""Keys from keys, and the pseudo-random generator of masks: AES-128-CTR, added to a vector in place.

Rules
-----
1. One key, one stream (NIST SP 800-38A, counter from zero); a key comes from HKDF-SHA256 (RFC 5869) and
   serves one vector of one manifest. Word w of the stream is at the same place whatever part is asked for.
2. All streams of a vector are added block by block, so that a block stays in the processor's cache while
   it gets them all: the vector is read and written once, and the memory above it is two blocks.
3. A CTR stream is AES of the counters. They are the same for all keys, so they are made once a block and
   enciphered under each key, by which a stream takes a sixth less time than in the library's own CTR mode.
4. The key schedule is the functions below; no other purpose is named anywhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plasmid.secagg.ring import Words
from plasmid.secagg.statements import PROTOCOL

KEY_BYTES = 16
_AES_BLOCK = 16
_COUNTS = 8192
BLOCK_BYTES = _COUNTS * _AES_BLOCK
"""128 KiB: counters, pad and words of a block fit 1 MiB of cache."""

_LOW_BITS = np.arange(_COUNTS, dtype=">u8").view(np.uint64)
"""The counters of the first block, as big-endian bytes; those of block i are these or i * 8192."""


class Pad(NamedTuple):
    """A key stream, and whether it is subtracted."""

    key: bytes
    subtract: bool = False


def commitment(secret: bytes) -> bytes:
    """Return the SHA-256 of a slot secret, by which it is known when it is put together from shares."""
    return hashlib.sha256(secret).digest()


def derive(secret: bytes, *info: str | bytes, length: int = 32) -> bytes:
    """Return HKDF-SHA256(*secret*) with the parts of *info* length-prefixed, so that no two joins agree."""
    joined = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (item.encode() if isinstance(item, str) else item for item in (PROTOCOL, *info))
    )
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=joined).derive(secret)


def channel_key(exchanged: bytes, encapsulated: bytes, rho: str) -> bytes:
    """Return the key of one bundle, from both key agreements and the digest of the adverts."""
    return derive(exchanged + encapsulated, "channel", bytes.fromhex(rho))


def pair_seed(secret: bytes, other: str) -> bytes:
    """Return the seed that the owner of a slot secret k shares with a later site *other*."""
    return derive(secret, "pair-seed", other)


def blob_key(secret: bytes) -> bytes:
    """Return the key of a recovery blob, from the slot secret k."""
    return derive(secret, "blob")


def self_key(secret: bytes, manifest: str) -> bytes:
    """Return the key of a self-mask under a manifest, from the slot secret b."""
    return derive(secret, "self", bytes.fromhex(manifest), length=KEY_BYTES)


def pair_key(seed: bytes, manifest: str) -> bytes:
    """Return the key of a pair mask under a manifest, from the pair's seed."""
    return derive(seed, "pair", bytes.fromhex(manifest), length=KEY_BYTES)


class Keystreams:
    """The key streams of *pads* from word *offset* of a vector on; each :meth:`add` takes what comes next.

    Parameters
    ----------
    dtype
        Of the words, unsigned, 32 or 64 bits.
    """

    def __init__(self, pads: Sequence[Pad], dtype: np.dtype[Any], *, offset: int = 0) -> None:
        # ECB is the bare cipher, which is never given anything but counters
        self._streams = [(Cipher(AES(pad.key), ECB()).encryptor(), pad.subtract) for pad in pads]  # noqa: S305
        self._next, self._per_block = offset, BLOCK_BYTES // dtype.itemsize
        self._counters = np.zeros((_COUNTS, 2), np.uint64)
        self._pad = np.empty(BLOCK_BYTES + _AES_BLOCK, np.uint8)

    def add(self, words: Words) -> None:
        """Add (or subtract) what comes next of each stream to *words* [n], in their ring, in place."""
        start = 0
        while start < words.size:
            block, place = divmod(self._next, self._per_block)
            part = words[start : start + self._per_block - place]
            self._add_within(part, block, place * words.dtype.itemsize)
            start += part.size
            self._next += part.size

    def _add_within(self, part: Words, block: int, place_bytes: int) -> None:
        first, skipped = divmod(place_bytes, _AES_BLOCK)
        count = -(-(skipped + part.nbytes) // _AES_BLOCK)
        high_bits = np.frombuffer((block * _COUNTS).to_bytes(8, "big"), np.uint64)
        np.bitwise_or(_LOW_BITS[first : first + count], high_bits, out=self._counters[:count, 1])
        counters, into = self._counters[:count].data.cast("B"), self._pad.data
        pad = self._pad[skipped : skipped + part.nbytes].view(part.dtype)
        for stream, subtract in self._streams:
            stream.update_into(counters, into)
            (np.subtract if subtract else np.add)(part, pad, out=part)
