"""A site's attempts: the sum is the sum, a slot masks once, and one masked vector says nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmid.core.errors import ProtocolError
from plasmid.secagg.ring import TAIL, decode_sum, encode, plan_encoding
from plasmid.secagg.site import SiteEpoch
from support.federation.secure_sum import (
    NAMES,
    H,
    plan,
    recovered,
    sealed,
    started,
    statements_of,
)


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


# -- the sum is the sum, and one vector is nothing -------------------------------------------------


@settings(max_examples=15)
@given(
    names=st.lists(st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,8}\Z"), min_size=3, max_size=8, unique=True),
    bits=st.sampled_from((32, 64)),
    slot=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_the_masked_sum_is_exactly_the_plain_sum(names: list[str], bits: int, slot: int, seed: int) -> None:
    epoch = sealed(names, slots=3)
    encoding = plan_encoding(length=33, bound=2.0, sites=len(names), bits=bits)
    source = np.random.default_rng(seed)
    plain = {name: encode(source.uniform(-2, 2, 33), encoding) for name in names}
    total = epoch.total(encoding, epoch.attempt(plain, slot=slot), names, slot=slot)
    assert np.array_equal(total, np.sum(list(plain.values()), axis=0, dtype=encoding.dtype))
    assert not total[-TAIL:].any()


@pytest.mark.parametrize("bits", [32, 64])
def test_one_masked_vector_looks_uniform_and_tells_nothing(bits: int) -> None:
    encoding = plan_encoding(length=50_000, bound=1.0, sites=3, bits=bits)
    values = np.random.default_rng(0).normal(0, 0.05, encoding.length).astype(np.float32)
    plain = encode(np.clip(values, -1, 1), encoding)

    def chi_square(words: np.ndarray) -> float:
        counts = np.bincount(np.frombuffer(words.tobytes(), np.uint8), minlength=256)
        return float((np.square(counts - counts.mean()) / counts.mean()).sum())

    def correlation(words: np.ndarray) -> float:
        signed = words[: encoding.length].view(encoding.signed_dtype).astype(np.float64)
        return abs(float(np.corrcoef(signed, values)[0, 1]))

    epoch = sealed(("a", "b", "c"))
    for name in epoch.roster:
        epoch.contribute(name, plain)
    # 255 degrees of freedom: mean 255, standard deviation 22.6; correlation: standard deviation 0.0045
    for words in epoch.vectors.values():
        assert chi_square(words) < 255 + 6 * 22.6
        assert correlation(words) < 6 * 0.0045
    # without the self-masks the sum would be open as soon as the last vector is there; with them it is noise
    summed = np.sum(list(epoch.vectors.values()), axis=0, dtype=encoding.dtype)
    assert chi_square(summed) < 255 + 6 * 22.6
    # the positive control: without the mask both tests cry out
    assert chi_square(plain) > 10_000
    assert correlation(plain) > 0.999


def test_a_masked_vector_of_zeros_has_another_pad_for_every_site_slot_and_manifest() -> None:
    zeros = np.zeros(64, np.uint32)
    first, second = sealed(slots=2), sealed()
    pads = [masked(site, zeros, slot=slot) for site in first.sites.values() for slot in (0, 1)]
    pads += [masked(site, zeros, manifest="b2" * 32) for site in second.sites.values()]
    assert len({pad.tobytes() for pad in pads}) == len(pads) == 12


def masked(site: SiteEpoch, words: np.ndarray, *, slot: int = 0, manifest: str = H) -> np.ndarray:
    words = words.copy()
    site.mask(words, slot=slot, manifest=manifest, invited=site.roster)
    return words


def test_sites_that_were_shown_different_manifests_produce_noise() -> None:
    """And no site would agree to such a sum: see test_attempt.py."""
    epoch, encoding = sealed(), plan(4)
    zeros = encode(np.zeros(10), encoding)
    for name in NAMES:
        epoch.contribute(name, zeros, manifest=H if name != "alpha" else "b2" * 32)
    # even with every self-mask gone
    total = np.zeros(14, np.uint32)
    for vector in epoch.vectors.values():
        total += vector
    with refusal("protocol.garbage_sum"):
        decode_sum(total, encoding, 4)


# -- a slot masks once -----------------------------------------------------------------------------


def test_a_slot_masks_one_vector_once() -> None:
    site = sealed().sites["beta"]
    words = np.zeros(8, np.uint32)
    masked(site, words, slot=1)
    for slot in (1, 0, 2, -1):  # used, older, unknown, unknown
        before = words.copy()
        with refusal("protocol.slot_used"):
            site.mask(words, slot=slot, manifest=H, invited=site.roster)
        assert np.array_equal(words, before)


def test_a_slot_is_used_before_the_first_word_changes() -> None:
    """Whatever goes wrong while it masks: the slot masks no second vector."""
    site = sealed().sites["beta"]
    with pytest.raises(ValueError, match="read-only"):
        site.mask(np.frombuffer(bytes(32), np.uint32), slot=0, manifest=H, invited=site.roster)
    with refusal("protocol.slot_used"):
        masked(site, np.zeros(8, np.uint32), slot=0)
    assert masked(site, np.zeros(8, np.uint32), slot=1).any()


def test_secrets_are_gone_when_their_use_is_over() -> None:
    epoch = sealed(slots=3)
    site = epoch.sites["beta"]
    assert not site._secrets.any()  # k and b, once the blobs are sealed; b waits in _held for its slot
    assert not hasattr(site, "_channel")
    seeds, shares = site._held[:, 2], site._held[:, :2]
    assert seeds.any(axis=(0, 2)).tolist() == shares.any(axis=(0, 1, 3)).tolist() == [True] * 3
    zeros = {name: np.zeros(14, np.uint32) for name in NAMES}
    for name in NAMES:
        epoch.contribute(name, zeros[name], slot=1)
    assert seeds.any(axis=(0, 2)).tolist() == [False, False, True]  # of the used slot and of older ones
    assert shares.any(axis=(0, 1, 3)).tolist() == [False, True, True]  # slot 1 is still to be answered
    epoch.attempt(zeros, slot=2)
    assert not site._held.any()


@pytest.mark.parametrize(
    "invited",
    [
        ("alpha", "delta", "gamma"),  # without this site
        (),
        ("alpha", "beta"),  # fewer than theta = 3
        ("gamma", "delta", "beta", "alpha"),  # not in order
        ("alpha", "beta", "beta", "delta"),
        ("alpha", "beta", "delta", "gamma", "x"),  # a stranger
    ],
)
def test_only_theta_or_more_sites_of_the_roster_are_summed(invited: tuple[str, ...]) -> None:
    site = sealed().sites["beta"]
    words = np.zeros(8, np.uint32)
    with refusal("protocol.invited"):
        site.mask(words, slot=0, manifest=H, invited=invited)
    assert not words.any()
    assert masked(site, words).any()  # the slot is still there for the manifest that is right


def test_nothing_is_masked_before_all_are_ready() -> None:
    sites = started()
    words = np.zeros(8, np.uint32)

    def refuses() -> None:
        with refusal("protocol.ready"):
            sites["alpha"].mask(words, slot=0, manifest=H, invited=sorted(NAMES))

    refuses()
    recoveries = recovered(sites)
    refuses()
    for site in sites.values():
        site.ready(statements_of(recoveries))
    refuses()
    assert not words.any()
