"""The document of a table of counts: what it reads, what it refuses, and that it survives the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from plasmid.recipes.columns import CategoryColumn, IdentifierColumn, LabelColumn, NumberColumn
from plasmid.recipes.counts import MAX_CELLS, CountsDocument
from plasmid.recipes.documents import parse_document

SEX = {"type": "category", "column": "sex", "vocabulary": ["f", "m"]}
CASE = {"type": "label", "column": "case", "labels": ["no", "yes"]}
AGE = {"type": "number", "column": "age", "edges": [0, 18, 65, 120], "missing_markers": ["NA"]}
DAY = {"type": "grid", "column": "day", "start": 0, "step": 7, "steps": 10}


def document(**values: Any) -> CountsDocument:
    given = {"computation": "counts", "name": "table", "axes": [SEX, CASE, AGE]} | values
    return CountsDocument.model_validate(given)


def test_it_survives_the_wire() -> None:
    asked = document(axes=[SEX, DAY], sum_of={"column": "age", "bounds": [0, 120]}, patient="who")
    sent = json.loads(json.dumps(asked.model_dump(mode="json")))
    arrived = parse_document(sent)
    assert arrived == asked
    assert type(arrived) is CountsDocument


def test_it_reads_its_own_columns_and_no_other() -> None:
    asked = document(sum_of={"column": "dose", "bounds": [0, 5]}, patient="who", max_rows=70)
    contract = asked.contract
    assert list(contract.columns) == ["sex", "case", "age", "dose", "who"]
    assert [type(column) for column in contract.columns.values()] == [
        CategoryColumn,
        LabelColumn,
        NumberColumn,
        NumberColumn,
        IdentifierColumn,
    ]
    age = contract.columns["age"]
    assert isinstance(age, NumberColumn)
    assert (age.bounds, age.missing, age.missing_markers) == ((0.0, 120.0), "allowed", ("NA",))
    assert (contract.labels, contract.max_rows) == (("no", "yes"), 70)
    assert asked.shape == (4, 3, 4)
    assert document(missing="skip").shape == (3, 2, 3)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"axes": []}, "axes"),
        ({"axes": [SEX, CASE, AGE, DAY]}, "axes"),
        ({"axes": [SEX, SEX]}, "a column has one part"),
        ({"patient": "sex"}, "a column has one part"),
        ({"sum_of": {"column": "age", "bounds": [0, 1]}}, "a column has one part"),
        ({"axes": [CASE, CASE | {"column": "other"}]}, "at most one label axis"),
        ({"axes": [AGE | {"edges": [0, 18, 18]}]}, "edges rise"),
        ({"axes": [AGE | {"edges": [0]}]}, "edges"),
        ({"axes": [DAY | {"start": 1e17, "step": 1.0}]}, "edges rise"),
        ({"axes": [DAY | {"step": 1e308}]}, "edges rise"),
        ({"axes": [DAY | {"step": 0}]}, "step"),
        ({"axes": [SEX | {"vocabulary": ["f", "f"]}]}, "lists a cell once"),
        ({"axes": [SEX | {"vocabulary": ["(missing)"]}]}, "lists a cell once"),
        ({"axes": [CASE | {"labels": ["(missing)"]}]}, "lists a cell once"),
        ({"sum_of": {"column": "dose", "bounds": [5, 5]}}, "low < high"),
        ({"axes": [DAY | {"steps": MAX_CELLS}]}, f"at most {MAX_CELLS} cells"),
        ({"axes": [SEX | {"type": "grid"}]}, "start"),
        ({"federation": {"min_sites": 2}}, "at least 3 sites"),
        ({"privacy": {"unit": "patient"}}, "no patients"),
        ({"missing": "drop"}, "missing"),
    ],
)
def test_what_is_refused(values: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        document(**values)
