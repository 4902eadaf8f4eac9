"""The rotation keeps norms and differences, is undone exactly, and spreads a vector out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plasmid.dp import rotation
from plasmid.dp.rotation import padded_length, rotate, unrotate

SEED = bytes(32)


@pytest.mark.parametrize("length", [1, 2, 3, 64, 1000, 4096, 5001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back(length: int, dtype: type) -> None:
    values = np.random.default_rng(length).normal(size=length).astype(dtype)
    before = values.copy()
    turned = rotate(values, seed=SEED)
    assert turned.shape == (padded_length(length),)
    assert turned.dtype == np.float64
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(values.astype(np.float64)), rel=1e-12)
    back = unrotate(turned, seed=SEED, length=length)
    assert np.abs(back - before).max() <= 1e-12 * np.abs(before).max()
    assert np.array_equal(values, before)  # neither changes its argument


def test_it_is_the_walsh_hadamard_matrix_with_signed_columns() -> None:
    size = 8
    matrix = np.stack([rotate(row, seed=SEED) for row in np.eye(size)], axis=1)
    signs = np.sign(matrix[0])
    hadamard = np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)])
    assert np.allclose(matrix, hadamard * signs / math.sqrt(size), atol=1e-15)
    assert np.allclose(matrix @ matrix.T, np.eye(size), atol=1e-15)


def test_the_rotation_is_linear_so_sums_of_rotated_vectors_are_rotated_sums() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 300))
    total = rotate(a, seed=SEED) + rotate(b, seed=SEED)
    assert np.allclose(unrotate(total, seed=SEED, length=300), a + b, atol=1e-12)


def test_seeds_turn_differently_and_one_seed_always_alike() -> None:
    values = np.ones(64)
    assert np.array_equal(rotate(values, seed=SEED), rotate(values, seed=SEED))
    assert not np.allclose(rotate(values, seed=SEED), rotate(values, seed=b"\x01" * 32))


def test_the_signs_of_a_seed_are_pinned() -> None:
    """Both ends must draw the same signs in every release."""
    first = rotation._signs(16, SEED).astype(int).tolist()
    assert first == [1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, -1, 1, 1, -1, 1]


@pytest.mark.parametrize("values", [np.eye(1, 4096)[0], np.ones(4096) / 64])
def test_a_spike_or_a_constant_is_spread_over_all_coordinates(values: np.ndarray) -> None:
    bound = math.sqrt(2 * math.log(2 * 4096 / 1e-12) / 4096)  # misses with probability 1e-12
    largest = [np.abs(rotate(values, seed=bytes([seed]) * 32)).max() for seed in range(20)]
    assert max(largest) <= bound
    assert bound < 0.14


@pytest.mark.parametrize(
    ("length", "padded"), [(1, 1), (2, 2), (3, 4), (5, 8), (1024, 1024), (1025, 2048), (2**20 + 1, 2**21)]
)
def test_padded_length(length: int, padded: int) -> None:
    assert padded_length(length) == padded


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        padded_length(0)
    with pytest.raises(ValueError, match="8 values are not a rotation of 3"):
        unrotate(np.zeros(8), seed=SEED, length=3)
