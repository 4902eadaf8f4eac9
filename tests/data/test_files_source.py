"""Files as tables: what is found and refused, two readers of CSV that agree, a query that gets no further."""

from __future__ import annotations

import csv
import io
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.sources import csv_arrow
from plasmid.data.sources import files as module
from plasmid.data.sources import single_file as plain
from plasmid.data.sources.files import FilesSource, open_file, open_files
from plasmid.data.sources.single_file import strict

CANARY = "Ms-Confidential"
ROWS = [{"id": "1", "note": "a"}, {"id": "2", "note": CANARY}, {"id": "3", "note": "c"}]
TABLE = pa.table({name: [row[name] for row in ROWS] for name in ("id", "note")})
CSV = "id,note\n" + "".join(f"{row['id']},{row['note']}\n" for row in ROWS)


def rows(source: FilesSource, text: str) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    parsed = sqlglot.parse_one(text, dialect="duckdb")
    assert isinstance(parsed, exp.Select)
    return [row for batch in source.select(parsed) for row in batch.to_pylist()]


def read(path: Path, text: str) -> list[dict[str, Any]]:
    source = open_files(path)
    try:
        return rows(source, text)
    finally:
        source.close()


def refused(code: str, work: Callable[[], Any], *words: str) -> DataError:
    """The error has its code and says *words*; it shows no cell, and no exception hangs on to it."""
    with pytest.raises(DataError) as caught:
        work()
    assert caught.value.code == code
    for word in words:
        assert word in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None
    return caught.value


# -- folders -------------------------------------------------------------------------------------------


def test_a_folder_is_a_table_for_each_file_that_is_one(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(CSV)
    pa.parquet.write_table(TABLE, tmp_path / "visits.parquet")
    pa.feather.write_feather(TABLE, tmp_path / "notes.feather")
    (tmp_path / "chains.fasta").write_text(f">s1 gene=V1 who={CANARY}\nCASS\n>s2 gene=V2\nACDE\n")
    (tmp_path / "readme.txt").write_text("not a table")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "more.csv").write_text(CSV)
    source = open_files(tmp_path)
    tables = source.tables()
    assert {name: list(one.columns) for name, one in tables.items()} == {
        "chains": ["id", "description", "sequence", "gene", "who"],
        "notes": ["id", "note"],
        "people": ["id", "note"],
        "visits": ["id", "note"],
    }
    assert {name: one.rows for name, one in tables.items()} == {
        "chains": None, "notes": None, "people": None, "visits": 3,
    }  # fmt: skip
    for table in ("people", "visits", "notes"):
        assert rows(source, f'SELECT s.id AS id, s.note AS note FROM "{table}" AS s') == ROWS
    assert rows(source, "SELECT s.sequence AS q, s.gene AS g FROM chains AS s") == [
        {"q": "CASS", "g": "V1"},
        {"q": "ACDE", "g": "V2"},
    ]
    joined = "SELECT p.id AS a, v.note AS b FROM people AS p JOIN notes AS v ON p.id = v.id ORDER BY 1 DESC"
    assert rows(source, joined)[0] == {"a": "3", "b": "c"}
    source.close()
    source.close()


@pytest.mark.parametrize(("one", "other"), [("a.csv", "a.parquet"), ("a.csv", "A.csv"), ("a.fa", "a.fa.gz")])
def test_two_files_that_are_called_alike_are_refused(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / one).write_text(CSV)
    (tmp_path / other).write_text(CSV)
    refused("data.source_table", lambda: open_files(tmp_path), one, other, "Rename one")


def test_nothing_there_no_table_and_no_rights_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused("data.source_down", lambda: open_files(tmp_path / "gone"), "there is nothing at", "gone")
    refused("data.source_empty", lambda: open_files(tmp_path), ".parquet")

    def denied(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", denied)
        refused("data.source_down", lambda: open_files(tmp_path), "Permission denied")
    (tmp_path / "a.csv").write_text(CSV)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        refused("data.unreadable", lambda: open_files(tmp_path).tables(), "a.csv", "Permission denied")


def test_a_link_is_the_file_that_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "export-2.csv").write_text(CSV)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "people.csv").symlink_to(tmp_path / "elsewhere" / "export-2.csv")
    (tmp_path / "data" / "broken.csv").symlink_to(tmp_path / "gone.csv")
    os.mkfifo(tmp_path / "data" / "pipe.csv")  # would never end
    assert read(tmp_path / "data", "SELECT s.id AS id, s.note AS note FROM people AS s") == ROWS
    assert list(open_files(tmp_path / "data").tables()) == ["people"]


