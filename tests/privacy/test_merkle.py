"""The Merkle tree: published vectors of RFC 6962 implementations, and properties."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.core import merkle
from plasmid.core.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The reference data of the certificate-transparency project: leaves, roots and proofs.
DATA = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                 "606162636465666768696a6b6c6d6e6f")
]  # fmt: skip
LEAVES = [leaf_hash(data) for data in DATA]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
G = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
INCLUSION = [  # leaf (from 0), size, path
    (0, 1, []),
    (0, 8, [A, B, C]),
    (5, 8, [D, E, ROOTS[4]]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [ROOTS[1], B, D]),
]
CONSISTENCY = [  # first, second, path
    (1, 1, []),
    (1, 8, [A, B, C]),
    (6, 8, [F, E, ROOTS[4]]),
    (2, 5, [B, D]),
    (6, 7, [F, G, ROOTS[4]]),
]


def test_hashes_of_leaves_and_nodes() -> None:
    assert hashlib.sha256(b"").digest() == EMPTY_ROOT
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert (
        node_hash(b"N123", b"N456").hex()
        == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    )


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.append(leaf)
    assert (frontier.size, frontier.root().hex()) == (size, ROOTS[size])
    assert len(frontier.peaks) == size.bit_count()


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int, path: list[str]) -> None:
    proof = inclusion_proof(LEAVES[:size], index)
    assert [one.hex() for one in proof] == path
    assert verify_inclusion(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("first", "second", "path"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(first: int, second: int, path: list[str]) -> None:
    proof = consistency_proof(LEAVES[:second], first)
    assert [one.hex() for one in proof] == path
    roots = bytes.fromhex(ROOTS[first]), bytes.fromhex(ROOTS[second])
    assert verify_consistency(first, second, proof, *roots)


SOME = hashlib.sha256(b"something else").digest()


def changed(proof: list[bytes]) -> list[list[bytes]]:
    """Return proofs that are nearly *proof*."""
    made = [[*proof, SOME], [SOME, *proof], [*proof, b""]]
    for index, one in enumerate(proof):
        flipped = bytes([one[0] ^ 8]) + one[1:]
        made += [[*proof[:index], flipped, *proof[index + 1 :]], [*proof[:index], *proof[index + 1 :]]]
    return made


def leaves_of(size: int, *, salt: int = 0) -> list[bytes]:
    return [leaf_hash(salt.to_bytes(2, "big") + index.to_bytes(4, "big")) for index in range(size)]


@given(st.integers(1, 130), st.data())
def test_every_leaf_is_proven_and_nothing_else(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    root, proof = root_of(leaves), inclusion_proof(leaves, index)
    assert len(proof) <= (size - 1).bit_length()
    assert verify_inclusion(leaves[index], index, size, proof, root)
    for wrong in changed(proof):
        assert not verify_inclusion(leaves[index], index, size, wrong, root)
    assert not verify_inclusion(SOME, index, size, proof, root)
    assert not verify_inclusion(leaves[index], index, size, proof, SOME)
    other = data.draw(st.integers(-1, size + 1).filter(lambda one: one != index))
    assert not verify_inclusion(leaves[index], other, size, proof, root)


@given(st.integers(0, 130), st.data())
def test_every_prefix_is_proven_and_nothing_else(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size))
    leaves = leaves_of(size)
    old, new = root_of(leaves[:first]), root_of(leaves)
    proof = consistency_proof(leaves, first)
    assert verify_consistency(first, size, proof, old, new)
    for wrong in changed(proof):
        assert not verify_consistency(first, size, wrong, old, new)
    assert not verify_consistency(first, size, proof, SOME, new)
    if first:
        assert not verify_consistency(first, size, proof, old, SOME)
    if first < size:
        assert not verify_consistency(size, first, proof, new, old)


@given(st.integers(1, 60), st.data())
def test_a_rewritten_entry_has_no_proof(size: int, data: st.DataObject) -> None:
    """Whoever changed an old leaf finds no consistency proof among the honest ones of either tree."""
    first = data.draw(st.integers(1, size))
    leaves, rewritten = leaves_of(size), leaves_of(size)
    rewritten[data.draw(st.integers(0, first - 1))] = SOME
    old, new = root_of(leaves[:first]), root_of(rewritten)
    for proof in (consistency_proof(rewritten, first), consistency_proof(leaves, first)):
        assert not verify_consistency(first, size, proof, old, new)


@given(st.integers(0, 300))
def test_a_frontier_goes_on_where_it_was_left(size: int) -> None:
    leaves = leaves_of(size + 5)
    frontier = Frontier()
    for leaf in leaves[:size]:
        frontier.append(leaf)
    again = Frontier(frontier.size, frontier.peaks)
    copy = again.copy()
    for leaf in leaves[size:]:
        again.append(leaf)
    assert again.root() == root_of(leaves)
    assert copy.root() == root_of(leaves[:size])


@pytest.mark.parametrize(("size", "peaks"), [(1, 0), (2, 2), (-1, 0), (3, 1)])
def test_peaks_that_do_not_fit_are_refused(size: int, peaks: int) -> None:
    with pytest.raises(ValueError, match="peaks are not those of a tree"):
        Frontier(size, [SOME] * peaks)
    with pytest.raises(ValueError, match="peaks are not those of a tree"):
        Frontier(1, [b"short"])


def test_proofs_of_what_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="no leaf 8 among 8"):
        inclusion_proof(LEAVES, 8)
    with pytest.raises(ValueError, match="9 leaves are no prefix of 8"):
        consistency_proof(LEAVES, 9)


def test_an_empty_tree_is_a_prefix_of_every_tree_and_of_no_root_it_does_not_have() -> None:
    root = root_of(LEAVES)
    assert verify_consistency(0, 8, [], EMPTY_ROOT, root)
    assert verify_consistency(0, 0, [], EMPTY_ROOT, EMPTY_ROOT)
    assert not verify_consistency(0, 0, [], EMPTY_ROOT, root)
    assert not verify_consistency(0, 8, [], root, root)
    assert not verify_consistency(0, 8, [root], EMPTY_ROOT, root)


def test_a_leaf_is_no_node() -> None:
    """The two prefixes: a node's hash is not that of a leaf that holds its children."""
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != node_hash(left, right)
    assert merkle.root_of([leaf_hash(left + right)]) != root_of([left, right])
