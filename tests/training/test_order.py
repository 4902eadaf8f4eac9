"""Seeded batches."""

from __future__ import annotations

import numpy as np

from plasmid.worker.order import order


def test_order_is_seeded_permutations_without_replacement() -> None:
    batches = list(order(10, 4, 5, seed=3))
    assert [len(batch) for batch in batches] == [4] * 5
    assert all(len(set(np.concatenate(batches[start : start + 2]))) == 8 for start in (0, 2))
    assert [batch.tolist() for batch in order(10, 4, 5, seed=3)] == [batch.tolist() for batch in batches]
    assert [batch.tolist() for batch in order(10, 4, 5, seed=4)] != [batch.tolist() for batch in batches]
    assert [sorted(batch) for batch in order(3, 32, 2, seed=0)] == [[0, 1, 2]] * 2
    assert list(order(10, 4, 0, seed=0)) == []
