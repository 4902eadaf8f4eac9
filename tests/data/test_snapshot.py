"""Snapshots: one digest for the same rows, a file without a name that can only be read, rows as in memory."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.core.errors import DataError, StorageError
from plasmid.data import snapshot as module
from plasmid.data.snapshot import Snapshot, SnapshotWriter, grouped, row_keys, unnamed
from plasmid.data.table import Joined, Table
from plasmid.recipes.columns import AnyColumn, IdentifierColumn, NumberColumn, TextColumn

COLUMNS: dict[str, AnyColumn] = {
    "who": IdentifierColumn(type="identifier", missing="allowed"),
    "text": TextColumn(type="text", max_length=8, missing="allowed"),
    "x": NumberColumn(type="number", bounds=(-9, 9), missing="allowed"),
}
SCHEMA = pa.schema([("who", pa.string()), ("text", pa.string()), ("x", pa.float64())])
Row = tuple[str | None, str | None, float | None]
ROWS: list[Row] = [("a", "one, two", 1.0), (None, "ü\n", None), ("b", None, -0.5)]
CELL = st.none() | st.text(st.characters(codec="utf-8"), max_size=4)
ANY_ROWS = st.lists(st.tuples(CELL, CELL, st.none() | st.floats(-9, 9).map(lambda x: x + 0.0)), max_size=30)


def descriptors() -> list[str]:
    gc.collect()
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor that lists the folder
            found.append(str(path.readlink()))
    return sorted(link for link in found if not link.startswith(("socket:", "pipe:", "anon_inode:")))


def batch_of(rows: list[Row]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    return pa.RecordBatch.from_arrays(
        [pa.array(list(one), field.type) for one, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def written(folder: Path, *parts: list[Row]) -> tuple[int, str]:
    writer = SnapshotWriter(COLUMNS, folder)
    for part in parts:
        batch = batch_of(part)
        writer.add(batch, row_keys(batch))
    assert writer.rows == sum(map(len, parts))
    return writer.finish(notices=["a notice"])


def opened(folder: Path, *parts: list[Row]) -> Snapshot:
    return Snapshot(written(folder, *parts)[0])


def netstrings(row: Row) -> bytes:
    """Return the canonical text of *row* as the module's docstring says, written out by hand."""
    who, text, number = row
    bits = None if number is None else str(int(np.float64(number).view(np.int64)))
    cells = [None if cell is None else cell.encode() for cell in (text, who, bits)]  # by name
    return b"".join(b"-," if cell is None else b"%d:%s," % (len(cell), cell) for cell in cells)


def test_the_digest_of_three_rows_worked_out_by_hand(tmp_path: Path) -> None:
    # 1.0 is 0x3ff0000000000000, -0.5 is 0xbfe0000000000000
    texts = [
        b"8:one, two,1:a,19:4607182418800017408,",
        b"3:\xc3\xbc\n,-,-,",
        b"-,1:b,20:-4620693217682128896,",
    ]
    assert [netstrings(row) for row in ROWS] == texts
    keys = sorted(sha256(text).digest() for text in texts)
    header = b'[["text","text"],["who","identifier"],["x","number"]]'
    descriptor, digest = written(tmp_path, ROWS)
    os.close(descriptor)
    assert digest == sha256(header + b"".join(keys)).hexdigest()
    assert sorted(row_keys(batch_of(ROWS))) == keys


def test_columns_in_another_order_are_the_same_rows(tmp_path: Path) -> None:
    names = ["x", "who", "text"]
    writer = SnapshotWriter({name: COLUMNS[name] for name in names}, tmp_path)
    batch = batch_of(ROWS).select(names)
    writer.add(batch, row_keys(batch))
    descriptor, digest = writer.finish()
    found, (same, expected) = Snapshot(descriptor), written(tmp_path, ROWS)
    assert digest == expected
    assert list(found.records()) == list(Snapshot(same).records())


@given(rows=ANY_ROWS, cut=st.integers(0, 30), seed=st.randoms(use_true_random=False))
def test_neither_order_nor_batches_change_the_digest_or_the_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], cut: int, seed: Any
) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert row_keys(batch_of(rows)) == [sha256(netstrings(row)).digest() for row in rows]
    found, digest = written(folder, rows)
    shuffled = list(rows)
    seed.shuffle(shuffled)
    again, same = written(folder, shuffled[:cut], shuffled[cut:])
    assert digest == same
    one, other = Snapshot(found).table(), Snapshot(again).table()
    assert one == other
    in_order = sorted(rows, key=lambda row: sha256(netstrings(row)).digest())
    assert list(zip(*one.columns.values(), strict=True)) == in_order


