"""Predictions of tables of any size: the same scores however they are read, interrupted and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from plasmid.adapters.artifact import read_head
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, PlasmidError, StorageError, UsageError
from plasmid.prediction.evaluation import predict_file
from plasmid.prediction.inputs import FileInput, Input, file_input
from plasmid.prediction.job import Progress, adapter_digest, local, predict_to
from plasmid.prediction.journal import Part, opened
from support.tiny.tiny_adapter import tiny_adapter, tiny_rows

pytestmark = pytest.mark.usefixtures("at_home")
ROWS = 100
BLOCK = 16


@pytest.fixture(scope="module")
def adapter(tiny: dict[str, BaseModel], model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(tmp_path_factory.mktemp("made") / "adapter", tiny["esm"])


def rows_of(adapter: Path, path: Path, **settings: object) -> FileInput:
    return file_input(path, read_head(adapter), **settings)  # type: ignore[arg-type]


def stopping_after(blocks: int) -> Callable[..., Iterator[Part]]:
    """Return the local engine, which is interrupted before it gives one block more."""

    def engine(folder: Path, source: Input, size: int, done: Collection[int]) -> Iterator[Part]:
        for number, part in enumerate(local(folder, source, size, done)):
            if number == blocks:
                raise KeyboardInterrupt
            yield part

    return engine


@pytest.mark.parametrize("ending", ["csv", "parquet", "fasta"])
def test_every_kind_of_file_has_the_scores_of_its_rows(adapter: Path, tmp_path: Path, ending: str) -> None:
    expected = predict_file(adapter, tiny_rows(tmp_path / "rows.csv", ROWS)).answers.values
    data = tiny_rows(tmp_path / f"rows.{ending}", ROWS)
    told: list[Progress] = []
    done = predict_to(
        tmp_path / "out.parquet",
        adapter,
        rows_of(adapter, data, keep=["id"]),
        block_rows=BLOCK,
        progress=told.append,
    )
    table = pa.parquet.read_table(done.out)
    assert table.schema.names == ["id", "no", "yes"]
    assert table.column("id").to_pylist() == [f"r{row}" for row in range(ROWS)]
    np.testing.assert_allclose(table.column("yes").to_numpy(), expected[:, 1], atol=1e-6)
    assert [one.done for one in told] == [0, 16, 32, 48, 64, 80, 96, 100]
    assert {one.rows for one in told} == {ROWS}
    assert (done.rows, done.resumed, done.cut, done.columns) == (ROWS, 0, 0, ("no", "yes"))
    assert any("unseen" in notice for notice in done.notices)
    assert json.loads(table.schema.metadata[b"plasmid"])["adapter"] == adapter_digest(adapter)
    assert not (tmp_path / "out.parquet.parts").exists()


def test_csv_says_what_parquet_says(adapter: Path, tmp_path: Path) -> None:
    data = rows_of(adapter, tiny_rows(tmp_path / "rows.csv", ROWS), keep=["id"])
    for name in ("out.csv", "out.parquet"):
        predict_to(tmp_path / name, adapter, data, block_rows=BLOCK)
    text = pa.csv.read_csv(tmp_path / "out.csv")
    assert text.column_names == ["id", "no", "yes"]
    exact = pa.parquet.read_table(tmp_path / "out.parquet")
    assert text.column("yes").cast(pa.float32()).equals(exact.column("yes"))


def test_an_interrupted_prediction_goes_on_and_ends_bit_for_bit_the_same(
    adapter: Path, tmp_path: Path
) -> None:
    data = rows_of(adapter, tiny_rows(tmp_path / "rows.csv", ROWS))
    whole = predict_to(tmp_path / "whole.parquet", adapter, data, block_rows=BLOCK).out
    out, parts = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    with pytest.raises(KeyboardInterrupt):
        predict_to(out, adapter, data, block_rows=BLOCK, engine=stopping_after(3))
    assert not out.exists()
    with (parts / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"block": 3, "ro')  # as of a process that was killed
    damaged = parts / "00000001.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    asked: list[set[int]] = []

    def watched(folder: Path, source: Input, size: int, done: Collection[int]) -> Iterator[Part]:
        asked.append(set(done))
        return local(folder, source, size, done)

    done = predict_to(out, adapter, data, block_rows=BLOCK, engine=watched)
    assert asked == [{0, 2}]
    assert done.resumed == 2 * BLOCK
    assert out.read_bytes() == whole.read_bytes()


def test_what_changed_meanwhile_is_told(adapter: Path, tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    data, out = tiny_rows(tmp_path / "rows.csv", ROWS), tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        predict_to(out, adapter, rows_of(adapter, data), block_rows=BLOCK, engine=stopping_after(1))

    def refused(folder: Path = adapter, **settings: object) -> str:
        size = settings.pop("block_rows", BLOCK)
        with pytest.raises(UsageError) as error:
            predict_to(out, folder, rows_of(folder, data, **settings), block_rows=size)  # type: ignore[arg-type]
        assert error.value.code == "usage.prediction_differs"
        return error.value.message

    other = tiny_adapter(tmp_path / "other", tiny["esm"], seed=1)
    assert f"adapter: was {adapter_digest(adapter)}, is {adapter_digest(other)}" in refused(other)
    assert "rows of a block: was 16, is 8" in refused(block_rows=8)
    assert 'kept columns: was [], is ["id"]' in refused(keep=["id"])
    size = data.stat().st_size
    with data.open("a") as file:
        file.write("r,ACDEFG,a,no\n")
    message = refused()
    assert f"size of the data in bytes: was {size}, is {size + 14}" in message
    assert "content of the data: was " in message
    assert "ACDEFG" not in message


def test_data_that_change_while_they_are_scored_are_refused(adapter: Path, tmp_path: Path) -> None:
    data, out = tiny_rows(tmp_path / "rows.csv", ROWS), tmp_path / "out.parquet"

    def meddling(folder: Path, source: Input, size: int, done: Collection[int]) -> Iterator[Part]:
        yield from local(folder, source, size, done)
        data.write_text(data.read_text().replace('"r1"', '"r2"'))

    with pytest.raises(DataError) as changed:
        predict_to(out, adapter, rows_of(adapter, data), block_rows=BLOCK, engine=meddling)
    assert changed.value.code == "data.changed"
    assert not out.exists()


def test_bad_rows_are_told_with_count_and_line_before_anything_is_scored(
    adapter: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.csv"
    lines = tiny_rows(data, ROWS).read_text().splitlines()
    lines[90] = 'r,"ACDCANARYX*",a,no'
    lines[95] = 'r,"",a,no'
    data.write_text("\n".join(lines))

    def never(*_: object) -> Iterator[Part]:
        raise AssertionError("nothing is to be scored")

    with pytest.raises(DataError) as bad:
        predict_to(tmp_path / "out.parquet", adapter, rows_of(adapter, data), engine=never)  # type: ignore[arg-type]
    assert bad.value.code == "data.residue_invalid"
    assert (
        "1 value with a letter that is not one of the 20 amino acids (first at line 91)" in bad.value.message
    )
    assert "1 value missing (first at line 96)" in bad.value.message
    assert "CANARY" not in str(bad.value)


def test_rows_that_were_cut_are_told(adapter: Path, tmp_path: Path) -> None:
    head = json.loads((adapter / "head.json").read_text())
    short = tmp_path / "short"
    short.mkdir()
    for file in adapter.iterdir():
        (short / file.name).write_bytes(file.read_bytes())
    (short / "head.json").write_text(json.dumps(head | {"max_length": 12}))
    data = tiny_rows(tmp_path / "rows.csv", ROWS)
    long = sum(len(letters) > 10 for letters in pa.csv.read_csv(data).column("sequence").to_pylist())
    done = predict_to(tmp_path / "out.parquet", short, rows_of(short, data), block_rows=BLOCK)
    assert done.cut == long > 10
    sentence = (
        f"column 'sequence': {long} rows were cut to the first 12 tokens, special ones included: "
        "the adapter reads no more"
    )
    assert sentence in done.notices
    assert sentence in predict_file(short, data).notices


def test_columns_may_be_called_otherwise(adapter: Path, tmp_path: Path) -> None:
    table = pa.csv.read_csv(tiny_rows(tmp_path / "rows.csv", 20))
    pa.parquet.write_table(table.rename_columns(["id", "heavy", "gene", "label"]), tmp_path / "t.parquet")
    source = rows_of(adapter, tmp_path / "t.parquet", columns={"sequence": "heavy"}, keep=["label", "heavy"])
    done = predict_to(tmp_path / "out.parquet", adapter, source)
    found = pa.parquet.read_table(done.out)
    assert found.schema.names == ["label", "heavy", "no", "yes"]
    assert found.column("heavy").to_pylist() == table.column("sequence").to_pylist()
    for settings in ({"columns": {"cdr3": "heavy"}}, {"keep": ["yes"]}):
        with pytest.raises(UsageError) as refused:
            rows_of(adapter, tmp_path / "t.parquet", **settings)
        assert refused.value.code == "usage.predict_column"
    fasta = rows_of(adapter, tiny_rows(tmp_path / "r.fasta", 3))
    assert (fasta.columns, fasta.keep) == ({}, ("id",))


@pytest.mark.parametrize(
    ("code", "name", "before"),
    [("usage.predict_out", "out.txt", ""), ("usage.exists", "out.csv", "here")],
)
def test_where_scores_cannot_go(adapter: Path, tmp_path: Path, code: str, name: str, before: str) -> None:
    data = rows_of(adapter, tiny_rows(tmp_path / "rows.csv", 4))
    if before:
        (tmp_path / name).write_text(before)
    with pytest.raises(PlasmidError) as refused:
        predict_to(tmp_path / name, adapter, data)
    assert refused.value.code == code


def test_a_journal_is_one_process_and_a_journal(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "p", {"adapter": "a"}),
        pytest.raises(StorageError) as held,
        opened(tmp_path / "p", {}),
    ):
        pass
    assert held.value.code == "storage.in_use"
    for text in ("[]\n", '{"settings": {}}\n{"block": 0}\n', "\n\n"):
        (tmp_path / "p" / "journal.jsonl").write_text(text)
        with pytest.raises(StorageError) as damaged, opened(tmp_path / "p", {}):
            pass
        assert damaged.value.code == "storage.prediction_damaged"
