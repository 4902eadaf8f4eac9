"""Shamir over GF(2^8): the field by hand, every set of theta shares opens, theta - 1 fit every secret."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.secagg.shamir import PRODUCTS, combine, evaluate, lagrange, split


def times(a: int, b: int) -> int:
    """Multiply in GF(2^8) by the schoolbook."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = (a << 1) ^ (0x11B if a & 0x80 else 0), b >> 1
    return product


def test_the_table_is_the_field_of_aes() -> None:
    assert PRODUCTS.tolist() == [[times(a, b) for b in range(256)] for a in range(256)]
    assert PRODUCTS[0x57, 0x83] == 0xC1  # FIPS 197, section 4.2
    assert PRODUCTS[0x57, 0x13] == 0xFE


def test_shares_are_the_polynomial_at_one_two_three() -> None:
    coefficients = np.array([[0x53, 0], [0xCA, 1], [0x02, 0]], np.uint8)
    by_hand = [[0x53 ^ times(0xCA, x) ^ times(0x02, times(x, x)), times(1, x)] for x in (1, 2, 3, 4)]
    assert evaluate(coefficients, shares=4).tolist() == by_hand


@given(n=st.integers(1, 8), theta=st.integers(1, 8), length=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_theta_shares_open_the_secret(n: int, theta: int, length: int, seed: int) -> None:
    theta = min(theta, n)
    secrets = np.random.default_rng(seed).integers(0, 256, length, np.uint8)
    shares = split(secrets, threshold=theta, shares=n)
    assert shares.shape == (n, length)
    for chosen in combinations(range(n), theta):
        weights = lagrange([index + 1 for index in chosen])
        assert np.array_equal(combine(weights, shares[list(chosen)]), secrets)


def test_64_shares_open_with_a_high_threshold() -> None:
    secrets = np.random.default_rng(0).integers(0, 256, (7, 32), np.uint8)
    shares = split(secrets.ravel(), threshold=63, shares=64).reshape(64, 7, 32)
    chosen = [index for index in range(64) if index != 20]
    weights = lagrange([index + 1 for index in chosen])
    assert np.array_equal(combine(weights, shares[chosen]), secrets)  # any trailing shape


@pytest.mark.parametrize("theta", [2, 3])
def test_fewer_than_theta_shares_fit_every_secret_exactly_once(theta: int) -> None:
    """Exhaustive: for theta - 1 shares of one byte and each of its 256 values there is one polynomial."""
    shares = split(np.array([0xA7], np.uint8), threshold=theta, shares=5)[:, 0]
    known = (1, 3)[: theta - 1]  # roster positions 1 and 3 collude
    fitting = np.zeros(256, int)
    for secret in range(256):
        rest = np.indices((256,) * (theta - 1), dtype=np.uint8).reshape(theta - 1, -1)
        at_zero = np.full((1, rest.shape[1]), secret, np.uint8)
        values = evaluate(np.vstack([at_zero, rest]), shares=4)
        fitting[secret] = np.all([values[x] == shares[x] for x in known], axis=0).sum()
    assert fitting.tolist() == [1] * 256
    # the positive control: theta shares leave one secret alone
    weights = lagrange([index + 1 for index in range(theta)])
    assert combine(weights, shares[:theta]) == 0xA7


def test_one_share_of_many_secrets_is_uniform() -> None:
    """Against the shares of one constant; 255 degrees of freedom, standard deviation 22.6."""
    constant = np.full(100_000, 0x41, np.uint8)
    for share in split(constant, threshold=2, shares=3):
        counts = np.bincount(share, minlength=256)
        assert np.square(counts - counts.mean()).sum() / counts.mean() < 255 + 6 * 22.6
    # the positive control: with a threshold of 1 a share is the secret
    assert np.array_equal(split(constant, threshold=1, shares=3)[2], constant)


def test_two_splits_of_a_secret_have_nothing_in_common() -> None:
    secret = np.zeros(3200, np.uint8)
    first, second = (split(secret, threshold=2, shares=3) for _ in range(2))
    assert 0 < np.count_nonzero(first == second) < 3 * 3200 / 256 + 6 * 6.2  # by chance: 37.5


def test_a_wrong_share_gives_a_wrong_secret() -> None:
    shares = split(np.zeros(4, np.uint8), threshold=3, shares=3)
    shares[1, 2] ^= 1
    opened = combine(lagrange([1, 2, 3]), shares)
    assert opened[[0, 1, 3]].tolist() == [0, 0, 0]
    assert opened[2] != 0


@pytest.mark.parametrize(("threshold", "shares"), [(4, 3), (2, 256), (1, 0)])
def test_impossible_sharings_are_refused(threshold: int, shares: int) -> None:
    with pytest.raises(ValueError, match="impossible"):
        split(np.zeros(3, np.uint8), threshold=threshold, shares=shares)


@pytest.mark.parametrize("indices", [[1, 1], [0, 1], [1, 256], [-1, 2]])
def test_indices_that_are_no_shares_are_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="not distinct shares"):
        lagrange(indices)