@pytest.mark.parametrize(
    "name",
    ["it's", 'a "b" c', "ü ñ 表", "a[1]", "a*", "a?", "{a,b}", "select", "x;y", "50%", "a\\b", "year=2020"],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_any_name_is_that_of_one_file(tmp_path: Path, name: str, ending: str) -> None:
    folder = tmp_path / "site=7" / "it's [x]"
    folder.mkdir(parents=True)
    for stem, table in ((name, TABLE), ("a1", TABLE.slice(0, 0)), ("ab", TABLE.slice(0, 1))):
        if ending == "csv":
            (folder / f"{stem}.csv").write_text(CSV if stem == name else "id,note\n0,other\n")
        else:
            pa.parquet.write_table(table, folder / f"{stem}.parquet")
    quoted = exp.to_identifier(name, quoted=True).sql("duckdb")
    assert read(folder, f"SELECT s.id AS id, s.note AS note FROM {quoted} AS s") == ROWS
    assert list(open_files(folder).tables()[name].columns) == ["id", "note"]


def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "people.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path)
    source = open_file(Path("people.csv"))
    assert rows(source, "SELECT s.id AS id, s.note AS note FROM rows AS s") == ROWS
    source.close()


# -- damage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_damaged_file_is_refused_without_a_cell(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    big = pa.table(
        {"id": [str(row) for row in range(50_000)], "note": [CANARY + str(row) for row in range(50_000)]}
    )
    if ending == "parquet":
        pa.parquet.write_table(big, path, compression="none")
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, big.schema) as out:
            out.write_table(big, max_chunksize=1000)
    sound = path.read_bytes()
    query = "SELECT s.note AS note FROM a AS s"
    assert len(read(tmp_path, query)) == 50_000
    for damaged in (b"", b"PAR1", sound[:-9], CANARY.encode() * 9, sound[: len(sound) // 2]):
        path.write_bytes(damaged)
        refused("data.source_damaged", lambda: read(tmp_path, query), f"a.{ending}")
    middle = len(sound) // 2
    path.write_bytes(sound[:middle] + b"\xff" * 4000 + sound[middle + 4000 :])
    refused("data.source_damaged", lambda: read(tmp_path, query), f"a.{ending}")


def test_what_a_sequence_reader_refuses_comes_out_as_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(f"stray {CANARY}\n>s1\nCASS\n")
    refused(
        "data.not_fasta", lambda: read(tmp_path, "SELECT s.sequence AS q FROM a AS s"), "a.fasta", "line 1"
    )
    (tmp_path / "a.fasta").write_bytes(b">s1\nCASS\n" * 400_000 + b">s2\nCA\0SS\n")
    refused("data.nul_character", lambda: read(tmp_path, "SELECT s.sequence AS q FROM a AS s"), "line 800002")


def test_molecules_come_through_it(tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    atom = "    0.0000    0.0000    0.0000 C   0  0\nM  END\n"
    block = "\n  made\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n" + atom
    (tmp_path / "m.sdf").write_text(f"methane{block}> <assay>\n7\n\n$$$$\n")
    source = open_files(tmp_path)
    assert {"smiles", "assay"} <= set(source.tables()["m"].columns)
    assert rows(source, "SELECT s.smiles AS smiles, s.assay AS assay FROM m AS s") == [
        {"smiles": "C", "assay": "7"}
    ]
    source.close()


# -- names that DuckDB does not tell apart ---------------------------------------------------------------


def test_columns_that_differ_in_case_alone_are_not_taken_for_one_another(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ID,id,note\nx,y,z\n")
    pa.parquet.write_table(pa.table([["x"], ["y"], ["z"]], ["ID", "id", "note"]), tmp_path / "b.parquet")
    source = open_files(tmp_path)
    for table in ("a", "b"):
        assert source.tables()[table].repeated == {"ID": 2, "id": 2}
        query = f"SELECT s.id AS id FROM {table} AS s"
        refused("data.column_repeated", lambda query=query: rows(source, query), "'id'")  # type: ignore[misc]
        assert rows(source, f"SELECT s.note AS n FROM {table} AS s") == [{"n": "z"}]
    source.close()


def test_columns_keep_their_order_and_the_first_of_two_counts(tmp_path: Path) -> None:
    table = pa.table([["x"], [1], ["z"], [2.0]], ["c", "a", "b", "a"])
    pa.feather.write_feather(table, tmp_path / "t.arrow")
    found = open_files(tmp_path).tables()["t"]
    assert list(found.columns.items()) == [("c", "string"), ("a", "int64"), ("b", "string")]
    assert found.repeated == {"a": 2}


# -- two readers of CSV that agree -------------------------------------------------------------------------


def strictly(path: Path, columns: list[str]) -> Any:
    """Return what the strict reader says: rows, or the code of its error."""
    source = open_file(path)
    schema = pa.schema([(one, pa.string()) for one in columns])
    try:
        batches = list(strict(path, schema, lambda *found: source._tell_ragged("rows", *found)))
    except DataError as error:
        return error.code
    table = [row for batch in batches for row in batch.to_pylist()]
    return table if not source.troubles() else [one.sentence for one in source.troubles()]


def through_the_source(path: Path, columns: list[str]) -> Any:
    source = open_file(path)
    try:
        select = ", ".join(f's."{one}" AS "{one}"' for one in columns)
        found = rows(source, f"SELECT {select} FROM rows AS s")
    except DataError as error:
        return error.code
    else:
        return found if not source.troubles() else [one.sentence for one in source.troubles()]
    finally:
        source.close()


def same(one: Any, other: Any) -> bool:
    """Compare rows as a contract does: an empty cell and none are missing, blanks around one are nothing."""
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    plain = [
        [{k: (v or "").strip() for k, v in row.items()} if isinstance(row, dict) else row for row in found]
        for found in (one, other)
    ]
    return bool(plain[0] == plain[1])


LETTERS = st.sampled_from(
    ["a", "b", "1", ",", '"', " ", "\n", "\r", "\r\n", "ü", "表", "\t", "'", ";", "\x0b", "\x85"]
)
CELLS = st.lists(LETTERS, max_size=5).map("".join)


@st.composite
def csv_texts(draw: st.DrawFn) -> tuple[str, int]:
    """CSV as programs write it: any cells, quoting and line end, blank lines, a mark at its beginning."""
    width = draw(st.integers(1, 3))
    text = io.StringIO(newline="")
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    writer = csv.writer(text, quoting=quoting, lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])))
    writer.writerow([f"c{one}" for one in range(width)])
    for _ in range(draw(st.integers(0, 5))):
        writer.writerow(draw(st.lists(CELLS, min_size=width, max_size=width)))
        text.write(draw(st.sampled_from(["", "", "", "\n", "\r\n"])))
    return draw(st.sampled_from(["", "\ufeff", "\n"])) + text.getvalue(), width


@settings(max_examples=40)
@given(made=csv_texts())
def test_both_readers_agree_on_what_programs_write(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[str, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "made.csv"
    path.write_bytes(made[0].encode())
    columns = [f"c{one}" for one in range(made[1])]
    assert same(through_the_source(path, columns), strictly(path, columns))


@settings(max_examples=80)
@given(body=st.lists(LETTERS, max_size=24).map("".join), width=st.integers(1, 3))
def test_both_readers_agree_on_what_nobody_should_write(
    tmp_path_factory: pytest.TempPathFactory, body: str, width: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.csv"
    columns = [f"c{one}" for one in range(width)]
    path.write_bytes((",".join(columns) + "\n" + body).encode())
    assert same(through_the_source(path, columns), strictly(path, columns))


ODD = st.sampled_from(
    [*'ab,,"" ü\t', '""', ',"', '",', '"\n', '\n"', '"\r\n', "\n", "\r", "\r\n", "NULL", "NA"]
)


@settings(max_examples=120)
@given(
    made=st.one_of(
        csv_texts(),
        st.tuples(st.lists(ODD, max_size=30).map(lambda one: "c0,c1\n" + "".join(one)), st.just(2)),
    ),
    size=st.sampled_from([8, 16, 40, 2**20]),
)
def test_rows_read_straight_are_the_strict_reader_s(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[str, int], size: int
) -> None:
    """However a file is cut into parts: all of them, or the first ones and then an error."""
    path = tmp_path_factory.getbasetemp() / "straight.csv"
    path.write_bytes(made[0].encode())
    columns, found = [f"c{one}" for one in range(made[1])], []
    if plain.only_strict(plain.File(path, "csv"), columns, engine=False):
        return
    whole = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_arrow, "_PART_BYTES", size)
        try:
            for batch in plain.straight(plain.File(path, "csv"), columns):
                found += batch.to_pylist()
        except pa.ArrowInvalid:
            whole = False
    expected = strictly(path, columns)
    assert isinstance(expected, list) or not whole
    if isinstance(expected, list) and all(isinstance(row, dict) for row in expected):
        assert same(found, expected if whole else expected[: len(found)])


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_csv_with_quotes_is_read_without_duckdb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quoting: Any
) -> None:
    cells = ["a, b", 'said ""', "one\ntwo", "\r\n", '"', "", "NULL", "ü", ' "x" ', ","]
    expected = [{"id": str(row), "note": cells[row % len(cells)]} for row in range(5000)]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "note"], quoting=quoting)
        writer.writeheader()
        writer.writerows(expected)
    monkeypatch.setattr(csv_arrow, "_PART_BYTES", 3000)
    source = open_files(tmp_path)
    assert rows(source, "SELECT s.id AS id, s.note AS note FROM a AS s") == expected
    assert source._opened is None
    source.close()


