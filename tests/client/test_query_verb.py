"""What 'plasmid query counts' prints of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from plasmid.client.verbs.query import _edges, table_lines
from plasmid.core.errors import UsageError

ANSWER: dict[str, Any] = {
    "axes": [{"column": "sex", "cells": ["f", "m"]}, {"column": "case", "cells": ["0", "1"]}],
    "counts": [[120, 0], [15, 40]],
    "sums": None,
    "suppressed_at": [[0, 3], [1, 0]],
    "sites": 3,
}


def test_a_cell_is_a_line_that_says_where_it_is_a_lower_bound() -> None:
    assert table_lines(ANSWER) == [
        "sex f, case 0: 120",
        "sex f, case 1: 0 (suppressed at 3 of 3 sites, lower bound)",
        "sex m, case 0: 15 (suppressed at 1 of 3 sites, lower bound)",
        "sex m, case 1: 40",
    ]


def test_sums_are_told_and_under_a_unit_nothing_is_suppressed() -> None:
    under = ANSWER | {"suppressed_at": None, "sums": [[1.5, 2.0], [-3.25, 1e6]]}
    assert table_lines(under)[2:] == ["sex m, case 0: 15, sum -3.25", "sex m, case 1: 40, sum 1e+06"]


def test_edges_are_a_column_and_numbers() -> None:
    assert _edges("a=b=1,2.5") == ("a=b", [1.0, 2.5])
    for wrong in ("age", "age=", "age=1,x"):
        with pytest.raises(UsageError) as caught:
            _edges(wrong)
        assert caught.value.code == "usage.bounds"
