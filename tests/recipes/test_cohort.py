"""A cohort is small, typed, and tells all that is wrong with it at once."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from plasmid.recipes.cohort import Cohort
from plasmid.recipes.cohort_checks import cohort_problems
from plasmid.recipes.columns import Column
from plasmid.recipes.schema import Data

ADAPTER: TypeAdapter[Any] = TypeAdapter(Column)
COLUMNS = {
    "who": {"type": "identifier"},
    "sex": {"type": "category", "vocabulary": ["F", "M"]},
    "age": {"type": "number", "bounds": [0, 120]},
    "note": {"type": "text", "max_length": 64},
    "back": {"type": "label"},
}
CONCEPTS = {"diabetes": {"codes": {"icd10": ["E11"], "snomed": ["44054006"]}, "descendants": True}}
NEXT = {"days_before": -1, "days_after": 30}
TAKE: dict[str, Any] = {
    "who": {"take": "person"},
    "sex": {"take": "sex", "values": {"female": "F", "male": "M"}},
    "age": {"take": "age"},
    "note": {"take": "text", "within": {"days_before": "ever"}, "pick": "last"},
    "back": {"take": "present", "table": "visit", "within": NEXT, "values": ["yes", "no"]},
}
INDEX = {"table": "condition", "concepts": "diabetes", "pick": "first"}


def document(**change: Any) -> dict[str, Any]:
    return {"concepts": CONCEPTS, "index": INDEX, "columns": TAKE, **change}


def problems(**change: Any) -> list[tuple[str, str]]:
    columns = {name: ADAPTER.validate_python(column) for name, column in COLUMNS.items()}
    found = cohort_problems(Cohort.model_validate(document(**change)), columns)
    return [(".".join(map(str, path[2:])), what) for path, what in found]


def event(**change: Any) -> dict[str, Any]:
    return {"event": {"table": "visit", "within": {"days_before": 365}, **change}}


def test_a_sound_cohort_says_the_same_after_it_was_written() -> None:
    nested = {"any": [{"sex": ["female"]}, {"none": [{"age": {"at_least": 90}}, event(at_least=2)]}]}
    given = document(where=[nested, {"observed_days": 365}])
    cohort = Cohort.model_validate(given)
    written = cohort.model_dump(mode="json")
    assert Cohort.model_validate(written) == cohort
    assert written["where"][0]["any"][1]["none"][0] == {"age": {"at_least": 90, "at_most": None}}
    assert problems(where=given["where"]) == []


def test_all_that_contradicts_is_told_at_once() -> None:
    columns = {
        **{name: TAKE[name] for name in ("who", "age", "back")},
        "sex": {**TAKE["sex"], "values": {"female": "W"}},
        "note": {"take": "age"},
        "more": {
            "take": "value",
            "table": "drug",
            "within": {"since": "2024-02-01", "until": "2024-01-01"},
            "pick": "max",
        },
    }
    del columns["back"]
    where = [
        event(concepts="unheard"),
        event(table="death", concepts="diabetes"),
        event(within={"days_before": -10, "days_after": 5}),
        event(value={"at_least": 1.0}),
        event(table="measurement", value={"at_least": 2.0, "at_most": 1.0}),
        {"age": {}},
    ]
    spare = {"spare": CONCEPTS["diabetes"]}
    assert problems(columns=columns, where=where, concepts={**CONCEPTS, **spare}) == [
        ("where.0.event.concepts", "names the concept set 'unheard', which cohort.concepts does not hold"),
        ("where.1.event.concepts", "the table death has no code"),
        ("where.2.event.within", "ends (day 5) before it begins (day 10)"),
        ("where.3.event.table", "the table visit has no value"),
        ("where.4.event.value", "at_least (2.0) is above at_most (1.0)"),
        ("where.5.age", "needs at_least or at_most"),
        ("columns.back", "is missing: each column of the contract needs a definition"),
        ("columns.sex.values", "'W' is not in the column's vocabulary"),
        ("columns.note", "take: age gives a column of type number, not text"),
        ("columns.more.within", "ends (2024-01-01) before it begins (2024-02-01)"),
        ("columns.more.table", "the table drug has no value"),
        ("columns.more", "is no column of the contract"),
        ("concepts.spare", "is used nowhere"),
    ]


def deep(levels: int) -> dict[str, Any]:
    return {"any": [deep(levels - 1)]} if levels else {"sex": ["male"]}


def test_depth_and_number_of_criteria_are_bounded() -> None:
    assert problems(where=[deep(3)]) == []
    assert problems(where=[deep(4)]) == [("where.0.any.0.any.0.any.0.any.0", "is nested deeper than 4")]
    assert problems(where=[{"sex": ["male"]}] * 100) == []
    nested = [{"all": [{"sex": ["male"]}] * 50}] * 2
    assert problems(where=nested) == [("where", "holds 102 criteria, at most 100 are allowed")]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"index": {"date": "2023-02-30"}}, ("index", "date", "date")),
        ({"index": {"table": "users", "pick": "first"}}, ("index", "event", "table")),
        ({"where": [{"sql": "DROP TABLE person"}]}, ("where", 0)),
        ({"where": [{"sex": ["w"]}]}, ("where", 0, "sex", "sex", 0)),
        ({"where": [{"sex": ["female"], "age": {"at_least": 3}}]}, ("where", 0, "sex", "age")),
        ({"where": [event(within=None)]}, ("where", 0, "event", "event", "within", "days")),
        ({"where": [event(at_least=0)]}, ("where", 0, "event", "event", "at_least")),
        ({"where": [{"sex": ["male"]}] * 101}, ("where",)),
        ({"concepts": {"a b": CONCEPTS["diabetes"]}}, ("concepts", "a b", "[key]")),
        (
            {"concepts": {"x": {"codes": {"icd11": ["E11"]}, "descendants": True}}},
            ("concepts", "x", "codes", "icd11", "[key]"),
        ),
        (
            {"concepts": {"x": {"codes": {"icd10": ["E11\n"]}, "descendants": True}}},
            ("concepts", "x", "codes", "icd10", 0),
        ),
        (
            {"concepts": {"x": {"codes": {"icd10": ["a" * 101]}, "descendants": True}}},
            ("concepts", "x", "codes", "icd10", 0),
        ),
        (
            {"concepts": {"x": {"codes": {"icd10": ["a"] * 10_001}, "descendants": True}}},
            ("concepts", "x", "codes", "icd10"),
        ),
        ({"concepts": {f"x{n}": CONCEPTS["diabetes"] for n in range(65)}}, ("concepts",)),
        ({"concepts": {"x": {"codes": {"icd10": ["E11"]}}}}, ("concepts", "x", "descendants")),
        ({"columns": {"who": {"take": "sql", "text": "1"}}}, ("columns", "who")),
    ],
)
def test_what_is_no_cohort_is_refused_where_it_stands(change: dict[str, Any], where: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        Cohort.model_validate(document(**change))
    assert where in [error["loc"] for error in caught.value.errors()]


def test_a_contract_checks_its_cohort() -> None:
    given = {"input": "note", "label": "back", "patient": "who", "columns": COLUMNS, "cohort": document()}
    assert Data.model_validate(given).cohort == Cohort.model_validate(document())
