"""Where a unit is protected, one unit's rows change that unit alone: through each transform, and whole views.

Adding one unit's rows, bad ones among them, anywhere in a table must leave all other units as they are.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmid.core.errors import DataError
from plasmid.data.findings import Tally
from plasmid.data.settings import Connections, ViewFile
from plasmid.data.snapshot import row_keys
from plasmid.data.sources.files import open_file
from plasmid.data.transforms.base import COUPLED, Place, load, names
from plasmid.data.views.rows import Rows, held_out, wanted_columns
from plasmid.data.views.viewing import open_source, query_of, transforms_of
from plasmid.recipes.cohort import Cohort
from plasmid.recipes.columns import Contract, IdentifierColumn, LabelColumn, NumberColumn, TextColumn
from plasmid.recipes.protection import Unit
from plasmid.recipes.schema import Holdout

COLUMNS = {
    "who": IdentifierColumn(type="identifier", missing_markers=("NA",)),
    "on": TextColumn(type="text", max_length=20, missing="allowed"),
    "note": TextColumn(type="text", max_length=12),
    "size": NumberColumn(type="number", bounds=(0, 9), missing="allowed"),
    "label": LabelColumn(type="label"),
}
CONTRACT = Contract(COLUMNS, ("no", "yes"), 6)  # max_rows: fewer than there are
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "date_shift": [{"columns": ["on"], "days": 30}],
    "deduplicate": [{}, {"columns": ["note"]}],
    "deidentify": [{"columns": ["note"]}],
    "normalise": [{"columns": {"note": ["trim", "lower"], "who": ["trim"]}}],
    "opt_out": [{"file": "no.txt"}],
}
Row = tuple[str | None, ...]
NEW = "new"
"""The patient who is added."""

OTHERS = st.sampled_from(["p1", "p2", "p3", "p4", "NA", ""])
CELLS = (
    st.sampled_from(["2020-01-02", "", "3.4.20"]),
    st.sampled_from(["a", "A ", "b", "Mr Meier", ""]),
    st.sampled_from(["1", "7", "x", "99", ""]),
    st.sampled_from(["no", "yes", "maybe"]),
)
TABLES = st.lists(st.tuples(OTHERS, *CELLS), max_size=12)


def added(person: str | None, most: int) -> st.SearchStrategy[list[tuple[int, Row]]]:
    """Rows of one unit, each with the place at which it is put."""
    whose = st.just(person) if person is not None else OTHERS
    return st.lists(st.tuples(st.integers(0, 12), st.tuples(whose, *CELLS)), min_size=1, max_size=most)


def joined(table: list[Row], rows: list[tuple[int, Row]]) -> list[tuple[int | str, Row]]:
    """Return *table* with *rows* in it, each row with what tells it apart in any table that it is in."""
    found: list[tuple[int | str, Row]] = list(enumerate(table))
    for number, (place, row) in enumerate(rows):
        found.insert(place, (f"new {number}", row))
    return found


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "no.txt").write_text("p2\n")
        yield Path(made)


def applied(
    name: str, how: dict[str, Any], place: Place, rows: list[tuple[int | str, Row]], size: int
) -> Counter[Any]:
    """Return the rows that a transform hands on, counted, of batches of *size*."""
    step = load(name, how)
    step.prepare(place)
    found: Counter[Any] = Counter()
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        cells = {
            column: pa.array([row[at] for _, row in part], pa.string()) for at, column in enumerate(COLUMNS)
        }
        # What is no column of the contract is beside the point of each transform, and tells rows apart.
        batch = pa.record_batch(cells | {"row": pa.array([str(one) for one, _ in part])})
        found.update(tuple(row.items()) for row in step.apply(batch).to_pylist())
    return found


def test_every_transform_is_tried() -> None:
    assert sorted(SETTINGS) == names()


@pytest.mark.parametrize("unit", COUPLED)
@pytest.mark.parametrize(("name", "how"), [(name, how) for name in SETTINGS for how in SETTINGS[name]])
@settings(max_examples=25)
@given(table=TABLES, rows=added(NEW, 6), one=added(None, 1), size=st.integers(1, 5))
def test_a_transform_that_says_1_changes_one_unit(
    folder: Path,
    name: str,
    how: dict[str, Any],
    unit: Unit,
    table: list[Row],
    rows: list[tuple[int, Row]],
    one: list[tuple[int, Row]],
    size: int,
) -> None:
    place = Place(COLUMNS, "who", folder, b"k" * 32, unit)
    if load(name, how).stability(place) != 1:
        assert (name, unit) == ("deduplicate", "record")
        return
    if unit == "record":
        rows = one  # anybody's
    before, after = (applied(name, how, place, joined(table, extra), size) for extra in ([], rows))
    assert before - after == Counter(), "nobody's row went or changed"
    assert all(dict(row)["row"].startswith("new") for row in after - before)


def test_control_over_all_rows_an_equal_row_takes_another_s_place(folder: Path) -> None:
    place = Place(COLUMNS, "who", folder, b"k" * 32, "none")
    row = ("p1", "", "a", "1", "no")
    before, after = (
        applied("deduplicate", {"columns": ["note"]}, place, joined([row], extra), 5)
        for extra in ([], [(0, (NEW, *row[1:]))])
    )
    assert len(before - after) == 1


def viewed(path: Path, rows: list[tuple[int | str, Row]], unit: Unit, holdout: Holdout) -> Counter[Any]:
    """Return what a view of *rows* trains on, counted, with a row for each row of it."""
    lines = [",".join(COLUMNS), *(",".join(str(cell or "") for cell in row) for _, row in rows)]
    path.write_text("\n".join(lines) + "\n")
    steps = [{name: SETTINGS[name][0]} for name in ("normalise", "date_shift", "opt_out", "deidentify")]
    steps += [{"deduplicate": {"columns": ["note"]}}] if unit == "patient" else []
    file = ViewFile.model_validate({"transforms": steps})
    wanted, tally = wanted_columns(CONTRACT, labels=True), Tally(leaves_out=True)
    chain = transforms_of(file, wanted, path.parent, key=b"k" * 32, patient="who", unit=unit)
    source = open_file(path, leaves_out=True)
    found: Counter[Any] = Counter()
    try:
        query = query_of(source, file, None, wanted, tally, today=date(2026, 1, 1))
        for batch in Rows(source, query, "the view", wanted, CONTRACT, transforms=chain, tally=tally):
            out = held_out(batch, row_keys(batch), holdout, "who").to_pylist()
            kept = zip(batch.to_pylist(), out, strict=True)
            found.update(tuple(row.values()) for row, gone in kept if not gone)
    finally:
        source.close()
    return found


@pytest.mark.parametrize("by", ["patient", "record"])
@pytest.mark.parametrize("unit", COUPLED)
@settings(max_examples=25)
@given(table=TABLES, rows=added(NEW, 6), one=added(None, 1))
def test_a_view_with_its_checks_and_its_hold_out_changes_one_unit(
    folder: Path,
    unit: Unit,
    by: Any,
    table: list[Row],
    rows: list[tuple[int, Row]],
    one: list[tuple[int, Row]],
) -> None:
    """Unknown labels, no numbers, no dates, rows beyond max_rows: none of them is another unit's matter."""
    holdout = Holdout(by=by, share=0.3, seed=4)
    extra = one if unit == "record" else rows
    before = viewed(folder / "table.csv", joined(table, []), unit, holdout)
    after = viewed(folder / "table.csv", joined(table, extra), unit, holdout)
    assert before - after == Counter()
    gained = after - before
    if unit == "record":
        assert gained.total() <= 1
    else:
        assert all(row[0] == NEW for row in gained)


