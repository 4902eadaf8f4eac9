"""Local columns made declared ones: codes, units, dates; what cannot be converted is marked, not guessed."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.core.errors import DataError
from plasmid.data.settings import ColumnMap
from plasmid.data.views.mapping import convert
from plasmid.recipes.columns import CategoryColumn, NumberColumn, TextColumn

SEX = CategoryColumn(
    type="category", vocabulary=("female", "male"), missing="allowed", missing_markers=("NA",)
)
WEIGHT = NumberColumn(
    type="number", bounds=(0, 500), unit="kg", missing="allowed", missing_markers=("-9", "NA")
)
DAY = TextColumn(type="text", max_length=8, missing="allowed", missing_markers=("NA",))


def converted(cells: pa.Array, column: Any, **how: Any) -> tuple[list[Any], dict[str, list[bool]]]:
    values, trouble = convert(cells, ColumnMap(column="x", **how), column)
    return values.to_pylist(), {code: mask.tolist() for code, mask in trouble.items()}


def test_codes_are_compared_without_blanks_and_others_are_marked() -> None:
    cells = pa.array(["m", " f ", "", None, "NA", "x", "y"])
    codes = {"m": "male", " f": "female"}
    assert converted(cells, SEX, codes=codes) == (
        ["male", "female", None, None, "NA", None, None],
        {"data.code_unmapped": [False] * 5 + [True] * 2},
    )
    assert converted(cells, SEX, codes=codes, other="unknown") == (
        ["male", "female", None, None, "NA", "unknown", "unknown"],
        {},
    )
    assert converted(cells, SEX, codes={**codes, "NA": "male", "x": "x", "y": "x"})[0][4:] == [
        "male",
        "x",
        "x",
    ]


def test_codes_of_numbers_are_their_shortest_text() -> None:
    codes = {"8507": "male", "8532": "female", "0.5": "half"}
    assert converted(pa.array([8507, 8532, None]), SEX, codes=codes)[0] == ["male", "female", None]
    assert converted(pa.array([8507.0, 0.5]), SEX, codes=codes)[0] == ["male", "half"]
    assert converted(pa.array([True]), SEX, codes={"true": "male"})[0] == ["male"]


def test_grams_become_kilograms_and_a_marker_stays_missing() -> None:
    cells = pa.array(["70000", "-9", "NA", "", None, "heavy"])
    values, trouble = converted(cells, WEIGHT, unit="g")
    assert values[:5] == [70.0, None, None, None, None]
    assert math.isnan(values[5])
    assert trouble == {}
    assert converted(pa.array([70000, -9]), WEIGHT, unit="g")[0] == [70.0, None]


def test_a_factor_and_an_offset_are_taken_as_they_are() -> None:
    column = NumberColumn(type="number", bounds=(-100, 100))
    assert converted(pa.array([98.6]), column, factor=0.5, offset=-1.0)[0] == [98.6 * 0.5 - 1.0]
    assert converted(pa.array([1.5]), column, offset=1.0)[0] == [2.5]
    celsius = NumberColumn(type="number", bounds=(-100, 100), unit="Cel", decimals=6)
    assert converted(pa.array([98.6]), celsius, unit="[degF]")[0] == pytest.approx([37.0])


@pytest.mark.parametrize(
    ("unit", "column"),
    [("mmol/L", WEIGHT), ("no unit", WEIGHT), ("g", NumberColumn(type="number", bounds=(0, 1))), ("g", DAY)],
)
def test_a_unit_that_does_not_convert_is_refused(unit: str, column: Any) -> None:
    with pytest.raises(DataError) as caught:
        convert(pa.array(["CANARY"]), ColumnMap(column="x", unit=unit), column)
    assert caught.value.code == "data.unit_unconvertible"
    assert repr(unit) in caught.value.message
    assert "CANARY" not in str(caught.value)


def test_dates_have_the_format_that_was_said_and_are_days_that_there_were() -> None:
    cells = pa.array(["29.02.2020", "1.2.2020", "31.02.2020", "01/02/2020", "1.2.2020 x", "NA", "", None])
    assert converted(cells, DAY, date_format="%d.%m.%Y") == (
        ["2020-02-29", "2020-02-01", None, None, None, "NA", None, None],
        {"data.date_unreadable": [False, False, True, True, True, False, False, False]},
    )
    assert converted(pa.array([date(2020, 2, 29)]), DAY, date_format="%d.%m.%Y") == ([date(2020, 2, 29)], {})


@given(days=st.lists(st.dates(date(1900, 1, 1), date(2100, 1, 1)), max_size=20))
def test_any_date_comes_out_as_it_went_in(days: list[date]) -> None:
    cells = pa.array([day.strftime("%m/%d/%Y") for day in days], pa.string())
    assert converted(cells, DAY, date_format="%m/%d/%Y") == ([day.isoformat() for day in days], {})


def test_nothing_said_is_nothing_done() -> None:
    cells = pa.array([" a ", None])
    assert convert(cells, ColumnMap(column="x"), SEX)[0] is cells
