"""Leaves of bodies, and what a sample of them must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plasmid.core.errors import PlasmidError
from plasmid.core.merkle import inclusion_proof, root_of
from plasmid.link.bodies import Bodies
from plasmid.protocol.body import body_bytes
from plasmid.secagg.keystream import Pad
from plasmid.secagg.ring import Words
from plasmid.secagg.samples import (
    Shown,
    body_root,
    fits,
    leaf_bytes,
    leaf_count,
    leaf_hashes,
    opening_bytes,
    pads_in,
    sample_bytes,
)
from support.federation.sampling import Contributions, contributions

H = "a1" * 32
SITES = ("alpha", "beta", "gamma")


@pytest.mark.parametrize("size", [1, 255, 256, 257, 203_368, 2**18, 2**18 + 1, 4_000_088, 2**30 + 8])
def test_a_body_has_at_most_256_leaves_of_2048_bits_or_more(size: int) -> None:
    assert leaf_bytes(size) >= 256
    assert leaf_bytes(size) % 8 == 0
    assert (leaf_count(size) - 1) * leaf_bytes(size) < size <= leaf_count(size) * leaf_bytes(size)
    assert leaf_count(size) <= 256


@pytest.mark.parametrize("size", [1, 256, 257, 1000, 77 * 256, 203_368])
def test_the_length_of_a_sample_is_that_of_its_leaf_and_path(size: int) -> None:
    body = np.random.default_rng(size).bytes(size)
    hashes = leaf_hashes(body)
    assert (len(hashes), root_of(hashes).hex()) == (leaf_count(size), body_root(body))
    for index in range(leaf_count(size)):
        leaf = body[index * leaf_bytes(size) :][: leaf_bytes(size)]
        assert sample_bytes(size, index, 3) == 3 * (len(leaf) + 32 * len(inclusion_proof(hashes, index)))


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("length", [5, 64, 2501])
def test_every_leaf_of_a_true_total_fits_and_of_one_off_by_one_it_does_not(dtype: str, length: int) -> None:
    words, made, shown, pads, header = scene(dtype, length)
    off = words + np.ones(1, dtype)
    for index in range(leaf_count(header + words.nbytes)):
        sample = made.sample(index)
        assert fits(words, sample, index, header=header, shown=shown, pads=pads)
        assert not fits(off, sample, index, header=header, shown=shown, pads=pads)


def scene(dtype: str, length: int) -> tuple[Words, Contributions, dict[str, Shown], list[Pad], int]:
    words = np.frombuffer(np.random.default_rng(3).bytes(8 * length), np.dtype(dtype))[:length].copy()
    made = contributions(words, SITES, H)
    shown = made.shown()
    header = body_bytes("words", length, words.dtype) - words.nbytes
    return words, made, shown, pads_in(made.opening, H, shown, []), header


def test_a_sample_with_anything_else_in_it_does_not_fit() -> None:
    words, made, shown, pads, header = scene("<u4", 2501)
    good = made.sample(7)
    each = len(good) // 3
    others = contributions(words, SITES, H, seed=2)
    wrong = {
        "another leaf": made.sample(8),
        "the leaf alone": good[:256],
        "a byte more": good + b"\0",
        "another site's leaf": good[:each] * 3,
        "sites in another order": good[each:] + good[:each],
        "of another attempt": others.sample(7),
        "a word changed": bytes([good[0] ^ 1]) + good[1:],
        "a hash of the path changed": good[:260] + bytes([good[260] ^ 1]) + good[261:],
        "nothing": b"",
    }
    for what, sample in wrong.items():
        assert not fits(words, sample, 7, header=header, shown=shown, pads=pads), what
    assert not fits(words, good, 7, header=header, shown=shown, pads=pads[:-1])
    assert not fits(words, good, 7, header=header, shown=shown, pads=[*pads, pads[0]])
    assert fits(words, good, 7, header=header, shown=shown, pads=pads)  # control


def test_an_opening_is_exactly_the_secrets_that_were_committed_to() -> None:
    _, made, shown, pads, _ = scene("<u4", 5)
    opening = made.opening
    assert len(opening) == opening_bytes(3, 0)
    assert len(pads) == 3
    for other in (opening[:-1], opening + bytes(16), opening[32:] + opening[:32], bytes(96), b""):
        assert pads_in(other, H, shown, []) == []
    gone = pads_in(opening + bytes(48), H, shown, ["beta-2"])
    assert [pad.subtract for pad in gone] == [True, True, True, True, True, False]


def test_the_last_opened_sum_is_served_and_no_other(tmp_path: Path) -> None:
    bodies = Bodies(tmp_path)
    made = {H: scene("<u4", 2501)[1], "b2" * 32: contributions(np.zeros(2501, "<u4"), SITES, H, seed=9)}
    for manifest, sum_ in made.items():
        keep(bodies, manifest, sum_)
        again = Bodies(tmp_path)  # the process of the link, started anew
        for part in ("opening", "0", "39"):
            assert again.read_sample("run-1", manifest, part, 0)[0] == sum_.part(part)
    other = "b2" * 32
    for manifest, part in ((H, "0"), (other, "40"), (other, "-1"), (other, "x"), ("c3" * 32, "opening")):
        with pytest.raises(PlasmidError) as caught:
            bodies.read_sample("run-1", manifest, part, 0)
        assert caught.value.code == "link.no_body"
    send(bodies, "alpha", b"a late body of the next round".ljust(10_092))  # which destroys nothing
    assert bodies.read_sample("run-1", "b2" * 32, "39", 0)[0] == made["b2" * 32].sample(39)
    bodies.drop_run("run-1")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def keep(bodies: Bodies, manifest: str, made: Contributions) -> None:
    paths = {site: send(bodies, site, body) for site, body in made.bodies.items()}
    bodies.keep("run-1", manifest, paths, made.opening)


def send(bodies: Bodies, site: str, body: bytes) -> Path:
    digest = body_root(body)
    bodies.expect("run-1", len(body))
    assert bodies.take_chunk("run-1", site, digest, 0, len(body), body, digest) == len(body)
    return bodies.received("run-1", site, digest)
