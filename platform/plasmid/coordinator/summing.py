"""The ring sum of contribution bodies on disk, chunk by chunk.

Rules
-----
1. Memory does not grow with the sites: bodies are mapped, and each chunk of the sum is made from its own
   place in each of them.
2. A body is opened and checked before any of it joins a sum.
3. Sums longer than :data:`PARALLEL_WORDS` are made in parallel on Ray; only paths, keys and finished chunks
   cross it.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import ray

from plasmid.protocol.body import unpack
from plasmid.secagg.coordinator import Reader, sum_words
from plasmid.secagg.keystream import Pad
from plasmid.secagg.ring import TAIL, Encoding, Words

PARALLEL_WORDS = 2**23


def sum_bodies(bodies: Sequence[Path], encoding: Encoding, pads: Sequence[Pad]) -> Words:
    """Return the sum [length + TAIL] of *bodies* in the ring, unmasked by *pads*.

    Raises
    ------
    ProtocolError
        ``protocol.body``: a body is not exactly the words of the plan.
    """
    size = encoding.length + TAIL
    if size <= PARALLEL_WORDS:
        return _part(bodies, encoding, pads, 0, size)
    part = ray.remote(_part)
    starts = range(0, size, PARALLEL_WORDS)
    parts = [
        part.remote(bodies, encoding, pads, start, min(size, start + PARALLEL_WORDS)) for start in starts
    ]
    total = np.empty(size, encoding.dtype)
    for start, found in zip(starts, parts, strict=True):
        chunk = ray.get(found)
        total[start : start + chunk.size] = chunk
    return total


def check_body(path: Path, encoding: Encoding) -> None:
    """Raise ProtocolError (``protocol.body``) if *path* doesn't hold exactly the words of the plan."""
    _reader(path, encoding)


def _part(bodies: Sequence[Path], encoding: Encoding, pads: Sequence[Pad], start: int, stop: int) -> Words:
    return sum_words([_reader(path, encoding) for path in bodies], encoding, pads, start, stop)


def _reader(path: Path, encoding: Encoding) -> Reader:
    with path.open("rb") as file:
        body = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    words = unpack(body, "words", length=encoding.length + TAIL, dtype=encoding.dtype)
    return lambda offset, count: words[offset : offset + count]