@pytest.mark.parametrize("bad", ['"a"b', 'a"b', ' "a"', '"a" ', '"a', "\0", "a\udcff"])
def test_what_could_be_taken_in_two_ways_is_not_read_straight(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "a.csv"
    text = "id,note\n" + "0,a\n" * 5000 + f"1,{bad}\n2,b\n"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for columns in (["id"], ["id", "note"]):
        with pytest.raises(pa.ArrowInvalid):
            list(plain.straight(plain.File(path, "csv"), columns))
    assert same(through_the_source(path, ["id", "note"]), strictly(path, ["id", "note"]))


def test_a_file_of_mixed_line_ends_is_read_whole_however_often_a_query_asks_for_it(tmp_path: Path) -> None:
    """DuckDB refuses it; the strict reader has the last word, and its rows can be read once."""
    made = "".join(
        f"{row},{'x' * 50}{(chr(10), chr(13) + chr(10), chr(13))[row % 3]}" for row in range(20_000)
    )
    (tmp_path / "a.csv").write_bytes(b"id,note\n" + made.encode())
    source = open_files(tmp_path)
    plain = rows(source, "SELECT s.id AS id FROM a AS s")
    assert [row["id"] for row in plain] == [str(row) for row in range(20_000)]
    twice = "SELECT p.id AS id FROM a AS p JOIN a AS q ON p.id = q.id"
    assert len(rows(source, twice)) == 20_000
    named = "WITH w AS (SELECT id FROM a) SELECT p.id AS id FROM w AS p JOIN w AS q ON p.id = q.id"
    assert len(rows(source, named)) == 20_000
    assert rows(source, "SELECT s.id AS id FROM a AS s") == plain
    source.close()


def test_a_stream_is_read_whole_by_every_query(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text("".join(f">s{row}\nCASS\n" for row in range(40_000)))
    source = open_files(tmp_path)
    named = "WITH w AS (SELECT id FROM a) SELECT p.id AS id FROM w AS p JOIN w AS q ON p.id = q.id"
    for query in ("SELECT s.id AS id FROM a AS s", named, "SELECT s.id AS id FROM a AS s"):
        assert len(rows(source, query)) == 40_000
    source.close()


def test_ragged_rows_are_counted_once_with_their_table_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,note\n1,x\n2,{CANARY},3\n4\n")
    (tmp_path / "b.csv").write_text(CSV)
    source = open_files(tmp_path)
    for _ in range(2):
        assert rows(source, "SELECT s.id AS id FROM a AS s") == [{"id": "1"}]
    (trouble,) = source.troubles()
    assert trouble.code == "data.ragged_row"
    assert trouble.sentence == (
        "table 'a': 2 rows with another number of cells than the header (first at line 3)"
    )
    assert source.locate("a", 0) == "line 2"
    assert source.locate("b", 2) == "line 4"
    source.close()


# -- a query gets no further -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT content FROM read_text('{secret}')",
        "SELECT * FROM glob('{folder}/*')",
        "ATTACH '{folder}/new.db' AS other",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY (SELECT note FROM people) TO '{people}'",
        "EXPORT DATABASE '{folder}/out'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_csv('https://127.0.0.1:1/x.csv')",
        "SET enable_external_access = true",
        "SET allowed_paths = ['{secret}']",
        "SET memory_limit = '100GB'",
        "RESET lock_configuration",
        "PRAGMA database_list; SELECT getenv('HOME')",
    ],
)
def test_a_statement_reaches_nothing_but_the_connection_s_files(tmp_path: Path, statement: str) -> None:
    secret = tmp_path / "secret" / "others.csv"
    secret.parent.mkdir()
    secret.write_text(f"note\n{CANARY}\n")
    people = tmp_path / "data" / "people.csv"
    people.parent.mkdir()
    people.write_text(CSV)
    source = open_files(people)
    assert len(rows(source, "SELECT s.id AS id FROM people AS s")) == 3
    text = statement.format(secret=secret, folder=tmp_path / "secret", people=people)
    with pytest.raises(duckdb.Error):
        source._connection.execute(text).fetchall()
    source.close()
    assert sorted(path.name for path in (tmp_path / "secret").iterdir()) == ["others.csv"]
    assert people.read_text() == CSV


