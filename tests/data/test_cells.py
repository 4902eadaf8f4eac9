"""Columns of cells under their contract, against a reader that takes one cell at a time in plain Python."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.data.parsing import Finding, check_column, to_numbers, to_text
from plasmid.recipes.columns import (
    NUCLEOTIDES,
    RESIDUES,
    SMILES_CHARACTERS,
    AnyColumn,
    CategoryColumn,
    IdentifierColumn,
    LabelColumn,
    MoleculeColumn,
    NucleotideColumn,
    NumberColumn,
    ProteinColumn,
    TextColumn,
)

LABELS = ("no", "yes", "1")
MARKED: dict[str, Any] = {"missing": "allowed", "missing_markers": ("NA", "-9")}
COLUMNS: dict[str, AnyColumn] = {
    "protein": ProteinColumn(type="protein", max_length=4),
    "protein cut": ProteinColumn(type="protein", max_length=4, too_long="truncate", **MARKED),
    "nucleotide": NucleotideColumn(type="nucleotide", max_length=4, **MARKED),
    "molecule": MoleculeColumn(type="molecule", max_length=6),
    "text": TextColumn(type="text", max_length=8, max_characters=5),
    "text refused": TextColumn(type="text", max_length=8, max_characters=5, too_long="refuse", **MARKED),
    "label": LabelColumn(type="label"),
    "category": CategoryColumn(type="category", vocabulary=("a", "1", "true"), **MARKED),
    "number": NumberColumn(type="number", bounds=(-5.0, 10.0)),
    "number marked": NumberColumn(type="number", bounds=(-5.0, 10.0), **MARKED),
    "integer": NumberColumn(type="number", bounds=(-5.0, 10.0), integer=True, missing="allowed"),
    "decimals": NumberColumn(type="number", bounds=(-5.0, 10.0), decimals=1, missing="allowed"),
    "identifier": IdentifierColumn(type="identifier"),
}


def plainly(cell: str | None, column: AnyColumn) -> tuple[str | float | None, set[Finding]]:
    """Return one cell of text as the contract has it, and what is to be told of it."""
    text = "" if cell is None else cell.strip()
    if text == "" or text in column.missing_markers:
        return None, {Finding.missing_value} if column.missing == "refused" else set()
    if isinstance(column, NumberColumn):
        return number_of(text, column)
    if isinstance(column, LabelColumn):
        return text, set() if text in LABELS else {Finding.label_unknown}
    if isinstance(column, CategoryColumn):
        return text, set() if text in column.vocabulary else {Finding.unseen}
    found = set()
    letters, limit, cut = "", getattr(column, "max_length", 0), getattr(column, "too_long", "refuse")
    match column:
        case ProteinColumn():
            text, letters, finding = ascii_upper(text), "".join(RESIDUES), Finding.residue_invalid
        case NucleotideColumn():
            text, letters = ascii_upper(text).replace("U", "T"), "".join(NUCLEOTIDES)
            finding = Finding.nucleotide_invalid
        case MoleculeColumn():
            letters, finding = "".join(SMILES_CHARACTERS), Finding.molecule_characters
        case TextColumn():
            text, limit = " ".join(text.split()), column.max_characters
        case IdentifierColumn():
            limit = column.max_characters
    if letters and not set(text) <= set(letters):
        found.add(finding)
    if len(text) > limit:
        found.add(Finding.cut if cut == "truncate" else Finding.too_long)
    return text[:limit], found


def number_of(text: str, column: NumberColumn) -> tuple[float | None, set[Finding]]:
    if len(text) > 400 or not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return None, {Finding.not_a_number}
    value = float(text)
    if math.isinf(value) or (column.integer and value != math.floor(value)):
        return None, {Finding.not_a_number}
    if column.decimals is not None:
        value = float(np.rint(value * 10.0**column.decimals)) / 10.0**column.decimals
    low, high = column.bounds
    return value, set() if low <= value <= high else {Finding.number_out_of_bounds}


def ascii_upper(text: str) -> str:
    return "".join(one.upper() if one.isascii() else one for one in text)


def found_in(cells: pa.Array, column: AnyColumn) -> tuple[list[Any], list[set[Finding]]]:
    """Return the values, None where an error was found, and the findings of each row."""
    checked = check_column(cells, column, LABELS)
    assert checked.values.type == (pa.float64() if isinstance(column, NumberColumn) else pa.string())
    findings: list[set[Finding]] = [set() for _ in range(len(cells))]
    for finding, mask in checked.findings.items():
        assert mask.dtype == bool
        assert mask.any()
        for row in np.flatnonzero(mask):
            findings[row].add(finding)
    return without_errors(checked.values.to_pylist(), findings), findings


def without_errors(values: Sequence[Any], findings: Sequence[set[Finding]]) -> list[Any]:
    return [
        None if any(one.is_error for one in found) else value
        for value, found in zip(values, findings, strict=True)
    ]


LETTERS = ["A", "c", "U", "N", "X", "ß", "1", "-", ".", "e", "5", "NA", "-9", "true", "yes"]
SIGNS = [
    "=O",
    ">",
    "+",
    "1e5",
    "1e999",
    "٣",
    "\U0001d49c",
    " ",
    "\t",
    "\xa0",
    "\u2028",
    "\x1c",
    "\x85",
    "\n",
    "\0",
]
PIECES = st.sampled_from([*LETTERS, *SIGNS])
CELL = st.none() | st.text(max_size=6) | st.lists(PIECES, max_size=6).map("".join)


@pytest.mark.parametrize("name", COLUMNS)
@given(cells=st.lists(CELL, max_size=12))
def test_text_is_read_as_a_plain_reader_reads_it(name: str, cells: list[str | None]) -> None:
    expected = [plainly(cell, COLUMNS[name]) for cell in cells]
    findings = [found for _, found in expected]
    values = without_errors([value for value, _ in expected], findings)
    for kind in (pa.string(), pa.large_string()):
        assert found_in(pa.array(cells, kind), COLUMNS[name]) == (values, findings)


EVERY: Mapping[str, tuple[str, str, set[Finding]]] = {
    "protein": ("cass", "CASSL", {Finding.too_long}),
    "protein cut": ("cass", "CASSL", {Finding.cut}),
    "nucleotide": ("acgu", "ACGR", {Finding.nucleotide_invalid}),
    "molecule": ("C=O", "C>O", {Finding.molecule_characters}),
    "text": ("a  b", "abcdef", {Finding.cut}),
    "text refused": ("a  b", "abcdef", {Finding.too_long}),
    "label": ("yes", "Yes", {Finding.label_unknown}),
    "category": ("a", "b", {Finding.unseen}),
    "number": ("1e1", "10.1", {Finding.number_out_of_bounds}),
    "number marked": ("-4", "4,5", {Finding.not_a_number}),
    "integer": ("3.0", "3.5", {Finding.not_a_number}),
    "decimals": ("10.04", "10.06", {Finding.number_out_of_bounds}),
    "identifier": ("007", "7" * 201, {Finding.too_long}),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_every_type_has_its_findings(name: str) -> None:
    good, bad, finding = EVERY[name]
    column = COLUMNS[name]
    values, findings = found_in(pa.array([good, bad, None]), column)
    missing = {Finding.missing_value} if column.missing == "refused" else set()
    assert findings == [set(), finding, missing]
    wanted = {
        "protein": "CASS",
        "protein cut": "CASS",
        "nucleotide": "ACGT",
        "text": "a b",
        "text refused": "a b",
        "number": 10.0,
        "number marked": -4.0,
        "integer": 3.0,
        "decimals": 10.0,
    }
    assert values[0] == wanted.get(name, good)


@pytest.mark.parametrize("name", ["number", "number marked", "integer", "decimals"])
@given(number=st.decimals(-6, 11, places=4) | st.integers(-6, 11).map(Decimal))
def test_the_same_number_is_the_same_value_however_it_comes(name: str, number: Decimal) -> None:
    expected = found_in(pa.array([f"{number:f}"]), COLUMNS[name])
    doubles = pa.array([float(number)])
    given_as = [
        pa.array([number], pa.decimal128(20, 4)),
        pa.array([number], pa.decimal256(40, 10)),
        doubles,
        doubles.dictionary_encode(),
        pa.array([f"+{number:f}" if number >= 0 else f"{number:f}"]),
        pa.array([f"{number:f}"]).dictionary_encode(),
        *([pa.array([int(number)], pa.int8()), pa.array([int(number)])] if number == int(number) else []),
    ]
    if "." in f"{number:f}" and number == int(number) and name == "number marked":
        expected = found_in(pa.array([str(int(number))]), COLUMNS[name])  # a marker is compared as text
        given_as = [one for one in given_as if not pa.types.is_string(one.type)][:3]
    for cells in given_as:
        assert found_in(cells, COLUMNS[name]) == expected


def test_a_decimal_is_the_double_nearest_to_its_digits() -> None:
    digits = ["0.1", "2.675", "1234567890123456.789", "0.0000001"]
    cells = pa.array([Decimal(one) for one in digits], pa.decimal128(38, 10))
    column = NumberColumn(type="number", bounds=(0.0, 1e18))
    assert check_column(cells, column).values.to_pylist() == [float(one) for one in digits]


def test_numbers_where_text_is_wanted_are_whole_or_shortest() -> None:
    column = IdentifierColumn(type="identifier", missing="allowed")
    for cells, texts in [
        (pa.array([7, None, -1]), ["7", None, "-1"]),
        (pa.array([2**63 + 1], pa.uint64()), [str(2**63 + 1)]),
        (pa.array([7.0, 0.1, 1e300, None]), ["7", "0.1", "1e+300", None]),
        (pa.array([7.0, 0.1]).dictionary_encode(), ["7", "0.1"]),
        (pa.array([0.5], pa.float16()), ["0.5"]),
        (pa.array([Decimal("7.00")], pa.decimal128(5, 2)), ["7"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([date(2020, 2, 29)]), ["2020-02-29"]),
        (pa.nulls(2), [None, None]),
        (pa.array([" b ", "b"]).dictionary_encode(), ["b", "b"]),
    ]:
        assert check_column(cells, column).values.to_pylist() == texts
        assert to_text(cells).to_pylist() == texts


@pytest.mark.parametrize("name", ["number", "number marked", "integer"])
def test_what_is_not_finite_is_no_number_and_never_missing(name: str) -> None:
    cells = pa.array([math.nan, math.inf, -math.inf, 2.0])
    _, findings = found_in(cells, COLUMNS[name])
    assert findings == [{Finding.not_a_number}] * 3 + [set()]


def test_zero_has_no_sign_and_rounding_does_not_overflow() -> None:
    column = NumberColumn(type="number", bounds=(-1.0, 1.0), decimals=12)
    checked = check_column(pa.array([-0.0, -1e-13, 1e308]), column)
    assert [math.copysign(1, one) for one in checked.values.to_pylist()[:2]] == [1.0, 1.0]
    assert checked.findings[Finding.number_out_of_bounds].tolist() == [False, False, True]


def test_numbers_of_any_cells_are_null_where_there_is_nothing_and_nan_where_there_is_no_number() -> None:
    found = to_numbers(pa.array([" 1e2 ", "", None, "x", "nan"])).to_pylist()
    assert found[:3] == [100.0, None, None]
    assert all(math.isnan(one) for one in found[3:])
    assert to_numbers(pa.array([1, None])).to_pylist() == [1.0, None]
    assert to_numbers(pa.array([0.5, 0.5]).dictionary_encode()).to_pylist() == [0.5, 0.5]


def test_a_slice_of_a_column_is_read_as_itself() -> None:
    cells = pa.array(["x", "CASS", None, "casx", "CASSL"]).slice(1, 3)
    assert found_in(cells, COLUMNS["protein"]) == (
        ["CASS", None, None],
        [set(), {Finding.missing_value}, {Finding.residue_invalid}],
    )