# -- a cohort ------------------------------------------------------------------------------------------

PERSON = st.tuples(
    st.sampled_from(["1980-01-01", "no date", "2999-01-01", ""]),
    st.sampled_from(["female", "male", "who knows"]),
    st.integers(1, 2),  # rows of the table of people
    st.lists(
        st.tuples(
            st.sampled_from(["2020-01-01", "2020-02-30", "2999-05-05", "2021-06-07"]),
            st.sampled_from(["5.5", "much", ""]),
            st.sampled_from(["%", "furlong", ""]),
        ),
        min_size=1,
        max_size=3,
    ),
)
COHORT = Cohort.model_validate(
    {
        "concepts": {"hba1c": {"codes": {"loinc": ["4548-4"]}, "descendants": False}},
        "index": {"table": "measurement", "concepts": "hba1c", "pick": "last"},
        "columns": {
            "who": {"take": "person"},
            "on": {"take": "sex"},
            "note": {
                "take": "code",
                "table": "measurement",
                "within": {"days_before": "ever"},
                "pick": "last",
            },
            "size": {
                "take": "value",
                "table": "measurement",
                "concepts": "hba1c",
                "within": {"days_before": "ever", "days_after": "ever"},
                "pick": "last",
            },
            "label": {
                "take": "present",
                "table": "measurement",
                "concepts": "hba1c",
                "within": {"days_before": "ever", "days_after": "ever"},
                "values": ["yes", "no"],
            },
        },
    }
)
HOSPITAL = {
    "source": "here",
    "tables": {
        "person": {"table": "p", "columns": {"person": "id", "birth_date": "born", "sex": "sex"}},
        "measurement": {
            "table": "m",
            "system": "loinc",
            "columns": {"person": "id", "date": "taken", "code": "code", "value": "result", "unit": "unit"},
            "units": {"%": "%"},
        },
    },
}
WITH_UNIT = Contract(
    COLUMNS | {"size": NumberColumn(type="number", bounds=(0, 9), unit="%", missing="allowed")},
    ("no", "yes"),
    2,
)