def test_a_table_function_in_a_query_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(CSV)
    secret = tmp_path / "secret.txt"
    secret.write_text(CANARY)
    source = open_files(tmp_path)
    query = f"SELECT s.content AS c FROM read_text('{secret}') AS s"
    refused("data.source_damaged", lambda: rows(source, query))
    refused(
        "data.source_damaged", lambda: rows(source, "SELECT s.nothing AS c FROM people AS s"), "people.csv"
    )
    source.close()


def test_what_is_spilled_is_in_a_private_folder_that_goes_with_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    source = open_files(tmp_path / "a.csv", tmp_path / "scratch")
    assert rows(source, "SELECT s.id AS id FROM a AS s ORDER BY s.id")  # what needs DuckDB
    (folder,) = (tmp_path / "scratch").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    source.close()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_types_of_parquet_come_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"n": pa.array([1, None], pa.int32()), "s": ["x", None], "l": [[1], None]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    assert json.dumps(read(tmp_path, "SELECT t.n AS n, t.s AS s FROM t AS t")) == json.dumps(
        [{"n": 1, "s": "x"}, {"n": None, "s": None}]
    )
    assert module.MEMORY_LIMIT == "512MB"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", range(24, 40))
def test_parts_of_a_file_end_where_lines_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, ends: str
) -> None:
    monkeypatch.setattr(csv_arrow, "_PART_BYTES", size)
    lines = ["id,name", *(f"{number},{'x' * (number % 13)}" for number in range(60))]
    path = tmp_path / "a.csv"
    path.write_bytes(ends.join(lines).encode())
    file = plain.File(path, "csv")
    found = [row for batch in plain.straight(file, ["name", "id"]) for row in batch.to_pylist()]
    assert found == [{"name": "x" * (number % 13), "id": str(number)} for number in range(60)]
    path.write_text(f"id,name\n1,{'x' * size}\n2,y\n")
    with pytest.raises(pa.ArrowInvalid, match="too long"):
        list(plain.straight(file, ["id"]))
