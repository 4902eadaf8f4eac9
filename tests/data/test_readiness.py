"""A report on rows: what it says, and that it says nothing of a single row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmid.data.parsing import check_column
from plasmid.data.readiness.report import Readiness, Report, Roles
from plasmid.data.readiness.small_counts import BEYOND, Bins, Count, Distinct, Tally, rounded, shown
from plasmid.recipes.columns import (
    CategoryColumn,
    Contract,
    IdentifierColumn,
    LabelColumn,
    NumberColumn,
    TextColumn,
)

CONTRACT = Contract(
    {
        "who": IdentifierColumn(type="identifier"),
        "note": TextColumn(type="text", max_length=10, max_characters=200),
        "sick": LabelColumn(type="label"),
        "sex": CategoryColumn(type="category", vocabulary=("f", "m"), missing="allowed"),
        "mass": NumberColumn(type="number", bounds=(0.0, 200.0), missing="allowed"),
    },
    ("no", "yes"),
)
ROLES = Roles(input="note", label="sick", patient="who")
Row = tuple[str, str, str, str, str]


def report(
    rows: list[Row], *, held_out: list[bool] | None = None, batch: int = 7, roles: Roles = ROLES
) -> Report:
    readiness = Readiness(CONTRACT, roles, b"k" * 32)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        raw = {name: pa.array([row[at] for row in part]) for at, name in enumerate(CONTRACT.columns)}
        checked = {name: check_column(raw[name], CONTRACT.columns[name], CONTRACT.labels) for name in raw}
        readiness.feed(
            pa.record_batch(raw),
            pa.record_batch({name: column.values for name, column in checked.items()}),
            {name: column.findings for name, column in checked.items()},
            None if held_out is None else np.array(held_out[start : start + batch]),
        )
    return readiness.report()


def sound(people: int, each: int = 1) -> list[Row]:
    return [
        (f"p{person}", f"n{person} {visit}", "yes" if person % 2 else "no", "f", str(60 + person % 40))
        for person in range(people)
        for visit in range(each)
    ]


def test_a_sound_table_is_ready() -> None:
    found = report(sound(100, each=2), held_out=[at % 4 == 0 for at in range(200)])
    assert found.reasons == ()
    assert found.verdict == "ready"
    values = found.as_json()
    assert values["rows"] == 200
    assert values["people"] == 100
    assert values["rows_per_person"] == {"1": 0, "2": 100, "3-5": 0, "6-10": 0, "11-50": 0, "more": 0}
    assert values["labels"] == {"no": 100, "yes": 100}
    assert values["columns"]["mass"] == {
        "type": "number",
        "missing": 0,
        "findings": {},
        "distinct": "11-100",
        # 60 to 79 three times, 80 to 99 twice, in bins of 4; above 96 are 6 people.
        "quantiles": {"5": 64.0, "25": 68.0, "50": 76.0, "75": 88.0},
    }
    assert values["columns"]["note"]["length_quantiles"] == {"25": 6.0, "50": 6.0, "75": 6.0, "95": 6.0}
    assert "distinct" not in values["columns"]["who"]
    assert values["near_duplicates"] == {"held_out_rows": 50, "near": 0, "threshold": 0.8}
    assert found.sentences[0] == "200 rows of 100 people"
    assert json.loads(json.dumps(values)) == values


def test_what_is_wrong_is_told_with_masked_counts() -> None:
    rows = sound(40)
    rows += rows[:12]
    rows += [(f"q{at}", "n0 0", "yes", "x", "61000") for at in range(80)]
    rows += [("r", "a long text " * 10, "maybe", "", "ten")]
    found = report(rows, held_out=[at >= 40 for at in range(len(rows))])
    assert found.verdict == "not ready"
    assert found.reasons == (
        "column 'sick': <11 values not one of the task's labels",
        "column 'mass': <11 values not a number",
        "column 'mass': 80 values out of range",
        "column 'note': <11 values longer than the model reads",
        "column 'sex': 80 values outside the vocabulary",
        "column 'mass': 80 values out of range that one power of ten would bring within: is the unit right?",
        "10 rows repeat an earlier one",
        # The first such row is one; the others repeat its pair.
        "<11 rows have the input of an earlier one and another label",
        "90 held-out rows have a near-duplicate among those trained on",
    )
    assert found.as_json()["columns"]["sex"]["missing"] == "<11"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "there are no rows"),
        (sound(10, each=5), "there are rows of <11 people"),
        ([row for row in sound(60) if row[2] == "no"], "rows of one label, or none, cannot be told apart"),
    ],
)
def test_a_view_with_nothing_to_work_with_is_not_ready(rows: list[Row], reason: str) -> None:
    found = report(rows)
    assert found.verdict == "not ready"
    assert reason in found.reasons


def test_counts_are_masked_by_people_not_rows() -> None:
    rows = sound(50)
    rows += [("p1", f"m{at}", "yes", "x", "61") for at in range(40)]
    assert report(rows).as_json()["columns"]["sex"]["findings"] == {"notice.unseen": "<11"}
    alone = report(rows, roles=Roles(input="note", label="sick")).as_json()
    assert alone["columns"]["sex"]["findings"] == {"notice.unseen": 40}
    assert "people" not in alone


CANARY = st.tuples(
    st.from_regex(r"canary[0-9]{6}", fullmatch=True),
    st.from_regex(r"canary[0-9]{6} [a-z]{30,60}", fullmatch=True),
    st.sampled_from(["yes", "canary777777"]),
    st.sampled_from(["f", "canary888888"]),
    st.sampled_from(["8765.4321", "123.98765", "-98765.5"]),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(CANARY, min_size=1, max_size=40), st.integers(0, 120))
def test_no_cell_is_ever_in_a_report(canaries: list[Row], others: int) -> None:
    rows = sound(others) + canaries
    found = report(rows, held_out=[at % 2 == 0 for at in range(len(rows))], batch=64)
    text = json.dumps(found.as_json())
    assert "canary" not in text
    assert not re.search(r"87\.?65|987\.?65", text)
    assert not any(word in text for row in canaries for word in row[1].split())


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}/{name}")
    elif not isinstance(value, list):
        yield path, value


def as_range(value: Any) -> tuple[float, float]:
    """Return the counts that a shown count may stand for."""
    if value == "<11":
        return (1, 10**9)  # of fewer than 11 people, but of any number of rows
    unit = 10 ** max(1, len(str(value)) - 3) if value else 0
    return (value - unit / 2, value + unit / 2)


BORDERS = [4.0 * step for step in range(1, 51)] + [2.0 * step for step in range(1, 41)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.data())
def test_one_row_changes_nothing_but_rounded_counts(size: int, data: st.DataObject) -> None:
    rows = sound(size)
    extra = data.draw(CANARY)
    at = data.draw(st.integers(0, size))
    one = report(rows, held_out=[True] * size, batch=64).as_json()
    two = report([*rows[:at], extra, *rows[at:]], held_out=[True] * (size + 1), batch=64).as_json()
    for name in ("reasons", "sentences", "verdict"):
        one.pop(name)
        two.pop(name)
    before, after = dict(leaves(one)), dict(leaves(two))
    for path in before.keys() | after.keys():
        old, new = before.get(path, 0), after.get(path, 0)
        if "quantiles" in path:
            assert new in {0, BEYOND, *BORDERS}
        elif old != new and not path.endswith(("/distinct", "/threshold")):
            low, high = as_range(old), as_range(new)
            assert low[0] - 1 <= high[1]
            assert high[0] - 1 <= low[1]
            assert all(value == "<11" or value % 10 == 0 for value in (old, new)), path


def test_counts_are_rounded_to_tens_and_then_to_three_digits() -> None:
    assert [rounded(count) for count in (11, 14, 15, 995, 1004, 9996, 12_345, 99_950, 1_234_567)] == [
        10, 10, 20, 1000, 1000, 10_000, 12_300, 100_000, 1_230_000,
    ]  # fmt: skip
    assert [shown(0, 0), shown(10, 10), shown(500, 10), shown(500, 11)] == [0, "<11", "<11", 500]
    count = Count()
    for start in range(0, 100, 5):
        count.add(np.arange(start, start + 5).astype(np.uint64) % np.uint64(10))
    assert (count.rows, count.shown) == (100, "<11")
    count.add(np.array([10], np.uint64))
    assert count.shown == 100


def test_classes_bins_and_tallies() -> None:
    distinct = Distinct()
    seen = []
    for high in (0, 1, 2, 10, 100, 1000, 1001, 5000):
        distinct.add(np.arange(high).astype(np.uint64))
        seen.append(distinct.shown)
    assert seen == ["0", "1", "2", "3-10", "11-100", "101-1000", ">1000", ">1000"]

    bins = Bins([1.0, 2.0])
    bins.add(np.array([0.5] * 10 + [1.5] * 200 + [9.0] * 10 + [np.nan]))
    assert bins.quantiles() == {"5": 2.0, "25": 2.0, "50": 2.0, "75": 2.0, "95": 2.0}
    bins.add(np.array([9.0] * 90))
    assert bins.quantiles()["95"] == BEYOND
    few = Bins([1.0, 2.0])
    few.add(np.array([1.5] * 10))
    assert few.quantiles() == {}

    tally = Tally()
    tally._BUFFER = 4
    for _ in range(3):
        tally.add(np.array([3, 1, 3], np.uint64))
    assert sorted(tally.counts().tolist()) == [3, 6]
