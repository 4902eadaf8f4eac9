"""Rows on their way to the contract: columns by name, who is held out, and lines that stay the right ones."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from plasmid.core.errors import DataError
from plasmid.data.findings import Tally
from plasmid.data.settings import TableMap, ViewFile
from plasmid.data.snapshot import Snapshot
from plasmid.data.sources.files import open_files
from plasmid.data.table import Table
from plasmid.data.views import rows as module
from plasmid.data.views.reading import Collector, read_table
from plasmid.data.views.rows import Rows, flat_query, wanted_columns
from plasmid.data.views.viewing import query_of, transforms_of
from plasmid.recipes.columns import (
    CategoryColumn,
    Contract,
    IdentifierColumn,
    LabelColumn,
    NumberColumn,
    ProteinColumn,
)
from plasmid.recipes.schema import Holdout

CONTRACT = Contract(
    {
        "who": IdentifierColumn(type="identifier"),
        "cdr3": ProteinColumn(type="protein", max_length=20),
        "gene": CategoryColumn(type="category", vocabulary=("a", "b"), missing="allowed", required=False),
        "weight": NumberColumn(type="number", bounds=(0, 300), unit="kg", missing="allowed", required=False),
        "label": LabelColumn(type="label"),
    },
    ("no", "yes"),
)
WANTED = wanted_columns(CONTRACT, labels=True)
HEAD = "who,cdr3,gene,weight,label\n"
KEY = bytes(range(32))


def opened(
    path: Path,
    view: dict[str, Any] | None = None,
    *,
    holdout: Holdout | None = None,
    contract: Contract = CONTRACT,
) -> tuple[Table, Any, Any]:
    """Return the rows of a view of the files at *path*, its figures, and whose rows they are."""
    file = ViewFile.model_validate({"tables": {}, **(view or {})})
    wanted = wanted_columns(contract, labels=True)
    patient = "who" if "who" in wanted else None
    chain = transforms_of(file, wanted, path.parent, key=KEY, patient=patient)
    source = open_files(path)
    try:
        tally = Tally()
        query = query_of(source, file, None, wanted, tally, today=date(2026, 1, 1))
        rows = Rows(source, query, "the view", wanted, contract, transforms=chain, tally=tally)
        collector = Collector(wanted, path.parent / "scratch", patient=patient, holdout=holdout, key=KEY)
        for batch in rows:
            collector.add(batch)
        descriptor, figures, people = collector.finish(rows.notices)
        assert descriptor is not None
        return Snapshot(descriptor).table(), figures, people
    finally:
        source.close()


def refusal(path: Path, view: dict[str, Any] | None = None, contract: Contract = CONTRACT) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(path, view, contract=contract)
    assert "CANARY" not in str(caught.value)
    return caught.value


def sentences(error: DataError) -> list[str]:
    return [line.strip() for line in error.message.splitlines()[1:]]


# -- which columns -------------------------------------------------------------------------------------


def test_a_mapping_finds_columns_converts_them_and_leaves_the_rest_unread(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("Sequenz,pat,Gewicht,Befund,secret\nCASS,p1,70000,1,CANARY\nACDE,p2,,0,CANARY\n")
    rows = {
        "table": "export",
        "columns": {
            "who": "pat",
            "cdr3": "Sequenz",
            "weight": {"column": "Gewicht", "unit": "g"},
            "label": {"column": "Befund", "codes": {"0": "no", "1": "yes"}},
        },
    }
    table, figures, people = opened(path, {"tables": {"rows": rows}})
    assert sorted(table.records(), key=lambda row: str(row["who"])) == [
        {"who": "p1", "cdr3": "CASS", "gene": None, "weight": 70.0, "label": "yes"},
        {"who": "p2", "cdr3": "ACDE", "gene": None, "weight": None, "label": "no"},
    ]
    assert (figures.rows, figures.people, len(people)) == (2, 2, 2)


def test_missing_and_repeated_columns_are_told_together_with_near_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("who,CDR3,gene,gene,lable,CANARY\np1,CASS,a,b,yes,x\n")
    error = refusal(path, {"tables": {"rows": {"table": "a", "columns": {"weight": "Gewicht"}}}})
    assert error.code == "data.column_missing"
    assert sentences(error)[:4] == [
        "column 'cdr3' is missing (is it the column 'CDR3'?)",
        "column 'gene' is in the header 2 times",
        "column 'Gewicht' is missing",
        "column 'label' is missing (is it the column 'lable'?)",
    ]
    assert "map them in the view" in error.hint
    assert "Keep one column" in error.hint


def test_an_unknown_table_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    for name in ("people", "visits"):
        (tmp_path / f"{name}.csv").write_text(HEAD + "p1,CASS,a,1,yes\n")
    error = refusal(tmp_path, {"tables": {"rows": {"table": "poeple"}}})
    assert (error.code, error.message) == (
        "data.source_table",
        "there is no table 'poeple' (is it 'people'?).",
    )
    error = refusal(tmp_path)
    assert error.code == "data.mapping_missing"
    assert "2 tables" in error.message


def test_a_table_without_any_column_of_the_contract_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,CANARY\n")
    source, tally = open_files(tmp_path), Tally()
    optional = {"gene": WANTED["gene"]}
    with pytest.raises(DataError, match="no column of the contract") as caught:
        flat_query(source, TableMap(table="a"), optional, tally)
    assert caught.value.code == "data.column_missing"


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.binary(), pa.large_binary()])
def test_lists_and_bytes_are_no_cells(tmp_path: Path, kind: pa.DataType) -> None:
    cell: Any = ["CANARY"] if pa.types.is_list(kind) else b"CANARY"
    columns = {"who": ["p1"], "cdr3": ["CASS"], "gene": pa.array([cell], kind), "label": ["yes"]}
    pa.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    error = refusal(tmp_path)
    assert error.code == "data.source_value"
    assert "column 'gene'" in error.message


# -- held out ------------------------------------------------------------------------------------------


def world(people: int = 400) -> list[str]:
    source = random.Random(1)
    return [
        f"p{one},{''.join(source.choices('ACDEFGH', k=9))},a,{one % 90},{('no', 'yes')[one % 2]}"
        for one in range(people)
        for _ in range(1 + one % 3)
    ]


def trained(table: Table) -> set[Any]:
    return set(table.columns["who"])


def test_the_same_people_are_held_out_at_every_site_and_in_every_order(tmp_path: Path) -> None:
    lines, holdout = world(), Holdout(by="patient", share=0.3, seed=7)
    everybody = {line.split(",")[0] for line in lines}
    (tmp_path / "a.csv").write_text(HEAD + "\n".join(lines))
    table, figures, people = opened(tmp_path / "a.csv", holdout=holdout)
    out = everybody - trained(table)
    assert 0.24 < len(out) / len(everybody) < 0.36  # 2.6 standard deviations
    assert figures.held_out == sum(line.split(",")[0] in out for line in lines)
    assert figures.rows + figures.held_out == len(lines)
    assert figures.people == len(people) == len(everybody) - len(out)

    random.Random(2).shuffle(lines)
    (tmp_path / "b.csv").write_text(HEAD + "\n".join(lines))
    again, same, _ = opened(tmp_path / "b.csv", holdout=holdout)
    assert again == table
    assert same.digest == figures.digest

    # half of the people at another site, other cells, another connector
    some = [line.split(",") for line in lines if int(line.split(",")[0][1:]) % 2]
    columns = {name: [line[place] for line in some] for place, name in enumerate(HEAD.strip().split(","))}
    columns["weight"] = ["1" for _ in some]
    pa.parquet.write_table(pa.table(columns), tmp_path / "c.parquet")
    other, _, _ = opened(tmp_path / "c.parquet", holdout=holdout)
    here = {line[0] for line in some}
    assert here - trained(other) == out & here

    reseeded, _, _ = opened(tmp_path / "a.csv", holdout=holdout.model_copy(update={"seed": 8}))
    assert everybody - trained(reseeded) != out


def test_rows_are_held_out_by_what_is_in_them(tmp_path: Path) -> None:
    lines, holdout = world(), Holdout(by="record", share=0.5, seed=3)
    (tmp_path / "a.csv").write_text(HEAD + "\n".join(lines))
    table, figures, _ = opened(tmp_path / "a.csv", holdout=holdout)
    assert 0.44 < figures.held_out / len(lines) < 0.56
    (tmp_path / "a.csv").write_text(HEAD + "\n".join(reversed([*lines, *lines])))
    twice, more, _ = opened(tmp_path / "a.csv", holdout=holdout)
    assert more.held_out == 2 * figures.held_out
    assert {tuple(row.values()) for row in twice.records()} == {
        tuple(row.values()) for row in table.records()
    }


# -- lines ---------------------------------------------------------------------------------------------


def test_transforms_change_row_numbers_and_messages_still_name_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE_BYTES", 200)  # many batches
    lines = [f"p{row},CASS,a,{row % 90},yes" for row in range(300)]
    lines[250] = "p250,CAXS,a,1,yes"
    lines[270] = "p270,CAXS,CANARY,1,yes"
    path = tmp_path / "data" / "a.csv"
    path.parent.mkdir()
    path.write_text(HEAD + "\n\n".join(lines))  # each second line is blank
    (tmp_path / "data" / "optout.txt").write_text("".join(f"p{row}\n" for row in range(200)))
    view = {"transforms": [{"opt_out": {"file": "optout.txt"}}]}
    error = refusal(path, view)
    assert sentences(error) == [
        "column 'cdr3': 2 values with a letter that is not one of the 20 amino acids (first at line 502)"
    ]
    lines[250], lines[270] = lines[249], "p270,CASS,zz,1,yes"
    path.write_text(HEAD + "\n\n".join(lines))
    table, figures, _ = opened(path, view)
    assert figures.rows == 100
    assert "(first at line 542)" in table.notices[0]


def test_more_rows_than_the_contract_takes_are_refused_and_removed_ones_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "".join(f"p{row},CASS,a,1,yes\n" for row in range(20)))
    small = Contract(CONTRACT.columns, CONTRACT.labels, max_rows=10)
    assert refusal(path, contract=small).code == "data.too_many_rows"
    (tmp_path / "optout.txt").write_text("".join(f"p{row}\n" for row in range(10)))
    view = {"transforms": [{"opt_out": {"file": "optout.txt"}}]}
    assert opened(path, view, contract=small)[1].rows == 10
    (tmp_path / "optout.txt").write_text("".join(f"p{row}\n" for row in range(20)))
    assert "no rows that may be used" in refusal(path, view).message


def test_a_value_that_the_mapping_does_not_list_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "p1,CASS,m,1,yes\np2,CASS,CANARY,1,yes\np3,CASS,CANARY,1,yes\n")
    rows = {"table": "a", "columns": {"gene": {"column": "gene", "codes": {"m": "a"}}}}
    error = refusal(path, {"tables": {"rows": rows}})
    assert error.code == "data.code_unmapped"
    assert sentences(error) == [
        "column 'gene': 2 values that the view's mapping does not list (first at line 3)"
    ]


def test_a_long_file_keeps_its_order_and_its_lines(tmp_path: Path) -> None:
    """DuckDB reads it with several threads."""
    path = tmp_path / "a.csv"
    lines = [f"p{row},{'ACDEFGHIKL'[row % 10] * 9},a,{row % 250},yes" for row in range(300_000)]
    lines[287_654] = "p1,CASX,a,1,yes"
    path.write_text(HEAD + "\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_table(path, CONTRACT)
    assert "(first at line 287656)" in caught.value.message
    lines[287_654] = "p1,CASS,a,1,yes"
    path.write_text(HEAD + "\n".join(lines))
    table = read_table(path, CONTRACT)
    assert table.columns["weight"] == [float(row % 250) if row != 287_654 else 1.0 for row in range(300_000)]


def test_nothing_is_told_of_a_person_who_opted_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "p1,CASS,x,1,yes\np2,CASS,y,1,no\n")
    columns = {"gene": {"column": "gene", "codes": {"y": "b"}}}
    view = {"tables": {"rows": {"table": "a", "columns": columns}}}
    assert refusal(path, view).code == "data.code_unmapped"
    (tmp_path / "optout.txt").write_text("p1\n")
    table, figures, _ = opened(path, {**view, "transforms": [{"opt_out": {"file": "optout.txt"}}]})
    assert (table.columns["gene"], figures.rows) == (["b"], 1)
