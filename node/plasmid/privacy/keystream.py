"""The pseudo-random generator of masks: AES-128-CTR, added to a vector in place.

Rules
-----
1. One key, one stream (NIST SP 800-38A, counter from zero); a key comes from HKDF-SHA256 (RFC 5869)
   and serves one vector of one manifest.
2. The stream is produced in blocks of 256 KiB that stay in the processor's cache, so that the memory
   above the vector is one block.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plasmid.privacy.ring import Words

KEY_BYTES = 16
_BLOCK_BYTES = 256 * 1024
_ZEROS = bytes(_BLOCK_BYTES)


def derive(secret: bytes, *info: str | bytes, length: int = 32) -> bytes:
    """Return HKDF-SHA256(*secret*) with the parts of *info* length-prefixed, so that no two joins agree."""
    joined = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (item.encode() if isinstance(item, str) else item for item in info)
    )
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=b"plasmid-sa" + joined).derive(secret)


def add_keystream(words: Words, key: bytes, *, subtract: bool = False) -> None:
    """Add (or subtract) the key stream of *key* to *words*, in the ring of their dtype, in place."""
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor()
    block = bytearray(_BLOCK_BYTES + 15)
    width = words.dtype.itemsize
    per_block = _BLOCK_BYTES // width
    for start in range(0, words.size, per_block):
        part = words[start : start + per_block]
        size = part.size * width
        stream.update_into(memoryview(_ZEROS)[:size], block)
        pad = np.frombuffer(block, dtype=words.dtype, count=part.size)
        if subtract:
            np.subtract(part, pad, out=part)
        else:
            np.add(part, pad, out=part)
