"""The Merkle tree of RFC 6962 section 2 (RFC 9162 section 2.1): hashes, proofs, and their verification. Pure.

Rules
-----
1. A leaf is hashed as ``SHA-256(0x00 || data)``, a node as ``SHA-256(0x01 || left || right)``; the tree over
   n leaves splits at the largest power of two below n. Every hash here is 32 raw bytes.
2. :class:`Frontier` holds what a growing tree needs, one hash for each bit of its size that is set.
3. Verification answers True or False and raises nothing, whatever it is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of the tree without leaves."""


def leaf_hash(data: bytes | memoryview) -> bytes:
    """Return the hash of the leaf that holds *data*."""
    hashed = hashlib.sha256(b"\x00")
    hashed.update(data)
    return hashed.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above two hashes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that grows at its right end, in O(log n) memory.

    Attributes
    ----------
    size
        The number of leaves.
    peaks
        The roots of the full subtrees that it consists of, the largest first.
    """

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size, self.peaks = size, list(peaks)
        sound = size >= 0 and len(self.peaks) == size.bit_count()
        if not sound or any(len(peak) != HASH_BYTES for peak in self.peaks):
            raise ValueError(f"{len(self.peaks)} peaks are not those of a tree of {size} leaves")

    def append(self, leaf: bytes) -> None:
        """Add the leaf whose hash is *leaf*."""
        rest, size = leaf, self.size
        while size & 1:
            rest = node_hash(self.peaks.pop(), rest)
            size >>= 1
        self.peaks.append(rest)
        self.size += 1

    def root(self) -> bytes:
        """Return the root."""
        if not self.peaks:
            return EMPTY_ROOT
        *left, root = self.peaks
        for peak in reversed(left):
            root = node_hash(peak, root)
        return root

    def copy(self) -> Self:
        """Return a tree that grows on its own."""
        return type(self)(self.size, self.peaks)


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root of the tree over *leaves* (hashes)."""
    return levels(leaves)[-1][0] if leaves else EMPTY_ROOT


def levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Return the levels of the tree over *leaves* (hashes), these first and the root last."""
    found = [list(leaves)]
    while len(found[-1]) > 1:
        below = found[-1]
        pairs = [node_hash(left, right) for left, right in zip(below[::2], below[1::2], strict=False)]
        found.append(pairs + below[2 * len(pairs) :])
    return found


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the path of leaf *index*, from its sibling upward (RFC 6962 section 2.1.1).

    Raises
    ------
    ValueError
        There is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"there is no leaf {index} among {len(leaves)}")
    path: list[bytes] = []
    low, high = 0, len(leaves)
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(root_of(leaves[middle:high]))
            high = middle
        else:
            path.append(root_of(leaves[low:middle]))
            low = middle
    return path[::-1]


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """Return the proof that the tree over the *first* leaves is a prefix of this one (section 2.1.2).

    It is empty for ``first`` 0 and for ``first == len(leaves)``.

    Raises
    ------
    ValueError
        *first* is more than there are.
    """
    if not 0 <= first <= len(leaves):
        raise ValueError(f"{first} leaves are no prefix of {len(leaves)}")
    if first in (0, len(leaves)):
        return []
    path: list[bytes] = []
    low, high, whole = 0, len(leaves), True
    while first != high:
        middle = low + _split(high - low)
        if first <= middle:
            path.append(root_of(leaves[middle:high]))
            high = middle
        else:
            path.append(root_of(leaves[low:middle]))
            low, whole = middle, False
    if not whole:  # else the verifier knows it: it is the smaller tree's root
        path.append(root_of(leaves[low:high]))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Return whether *proof* shows that *leaf* is leaf *index* of the tree of *size* leaves with *root*.

    The steps are those of RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size or not _hashes([leaf, root, *proof]):
        return False
    node, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(
    first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> bool:
    """Return whether *proof* shows that the tree of *first* leaves is a prefix of that of *second*.

    The empty tree is a prefix of every tree: ``first`` 0 needs an empty proof and the empty root. The steps
    are those of RFC 9162 section 2.1.4.2.
    """
    if not 0 <= first <= second or not _hashes([first_root, second_root, *proof]):
        return False
    if first == 0:
        return not proof and first_root == EMPTY_ROOT and (second > 0 or second_root == EMPTY_ROOT)
    if first == second:
        return not proof and first_root == second_root
    path = list(proof) if first & (first - 1) else [first_root, *proof]
    if not path:
        return False
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _split(count: int) -> int:
    """Return the largest power of two below *count*, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _hashes(values: Iterable[bytes]) -> bool:
    return all(len(value) == HASH_BYTES for value in values)
