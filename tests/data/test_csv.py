"""Tables that meet the contract, and every way in which a file may not."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from plasmid.core.errors import DataError
from plasmid.data.views.reading import read_table
from plasmid.recipes.columns import (
    CategoryColumn,
    Contract,
    IdentifierColumn,
    LabelColumn,
    NumberColumn,
    ProteinColumn,
    TextColumn,
)
from plasmid.recipes.query import mean_from_bounds

PROTEIN = ProteinColumn(type="protein", max_length=10, too_long="truncate")
CONTRACT = Contract(
    {
        "cdr3": PROTEIN,
        "v": CategoryColumn(
            type="category", vocabulary=("V1", "V2"), missing="allowed", missing_markers=("NA",)
        ),
        "age": NumberColumn(type="number", bounds=(0, 120), missing="allowed", required=False),
        "label": LabelColumn(type="label"),
    },
    labels=("0", "1"),
    max_rows=100,
)
GOOD = "x,label,cdr3,v,age\n,1,CASS,V1,31.0\n,0, cass ,NA,\n,1,CASSLDLLAGGIYDTQYF,V9,1e2\n"


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "site.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, contract: Contract = CONTRACT) -> DataError:
    with pytest.raises(DataError) as caught:
        read_table(path, contract)
    return caught.value


def test_a_good_file_with_other_columns_and_another_order(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, GOOD), CONTRACT)
    assert table.rows == 3
    assert list(table.columns) == ["cdr3", "v", "age", "label"]
    assert table.columns["cdr3"] == ["CASS", "CASS", "CASSLDLLAG"]
    assert table.columns["v"] == ["V1", None, "V9"]
    assert table.columns["age"] == [31.0, None, 100.0]
    assert table.columns["label"] == ["1", "0", "1"]
    assert table.notices == (
        "column 'cdr3': 1 value cut to their first 10 residues (first at line 4)",
        "column 'v': 1 value outside the vocabulary, so the model sees them as 'unseen' (first at line 4)",
    )


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\n\n"),
        GOOD.replace("label", " label "),
        GOOD.replace("CASS,", '"CASS",'),
    ],
)
def test_harmless_variations(tmp_path: Path, content: str) -> None:
    expected = read_table(write(tmp_path, GOOD), CONTRACT)
    assert read_table(write(tmp_path, content), CONTRACT).columns == expected.columns


def test_a_column_that_is_not_required_may_be_absent_and_labels_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "cdr3,v\nCASS,V1\n")
    table = read_table(path, CONTRACT, labels=False)
    assert table.columns == {"cdr3": ["CASS"], "v": ["V1"], "age": [None]}
    assert refused(path).code == "data.column_missing"


def test_all_problems_are_told_at_once_with_counts_and_first_lines(tmp_path: Path) -> None:
    rows = ["cdr3,age,label", "CAXS,130,1", "CASS,old,1.0", ",nan,0", "CA*S,-1,yes", "CASS,1,1,9"]
    error = refused(write(tmp_path, "\n".join(rows) + "\n"))
    assert error.code == "data.column_missing"
    assert [line.strip() for line in error.message.splitlines()[1:]] == [
        "column 'v' is missing",
        "column 'cdr3': 2 values with a letter that is not one of the 20 amino acids (first at line 2)",
        "column 'age': 2 values outside 0 to 120 (first at line 2)",
        "column 'age': 2 values not a number (first at line 3)",
        "column 'label': 2 values not one of the task's labels (first at line 3)",
        "column 'cdr3': 1 value missing (first at line 4)",
        "1 row with another number of cells than the header (first at line 6)",
    ]
    assert "'1.0' is not '1'" in error.hint


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        ("", "data.empty", ""),
        ("\n\n", "data.empty", ""),
        ("cdr3,v,age,label\n", "data.empty", ""),
        (b"cdr3,v,label\nCASS,V\xff,1\n", "data.not_utf8", ""),
        (GOOD.encode("utf-16"), "data.not_utf8", ""),
        ("cdr3,v,label\nCA\0SS,V1,1\n", "data.nul_character", "line 2"),
        ("cdr3,v,cdr3,label\nCASS,V1,CASS,1\n", "data.column_repeated", ""),
        ("cdr3,v,label\nCASS,V1\n", "data.ragged_row", "line 2"),
        ("cdr3,v,label\nCASS,V1,1\nCASS,V1,1,1\n", "data.ragged_row", "line 3"),
        ('cdr3,v,label\n"CA\nSS",V1,1\n', "data.residue_invalid", "line 2"),
        ('cdr3,v,label\nCASS,V1,1\n"CASS,V1,1\n', "data.not_csv", "line 3"),
        ('cdr3,v,label\n"CA"SS,V1,1\n', "data.not_csv", "line 2"),
        ("cdr3,v,label\n" + "C" * 1_100_000 + ",V1,1\n", "data.line_too_long", "line 2"),
        ("cdr3,v,label\n" + "CASS,V1,1\n" * 101, "data.too_many_rows", ""),
        ("cdr3,v,label\nCAß,V1,1\n", "data.residue_invalid", "line 2"),
        ("cdr3,v,label\nCASS,V1, \n", "data.missing_value", "line 2"),
        ("cdr3,v,label,age\nCASS,V1,1,1_0\n", "data.not_a_number", "line 2"),
        ("cdr3,v,label,age\nCASS,V1,1,1e999\n", "data.not_a_number", "line 2"),
        ("cdr3,v,label,age\nCASS,V1,1,٣\n", "data.not_a_number", "line 2"),
        ("cdr3,v,label,age\nCASS,V1,1," + "9" * 100_000 + "\n", "data.not_a_number", "line 2"),
    ],
)
def test_a_file_that_is_refused(tmp_path: Path, content: str | bytes, code: str, line: str) -> None:
    error = refused(write(tmp_path, content))
    assert error.code == code
    assert line in error.message
    assert error.hint


def test_lines_are_counted_through_quoted_line_breaks(tmp_path: Path) -> None:
    contract = Contract(
        {"text": TextColumn(type="text", max_length=64), "label": LabelColumn(type="label")}, ("a",)
    )
    table = read_table(write(tmp_path, 'text,label\n"one\r\ntwo",a\n'), contract)
    assert table.columns["text"] == ["one two"]
    error = refused(write(tmp_path, 'text,label\n"one\n\ntwo",a\nthree,b\n'), contract)
    assert "line 5" in error.message


def test_too_long_is_refused_where_the_contract_says_so(tmp_path: Path) -> None:
    columns = {"cdr3": PROTEIN.model_copy(update={"too_long": "refuse"})}
    error = refused(write(tmp_path, "cdr3\nCASSLDLLAGG\n"), Contract(columns))
    assert error.code == "data.too_long"
    assert "1 value longer than 10 residues (first at line 2)" in error.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.csv", tmp_path, tmp_path / "a\0b", Path("/dev/null")):
        assert refused(path).code == "data.unreadable"


@pytest.mark.parametrize(
    "row",
    ["CANARYX,V1,1", "CASS,V1,CANARY", "CASS,V1,1,CANARY", '"CANARY"X,V1,1', "CASS,V1,1\n\xa0CANARY\0"],
)
def test_no_cell_is_ever_shown(tmp_path: Path, row: str) -> None:
    path = write(tmp_path, f"cdr3,v,label\n{row}\n")
    with pytest.raises(DataError) as caught:
        read_table(path, CONTRACT)
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "CANARY" not in text
    assert caught.value.__context__ is None


def test_a_file_without_a_header_does_not_have_its_first_row_shown(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "CANARY,CASSVW,1\nCASS,V1,1\n"))
    assert error.code == "data.column_missing"
    assert "CANARY" not in str(error)
    assert "casvw" not in str(error).lower()


def test_a_near_miss_in_the_header_is_pointed_out(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "CDR3,v,label\nCASS,V1,1\n"))
    assert "column 'cdr3' is missing (is it the column 'CDR3'?)" in error.message


def test_a_query_reads_its_one_column_and_nothing_else(tmp_path: Path) -> None:
    contract = mean_from_bounds("age", (0, 120)).contract
    table = read_table(write(tmp_path, "cdr3,age\n***,31\n,\n,7.5\n"), contract)
    assert table.columns == {"age": [31.0, None, 7.5]}


IDENTIFIED = Contract(
    {
        "who": IdentifierColumn(type="identifier"),
        "text": TextColumn(type="text", max_length=64),
        "label": LabelColumn(type="label"),
    },
    ("a",),
)


def test_identifiers_are_compared_exactly_and_left_out_of_what_is_predicted(tmp_path: Path) -> None:
    path = write(tmp_path, "who,text,label\n007,x,a\n 7 ,y,a\n007,z,a\nA B,z,a\n")
    table = read_table(path, IDENTIFIED)
    assert table.columns["who"] == ["007", "7", "007", "A B"]
    assert table.groups("who") == [[0, 2], [1], [3]]
    assert list(read_table(path, IDENTIFIED, labels=False).columns) == ["text"]


@pytest.mark.parametrize(
    ("cell", "code", "what"),
    [
        ("", "data.missing_value", "column 'who': 1 value missing (first at line 3)"),
        (
            "CANARY" * 40,
            "data.too_long",
            "column 'who': 1 value longer than 200 characters (first at line 3)",
        ),
    ],
)
def test_an_identifier_that_is_refused_is_not_shown(tmp_path: Path, cell: str, code: str, what: str) -> None:
    error = refused(write(tmp_path, f"who,text,label\nCANARY,x,a\n{cell},y,a\n"), IDENTIFIED)
    assert error.code == code
    assert what in error.message
    assert "CANARY" not in "".join(traceback.format_exception(error))