def test_one_cell_or_a_row_twice_or_another_column_is_another_digest(tmp_path: Path) -> None:
    def digest(rows: list[Row], columns: dict[str, AnyColumn] = COLUMNS) -> str:
        writer = SnapshotWriter(columns, tmp_path)
        batch = batch_of(rows).rename_columns(list(columns))
        writer.add(batch, row_keys(batch))
        descriptor, found = writer.finish()
        os.close(descriptor)
        return found

    renamed = dict(zip(["who", "note", "x"], COLUMNS.values(), strict=True))
    retyped = {**COLUMNS, "who": COLUMNS["text"]}
    seen = [
        digest(ROWS), digest(ROWS[:2]), digest([*ROWS, ROWS[0]]), digest([]), digest(ROWS, renamed),
        digest(ROWS, retyped), digest([("", *ROWS[1][1:]), ROWS[0], ROWS[2]]),
        digest([("a1", "", None)]), digest([("a", "1", None)]),
    ]  # fmt: skip
    assert len(set(seen)) == len(seen)


def many(count: int) -> list[Row]:
    return [(f"p{row % 97}", f"text {row}", float(row % 7)) for row in range(count)]


def test_what_was_spilled_comes_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many(3000)
    plain = written(tmp_path, rows)
    monkeypatch.setattr(module, "PENDING_BYTES", 4096)
    parts = [rows[start : start + 100] for start in range(0, 3000, 100)]
    spilled = written(tmp_path, *parts)
    assert plain[1] == spilled[1]
    assert Snapshot(plain[0]).table() == Snapshot(spilled[0]).table()
    few = written(tmp_path, *[[row] for row in rows[:40]])  # most files of it have no row
    assert Snapshot(few[0]).table() == opened(tmp_path, rows[:40]).table()


def test_no_file_has_a_name_while_it_is_written(tmp_path: Path) -> None:
    """Nor when the process dies in the middle: what has no name, the kernel takes back."""
    code = (
        "import os, sys\nfrom pathlib import Path\nimport test_snapshot_in_a_child as its\n"
        "its.module.PENDING_BYTES = 1000\n"
        "folder, rows = Path(sys.argv[1]), its.many(500)\n"
        "writer = its.SnapshotWriter(its.COLUMNS, folder)\n"
        "for start in range(0, 500, 50):\n"
        "    batch = its.batch_of(rows[start:start + 50])\n"
        "    writer.add(batch, its.row_keys(batch))\n"
        "    assert list(folder.iterdir()) == [], 'a file has a name'\n"
        "held = [os.readlink(f'/proc/self/fd/{one}') for one in os.listdir('/proc/self/fd') if int(one) > 2\n"
        "        and os.path.exists(f'/proc/self/fd/{one}')]\n"
        "print(sum('.rows (deleted)' in one for one in held), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    load = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('test_snapshot_in_a_child', {__file__!r})\n"
        "made = importlib.util.module_from_spec(spec)\nsys.modules[spec.name] = made\n"
        "spec.loader.exec_module(made)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", load + code, str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    assert int(done.stdout) > 100  # spilled files, by the first byte of a key
    assert list(tmp_path.iterdir()) == []


def test_whoever_is_given_the_descriptor_can_only_read(tmp_path: Path) -> None:
    descriptor, _ = written(tmp_path, ROWS)
    assert not os.get_inheritable(descriptor)
    for attempt in (lambda: os.write(descriptor, b"x"), lambda: os.ftruncate(descriptor, 0)):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno in (errno.EBADF, errno.EINVAL)
    with pytest.raises(OSError) as caught:
        os.write(descriptor, b"x")
    assert caught.value.errno == errno.EBADF
    before = os.fstat(descriptor).st_size
    assert before > 0
    snapshot = Snapshot(descriptor)
    assert (snapshot.rows, snapshot.nbytes, snapshot.notices) == (3, before, ("a notice",))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)  # it is the snapshot's, which has closed it


def files_of(data: bytes, folder: Path) -> int:
    writing, reading = unnamed(folder)
    with writing:
        writing.write(data)
    return reading


