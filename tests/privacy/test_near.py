"""States that are nearly the same, by their sketches."""

from __future__ import annotations

import numpy as np
import pytest

from plasmid.secagg.near_states import NEAR, Summed


@pytest.mark.parametrize("size", [1, 5, 4096, 5000, 1_100_000])
def test_a_distance_is_measured_within_a_few_per_cent(size: int) -> None:
    source = np.random.default_rng(size)
    state = source.standard_normal(size).astype(np.float32)
    step = source.standard_normal(size)
    step *= NEAR * np.linalg.norm(state) / np.linalg.norm(step)
    for factor, near in ((0.0, True), (0.8, True), (1.25, False)):
        summed = Summed()
        summed.add(state, "abc")
        other = state + factor * step
        assert not summed.is_near(other, "abc")  # over the same sites
        if size >= 4096 or factor == 0:
            assert summed.is_near(other, "ab") == near


def test_every_earlier_state_counts() -> None:
    summed = Summed()
    states = [np.eye(3)[place] for place in range(3)]
    for state in states:
        summed.add(state, "abc")
    assert all(summed.is_near(state, "ab") for state in states)
    assert not summed.is_near(np.ones(3), "ab")


def test_two_states_of_zeros_are_near() -> None:
    summed = Summed()
    summed.add(np.zeros(6, np.float32), "abc")
    assert summed.is_near(np.zeros(6, np.float32), "ab")
