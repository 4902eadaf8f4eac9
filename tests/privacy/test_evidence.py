"""What a worker tells its gateway about the people in cells: whole, or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from plasmid.disclosure.contributors import Evidence

WHERE = np.array([0, 2, 2, 2, 0])
KEYS = np.array([9, 2**64 - 1, 5, 5, 9], np.uint64)
AMOUNTS = np.array([[1.0, 1.0, 1.0, 1.0, 1.0], [3.0, -4.0, 1.0, 1.5, 2.0]])


def test_it_arrives_as_it_was_sent() -> None:
    sent = Evidence.of(WHERE, KEYS, AMOUNTS, 3)
    data = sent.to_bytes()
    arrived = Evidence.from_bytes(data, records=5, cells=3, numbers=2)
    assert (arrived.cohort, sent.cohort) == (3, 3)
    assert arrived.people.tolist() == [1, 0, 2]
    assert arrived.absolute.tolist() == [[2.0, 0.0, 3.0], [5.0, 0.0, 6.5]]
    assert arrived.largest[1].tolist() == [[5.0, 0.0, 4.0], [0.0, 0.0, 2.5]]
    assert (arrived.where.tolist(), arrived.keys.tolist()) == (WHERE.tolist(), KEYS.tolist())
    cells = arrived.cells(np.arange(9.0), (3,), counted=True)
    assert cells.values.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]  # the flags are left


@pytest.mark.parametrize(
    ("records", "cells", "numbers"), [(4, 3, 2), (5, 2, 2), (5, 3, 1), (-1, 3, 2), (5, 4, 2)]
)
def test_what_does_not_fit_is_none(records: int, cells: int, numbers: int) -> None:
    data = Evidence.of(WHERE, KEYS, AMOUNTS, 3).to_bytes()
    with pytest.raises(ValueError, match="not the evidence"):
        Evidence.from_bytes(data, records=records, cells=cells, numbers=numbers)


def test_a_record_beyond_the_table_is_none() -> None:
    data = Evidence.of(np.array([0, 2]), np.array([1, 2], np.uint64), np.ones((1, 2)), 3).to_bytes()
    wrong = np.array([3], np.int64).tobytes() + data[8:]
    with pytest.raises(ValueError, match="in no cell"):
        Evidence.from_bytes(wrong, records=2, cells=3, numbers=1)