def of_cohort(folder: Path, people: dict[str, Any], *, leaves_out: bool = True) -> Counter[Any]:
    """Return the rows of the cohort over tables of *people*, counted."""
    files = {"p.csv": ["id,born,sex"], "m.csv": ["id,taken,code,result,unit"]}
    for who, (born, sex, times, events) in people.items():
        files["p.csv"] += [f"{who},{born},{sex}"] * times
        files["m.csv"] += [f"{who},{day},4548-4,{result},{unit}" for day, result, unit in events]
    (folder / "hospital").mkdir(exist_ok=True)
    for name, lines in files.items():
        (folder / "hospital" / name).write_text("\n".join(lines) + "\n")
    known = Connections.model_validate({"connections": {"here": {"kind": "files", "path": "hospital"}}})
    file = ViewFile.model_validate(HOSPITAL)
    wanted, tally = wanted_columns(WITH_UNIT, labels=True), Tally(leaves_out=leaves_out)
    source = open_source(file, known, folder, path=None, scratch=folder / "scratch", leaves_out=leaves_out)
    document = SimpleNamespace(data=SimpleNamespace(cohort=COHORT))
    found: Counter[Any] = Counter()
    try:
        query = query_of(source, file, document, wanted, tally, today=date(2026, 1, 1))
        for batch in Rows(source, query, "the view", wanted, WITH_UNIT, tally=tally):
            found.update(tuple(row.values()) for row in batch.to_pylist())
    finally:
        source.close()
    return found


@settings(max_examples=20)
@given(others=st.lists(PERSON, max_size=4), new=PERSON, first=st.booleans())
def test_a_cohort_changes_one_person(folder: Path, others: list[Any], new: Any, first: bool) -> None:
    """No date, one to come, an unknown unit, a person twice: each refuses a cohort, but under a unit."""
    known = {f"p{number}": one for number, one in enumerate(others)}
    before = of_cohort(folder, known)
    after = of_cohort(folder, {NEW: new} | known if first else known | {NEW: new})
    assert before - after == Counter()
    assert all(row[0] == NEW for row in after - before)


def test_control_without_a_unit_a_person_twice_refuses_the_cohort(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        of_cohort(folder, {"p": ("", "female", 2, [("2020-01-01", "5.5", "%")])}, leaves_out=False)
    assert caught.value.code == "data.person_twice"


def test_an_event_to_come_is_left_out_and_told(folder: Path) -> None:
    events = [("2020-01-01", "5.5", "%"), ("2999-05-05", "7.5", "%")]
    found = of_cohort(folder, {"p": ("1980-01-01", "female", 1, events)})
    assert list(found) == [("p", "female", "4548-4", 5.5, "yes")]