def test_a_file_that_is_no_snapshot_is_refused_and_closed(tmp_path: Path) -> None:
    descriptor, _ = written(tmp_path, ROWS)
    sound = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as out:
        out.write_batch(batch_of(ROWS))
    before = descriptors()
    for data in (
        b"",
        b"x",
        b"CANARY" * 100,
        sound[:-1],
        sound[: len(sound) // 2],
        sink.getvalue().to_pybytes(),
    ):
        with pytest.raises(DataError) as caught:
            Snapshot(files_of(data, tmp_path))
        assert caught.value.code == "data.table_malformed"
        assert "CANARY" not in str(caught.value)
        del caught  # its traceback holds the map
    assert descriptors() == before


def test_a_full_disk_has_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> tuple[Any, int]:
        return Path("/dev/full").open("w+b"), os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(module, "unnamed", full)
    before = len(descriptors())
    for size in (3, 20_000):  # what fails when it is flushed, and what fails when it is written
        with pytest.raises(StorageError) as caught:
            written(tmp_path, many(size))
        assert caught.value.code == "storage.full"
    assert len(descriptors()) == before


def test_a_folder_that_cannot_be_made_has_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        unnamed(tmp_path / "file" / "scratch")
    assert caught.value.code == "storage.unwritable"


# -- what is read from it ------------------------------------------------------------------------------


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Snapshot, Table]:
    """The same rows in a file of many batches, and in memory."""
    monkeypatch.setattr(module, "BATCH_ROWS", 16)
    rows: list[Row] = [
        (None if row % 11 == 3 else f"p{row % 9}", f"t{row}", float(row % 5)) for row in range(100)
    ]
    snapshot = opened(tmp_path, rows)
    return snapshot, snapshot.table()


def test_a_snapshot_answers_as_the_table_does(both: tuple[Snapshot, Table]) -> None:
    snapshot, table = both
    assert (snapshot.rows, snapshot.names, table.notices) == (100, table.names, snapshot.notices)
    for wanted in ([], [0], [99, 0, 50, 50, 3], list(range(100)), [17] * 5, np.array([40, 2])):
        assert snapshot.subset(wanted).columns == table.subset(wanted).columns
        assert snapshot.subset(wanted).rows == len(wanted)
    assert list(snapshot.records()) == list(table.records())
    assert snapshot.record(42) == table.record(42)
    assert [list(map(int, one)) for one in snapshot.groups("who")] == table.groups("who")


def test_rows_joined_to_others_answer_as_one_table_does(both: tuple[Snapshot, Table]) -> None:
    snapshot, table = both
    more = Table({"who": ["c1", "c2"], "text": ["x", None], "x": [1.0, None]}, 2)
    joined, whole = Joined(snapshot, more), Joined(table, more)
    assert (joined.rows, joined.names) == (102, table.names)
    for wanted in ([101, 5, 100, 5], [], [100], [3]):
        assert joined.subset(wanted).columns == whole.subset(wanted).columns
    assert [list(map(int, one)) for one in joined.groups("who")][-2:] == [[100], [101]]
    assert [list(map(int, one)) for one in joined.groups("who")] == [list(one) for one in whole.groups("who")]


@given(st.lists(st.none() | st.sampled_from("abcd"), max_size=20))
def test_people_are_grouped_as_the_table_groups_them(cells: list[str | None]) -> None:
    found = [list(map(int, one)) for one in grouped(pa.array(cells, pa.string()))]
    assert found == Table({"who": list(cells)}, len(cells)).groups("who")


def test_an_empty_snapshot_has_no_rows(tmp_path: Path) -> None:
    snapshot = opened(tmp_path, [])
    assert (snapshot.rows, snapshot.table().rows, snapshot.groups("who")) == (0, 0, [])
    assert snapshot.subset([]).columns == {"who": [], "text": [], "x": []}


def test_rows_are_mapped_and_not_read_into_memory(tmp_path: Path) -> None:
    rows: list[Row] = [(f"p{row}", "x" * 1000, 0.0) for row in range(20_000)]
    snapshot = opened(tmp_path, rows)
    del rows
    assert snapshot.nbytes > 20_000_000
    before = pa.total_allocated_bytes()
    assert snapshot.subset([5, 19_999]).rows == 2
    assert pa.total_allocated_bytes() - before < 2_000_000
