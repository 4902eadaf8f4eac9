"""Opt-out lists and the shifting of dates."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.core.errors import DataError
from plasmid.data.transforms.base import Place, Transform, load
from plasmid.data.transforms.date_shift import shift_days
from plasmid.recipes.columns import IdentifierColumn, TextColumn

KEY = bytes(range(32))
DATES = TextColumn(type="text", max_length=50, missing_markers=("unknown",))
COLUMNS = {"who": IdentifierColumn(type="identifier"), "on": DATES, "until": DATES}


def ready(name: str, settings: dict[str, Any], folder: Path = Path()) -> Transform:
    step = load(name, settings)
    step.prepare(Place(COLUMNS, "who", folder, KEY))
    return step


@pytest.mark.parametrize("hashed", [False, True])
def test_listed_people_are_left_out(tmp_path: Path, hashed: bool) -> None:
    listed = [" p2 ", "", "p9", "007", "p2"]
    lines = [
        hashlib.sha256(one.strip().encode()).hexdigest().upper() if hashed and one else one for one in listed
    ]
    (tmp_path / "no.txt").write_text("\ufeff" + "\r\n".join(lines), "utf-8")
    step = ready("opt_out", {"file": "no.txt", "hashed": hashed}, tmp_path)
    first = step.apply(pa.record_batch({"who": ["p1", "p2 ", None, "7"], "on": ["a", "b", "c", "d"]}))
    second = step.apply(pa.record_batch({"who": ["p2", "007"], "on": ["e", "f"]}))
    assert first.to_pydict() == {"who": ["p1", None, "7"], "on": ["a", "c", "d"]}
    assert second.num_rows == 0
    assert step.counts() == {
        "rows left out": 3,
        "people left out": 2,
        "list entries that met nobody": 1,
        "rows without an identifier": 1,
    }


def test_numbers_are_compared_as_text(tmp_path: Path) -> None:
    (tmp_path / "no.txt").write_text("7\n123456789012\n")
    step = ready("opt_out", {"file": "no.txt"}, tmp_path)
    assert step.apply(pa.record_batch({"who": pa.array([7, 8])})).to_pydict() == {"who": [8]}
    real = pa.array([7.0, 123456789012.0, 8.0])
    assert step.apply(pa.record_batch({"who": real})).to_pydict() == {"who": [8.0]}
    with pytest.raises(DataError) as caught:
        step.apply(pa.record_batch({"on": ["2020-01-01"]}))
    assert caught.value.code == "data.opt_out_column"
    with pytest.raises(DataError) as caught:
        step.apply(pa.record_batch({"who": pa.nulls(3)}))
    assert caught.value.code == "data.opt_out_column"


def test_a_list_of_names_is_no_list_of_digests(tmp_path: Path) -> None:
    (tmp_path / "no.txt").write_text("0" * 64 + "\ncanary\n")
    with pytest.raises(DataError) as caught:
        ready("opt_out", {"file": "no.txt", "hashed": True}, tmp_path)
    assert caught.value.code == "data.opt_out_list"
    assert "1 lines" in caught.value.message
    assert "line 2" in caught.value.message
    assert "canary" not in str(caught.value)


def test_shifts_are_uniform_without_zero_and_follow_from_key_and_person() -> None:
    counts = dict.fromkeys([-3, -2, -1, 1, 2, 3], 0)
    for person in range(12_000):
        counts[shift_days(str(person), 3, KEY)] += 1
    # chi-square with 5 degrees of freedom: 20.5 is its 0.999 quantile.
    assert sum((count - 2000) ** 2 / 2000 for count in counts.values()) < 20.5
    assert shift_days("p1", 3000, KEY) == shift_days("p1", 3000, KEY)
    assert shift_days("p1", 3000, KEY) != shift_days("p1", 3000, bytes(32))


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1))),
        min_size=1,
        max_size=20,
    )
)
def test_intervals_of_a_person_are_kept_in_every_type(rows: list[tuple[str, dt.date]]) -> None:
    step = ready("date_shift", {"columns": ["on", "until"], "days": 400})
    who = [person for person, _ in rows]
    dates = [date for _, date in rows]
    times = [dt.datetime(date.year, date.month, date.day, 9, 30) for date in dates]
    text = pa.record_batch({"who": who, "on": [date.isoformat() for date in dates], "until": pa.array(dates)})
    stamp = pa.record_batch(
        {"who": who, "on": pa.array(times), "until": [f"{date}T09:30:00Z" for date in dates]}
    )
    shifts = [dt.timedelta(shift_days(person, 400, KEY)) for person in who]
    moved = step.apply(text).to_pydict()
    assert moved["on"] == [(date + shift).isoformat() for date, shift in zip(dates, shifts, strict=True)]
    assert moved["until"] == [date + shift for date, shift in zip(dates, shifts, strict=True)]
    moved = step.apply(stamp).to_pydict()
    assert moved["on"] == [time + shift for time, shift in zip(times, shifts, strict=True)]
    assert moved["until"] == [f"{date + shift}T09:30:00Z" for date, shift in zip(dates, shifts, strict=True)]
    assert step.counts() == {"dates moved in on": 2 * len(rows), "dates moved in until": 2 * len(rows)}


def test_what_is_empty_stays_and_the_types_too() -> None:
    step = ready("date_shift", {"columns": ["on", "until"], "days": 5})
    batch = pa.record_batch(
        {"who": ["a", "a", "a"], "on": ["", None, "unknown"], "until": pa.array([None] * 3, pa.date32())}
    )
    assert step.apply(batch).equals(batch)
    assert step.apply(pa.record_batch({"who": ["a"], "until": pa.nulls(1)})).column("until").null_count == 1


@pytest.mark.parametrize(
    "cell", ["04.03.2021", "2021-02-30", "2021-3-4", "2021-03-04 seen by Canary", "canary"]
)
def test_text_that_may_be_a_real_date_is_refused(cell: str) -> None:
    step = ready("date_shift", {"columns": ["on"], "days": 5})
    with pytest.raises(DataError) as caught:
        step.apply(pa.record_batch({"who": ["a", "b"], "on": ["2020-01-01", cell]}))
    assert caught.value.code == "data.date_shift_format"
    assert "column 'on' has 1 values" in caught.value.message
    assert cell not in str(caught.value)
    with pytest.raises(DataError) as caught:
        step.apply(pa.record_batch({"who": ["a"], "on": pa.array([20200101])}))
    assert caught.value.code == "data.date_shift_format"
