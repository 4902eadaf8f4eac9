"""A table of counts: which cell a record is in, what it adds, and what the sum is told as."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plasmid.computations import counts
from plasmid.computations.api import Sum
from plasmid.recipes.counts import CountsDocument

SEX = {"type": "category", "column": "sex", "vocabulary": ["f", "m"]}
DAY = {"type": "grid", "column": "day", "start": 0, "step": 30, "steps": 3}
AGE = {"column": "age", "bounds": [0, 100]}
ROWS: list[dict[str, Any]] = [
    {"sex": "f", "day": 0.0, "age": 10.0},
    {"sex": "f", "day": 90.0, "age": 20.0},
    {"sex": "other", "day": 89.9, "age": 30.0},
    {"sex": None, "day": 30.0, "age": 40.0},
    {"sex": "m", "day": None, "age": 50.0},
    {"sex": "m", "day": 1.0, "age": None},
]


def document(**values: Any) -> CountsDocument:
    given = {"computation": "counts", "name": "table", "axes": [SEX, DAY], "max_rows": 500} | values
    return CountsDocument.model_validate(given)


def total(asked: CountsDocument, rows: list[dict[str, Any]]) -> np.ndarray:
    state = counts.initial(asked, counts.shape(asked, None))
    vectors = [counts.per_record(asked, state, row) for row in rows]
    return np.sum([state, *(vector for vector in vectors if vector is not None)], axis=0)


def test_a_site_s_tables_are_bounded_by_its_rows_and_have_one_shape() -> None:
    shape = counts.shape(document(sum_of=AGE), None)
    assert {spec.name: spec.shape for spec in shape.schema.tensors} == {
        "counts": (4, 4),
        "sums": (4, 4),
        "suppressed": (4, 4),
    }
    assert (shape.bound, shape.record_bound, shape.norm, shape.bits) == (500.0, 1.0, None, 64)
    assert counts.shape(document(missing="skip"), None).schema.size == 2 * 3 * 3


def test_under_a_unit_nothing_is_suppressed_and_a_record_is_one_number_or_two() -> None:
    privacy = {
        "unit": "record",
        "mechanism": "dp-fedsgd",
        "epsilon": 1.0,
        "delta": 1e-5,
        "record_clip": 1.5,
    }
    asked = document(sum_of=AGE, privacy=privacy)
    assert counts.shape(asked, None).schema.size == 2 * 16
    vector = counts.per_record(asked, np.zeros(32), ROWS[0])
    assert vector is not None
    assert {int(index): float(vector[index]) for index in vector.nonzero()[0]} == {0: 1.0, 16: -0.8}
    assert counts.result(asked, np.full(32, -0.7), 3)["suppressed_at"] is None


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("cell", [0, 2, 10, 13, 7, None]), ("skip", [0, 2, 8, None, None, None])],
)
def test_a_record_is_in_one_cell_or_left_out(missing: str, expected: list[int | None]) -> None:
    asked = document(missing=missing, sum_of=AGE)
    assert [counts.cell(asked, row) for row in ROWS] == expected
    assert counts.cell(document(missing=missing), ROWS[5]) == {"cell": 4, "skip": 3}[missing]


@pytest.mark.parametrize(("value", "index"), [(0.0, 0), (17.999, 0), (18.0, 1), (65.0, 2), (120.0, 2)])
def test_a_cell_holds_its_lower_edge_and_the_last_one_both(value: float, index: int) -> None:
    asked = document(axes=[{"type": "number", "column": "age", "edges": [0, 18, 65, 120]}])
    assert counts.cell(asked, {"age": value}) == index
    assert asked.axes[0].cells == ("[0, 18)", "[18, 65)", "[65, 120]")


def test_the_table_is_told_with_its_margins_in_the_column_s_own_unit() -> None:
    asked = document(sum_of=AGE)
    state = counts.advance(asked, counts.shape(asked, None), np.zeros(48), Sum(total(asked, ROWS), 3, 1))
    told = counts.result(asked, state, 3)
    assert told["axes"] == [
        {"column": "sex", "cells": ["f", "m", "(unseen)", "(missing)"]},
        {"column": "day", "cells": ["[0, 30)", "[30, 60)", "[60, 90]", "(missing)"]},
    ]
    assert told["counts"] == [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert told["sums"][0] == pytest.approx([10.0, 0.0, 20.0, 0.0])
    whole, sexes, days = told["margins"]
    assert (whole["columns"], whole["counts"], whole["sums"]) == ([], 5, pytest.approx(150.0))
    assert (sexes["columns"], sexes["counts"]) == (["sex"], [2, 1, 1, 1])
    assert (days["columns"], days["counts"]) == (["day"], [1, 1, 2, 1])
    assert days["sums"] == pytest.approx([10.0, 40.0, 50.0, 50.0])


def test_what_sites_suppressed_is_counted_and_marks_its_margins() -> None:
    asked = document(missing="skip")
    vector = total(asked, ROWS)
    vector[9 + 1] = 2.0  # two sites suppressed (f, [30, 60))
    vector[9 + 2] = 1.0
    told = counts.result(asked, vector, 3)
    assert told["suppressed_at"] == [[0, 2, 1], [0, 0, 0], [0, 0, 0]]
    assert [margin["suppressed_at"] for margin in told["margins"]] == [2, [2, 0, 0], [0, 2, 1]]


def test_three_axes_have_seven_margins() -> None:
    label = {"type": "label", "column": "case", "labels": ["no", "yes"]}
    asked = document(axes=[SEX, DAY, label], missing="skip")
    vector = total(asked, [{**row, "case": "yes"} for row in ROWS])
    margins = counts.result(asked, vector, 3)["margins"]
    assert [margin["columns"] for margin in margins] == [
        [],
        ["sex"],
        ["day"],
        ["case"],
        ["sex", "day"],
        ["sex", "case"],
        ["day", "case"],
    ]
    assert margins[4]["counts"] == [[1, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert margins[3]["counts"] == [0, 4]
