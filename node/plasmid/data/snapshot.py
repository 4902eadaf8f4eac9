"""The rows of a view under a contract, in one canonical form and order, in an unnamed file.

Rules
-----
1. A row is canonical text: its cells in the order of the columns' names as netstrings (``length:bytes,``;
   D. J. Bernstein, 1997), a missing one as ``-,``, a number as the signed decimal of its IEEE 754 bits. Its
   key is the SHA-256 of that. Rows stand in the order of their keys, which has nothing to do with that of any
   source, nor with that in which a document has its columns: a document that travelled has it by name.
2. The digest is the SHA-256 of the contract's column names and types, by name, and of all keys in order: the
   same rows through another connector or mapping have the same digest. It can be guessed for a small table,
   so it stays at the site.
3. Sorting takes bounded memory: past :data:`PENDING_BYTES` rows are spilled to files by the first byte of
   their key. Every file is without a name from its first byte on: nothing stays when its process ends.
4. The file is Arrow IPC, mapped and never read whole; whoever is given its descriptor can only read.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from plasmid.bases.specs import Cell
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import DataError
from plasmid.core.files import storage_error
from plasmid.data.table import Table
from plasmid.recipes.columns import AnyColumn, NumberColumn

PENDING_BYTES = 64 * 2**20
BUCKETS = 256
BATCH_ROWS = 4096
_KEY = "\x00key"
_META = b"plasmid"


class SnapshotWriter:
    """Takes rows in any order and writes them in theirs.

    Parameters
    ----------
    columns
        The contract's columns that the rows have, in its order.
    folder
        Where unnamed files may be made.
    """

    def __init__(self, columns: Mapping[str, AnyColumn], folder: Path) -> None:
        self._names = list(columns)
        types = [pa.float64() if isinstance(one, NumberColumn) else pa.string() for one in columns.values()]
        self._schema = pa.schema(list(zip(self._names, types, strict=True)))
        self._keyed = self._schema.append(pa.field(_KEY, pa.binary(32)))
        kinds = [[name, columns[name].type] for name in sorted(columns)]
        self._digest = sha256(canonical_json(kinds))
        self._folder = folder
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._spilled: list[pa.RecordBatchStreamWriter | None] = [None] * BUCKETS
        self._files: list[BinaryIO | None] = [None] * BUCKETS
        self.rows = 0

    def add(self, batch: pa.RecordBatch, keys: list[bytes]) -> None:
        """Add rows with their :func:`row_keys`. Raises StorageError where the disk is full."""
        arrays = [*batch.select(self._names).columns, pa.array(keys, pa.binary(32))]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._keyed)
        self.rows += batch.num_rows
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        if self._pending_bytes > PENDING_BYTES:
            self._spill()

    def finish(self, **about: Any) -> tuple[int, str]:
        """Write everything and return the descriptor, open for reading only, and the digest.

        Parameters
        ----------
        about
            JSON values that :class:`Snapshot` has as ``about``.
        """
        writing, reading = unnamed(self._folder)
        try:
            schema = self._schema.with_metadata({_META: json.dumps(about)})
            with pa.ipc.new_file(writing, schema) as out:
                for part in self._parts():
                    ordered, keys = _ordered(part)
                    self._digest.update(b"".join(keys))
                    for start in range(0, ordered.num_rows, BATCH_ROWS):
                        out.write_batch(_own(ordered.slice(start, BATCH_ROWS), schema))
            writing.flush()  # here, where a full disk has its own error
        except BaseException as error:
            os.close(reading)
            if isinstance(error, OSError):
                raise storage_error(error, self._folder) from None
            raise
        finally:
            with suppress(OSError):  # it tries again to write what was told above
                writing.close()
        return reading, self._digest.hexdigest()

    def _parts(self) -> Iterator[pa.Table]:
        """Yield all rows in parts, each with keys above those of the part before."""
        if not any(self._spilled):
            yield pa.Table.from_batches(self._pending, self._keyed)
            return
        self._spill()
        for bucket in range(BUCKETS):
            writer, file = self._spilled[bucket], self._files[bucket]
            if writer is None or file is None:
                continue
            writer.close()
            file.seek(0)
            with file, pa.ipc.open_stream(file) as stored:
                yield stored.read_all()

    def _spill(self) -> None:
        ordered, keys = _ordered(pa.Table.from_batches(self._pending, self._keyed), keep=True)
        self._pending, self._pending_bytes = [], 0
        firsts = np.frombuffer(b"".join(key[:1] for key in keys), np.uint8)
        ends = np.searchsorted(firsts, np.arange(BUCKETS), side="right")
        start = 0
        try:
            for bucket, end in enumerate(ends):
                if end > start:
                    self._bucket(bucket).write_table(ordered.slice(start, int(end) - start))
                start = int(end)
        except OSError as error:
            raise storage_error(error, self._folder) from None

    def _bucket(self, bucket: int) -> pa.RecordBatchStreamWriter:
        if self._spilled[bucket] is None:
            writing, reading = unnamed(self._folder)
            os.close(reading)
            self._files[bucket] = writing
            self._spilled[bucket] = pa.ipc.new_stream(writing, self._keyed)
        return self._spilled[bucket]


class Snapshot:
    """The rows that a :class:`SnapshotWriter` wrote, by their descriptor, which this closes.

    Attributes
    ----------
    rows
        The number of rows.
    about
        What the writer was given.
    nbytes
        Size of the file.
    """

    def __init__(self, descriptor: int) -> None:
        try:
            self.nbytes = os.fstat(descriptor).st_size
            self._map = mmap.mmap(descriptor, self.nbytes, prot=mmap.PROT_READ)
            self._file = pa.ipc.open_file(pa.py_buffer(self._map))
            self.about: dict[str, Any] = json.loads(self._file.schema.metadata[_META])
            sizes = [self._file.get_batch(i).num_rows for i in range(self._file.num_record_batches)]
            self.notices: tuple[str, ...] = tuple(self.about.get("notices", ()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
            raise DataError(
                "data.table_malformed",
                "the file is not a snapshot of a view.",
                "Gateway and worker must be of one release.",
            ) from None
        finally:
            os.close(descriptor)
        if hasattr(self._map, "madvise"):  # rows are drawn at random: what is read ahead is not needed
            self._map.madvise(mmap.MADV_RANDOM)
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        return list(self._file.schema.names)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self._starts[-1])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows, in order."""
        for index in range(self._file.num_record_batches):
            yield self._file.get_batch(index)

    def subset(self, indices: Iterable[int]) -> Table:
        """Return the rows at *indices*, in that order; a row may be asked for twice."""
        wanted = np.asarray(list(indices), np.int64)
        batches = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(batches, kind="stable")
        parts = []
        for batch in np.unique(batches):
            places = wanted[batches == batch] - self._starts[batch]
            parts.append(self._file.get_batch(int(batch)).take(pa.array(places)))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        found = pa.Table.from_batches(parts, self._file.schema).combine_chunks().take(pa.array(back))
        return _table(found, self.notices)

    def table(self) -> Table:
        """Return all rows, in memory."""
        return _table(self._file.read_all(), self.notices)

    def record(self, row: int) -> dict[str, Cell]:
        """Return one row by column name."""
        return self.subset([row]).record(0)

    def records(self) -> Iterator[dict[str, Cell]]:
        """Yield every row by column name."""
        for batch in self.batches():
            yield from batch.to_pylist()

    def groups(self, column: str) -> list[NDArray[np.int64]]:
        """Return the row numbers of each person, ascending, persons in order of their first row.

        Parameters
        ----------
        column
            An identifier column. A row without an identifier is a person of its own.
        """
        parts = [self._file.get_batch(i).column(column) for i in range(self._file.num_record_batches)]
        cells = pa.chunked_array(parts, pa.string()).combine_chunks()
        return grouped(cells)


def grouped(cells: pa.Array) -> list[NDArray[np.int64]]:
    """Return the places of equal *cells*, ascending, in order of the first; a null is alone."""
    codes = cells.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    codes = np.nan_to_num(codes.astype(np.float64), nan=-1.0).astype(np.int64)
    alone = np.flatnonzero(codes < 0)
    codes[alone] = len(cells) + np.arange(len(alone))
    order = np.argsort(codes, kind="stable")
    cuts = np.flatnonzero(np.diff(codes[order])) + 1
    return (
        sorted(np.split(order.astype(np.int64), cuts), key=lambda places: int(places[0]))
        if len(order)
        else []
    )


def row_keys(batch: pa.RecordBatch) -> list[bytes]:
    """Return the 32-byte key of every row of *batch*, whose columns are the contract's."""
    pieces = []
    for name in sorted(batch.schema.names):
        column = batch.column(name)
        text = column.view(pa.int64()).cast(pa.string()) if pa.types.is_floating(column.type) else column
        size = pc.binary_length(text).cast(pa.string())
        pieces.append(pc.fill_null(pc.binary_join_element_wise(size, text, ":"), "-"))
    rows = pc.binary_join_element_wise(*pieces, pa.scalar(""), ",")
    return [sha256(row).digest() for row in rows.cast(pa.binary()).to_pylist()]


def unnamed(folder: Path) -> tuple[BinaryIO, int]:
    """Return a new file without a name in *folder*: to write, and its descriptor for reading only."""
    path = folder / f".{secrets.token_hex(8)}.rows"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        writing = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b")
        try:
            return writing, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            path.unlink()
    except OSError as error:
        raise storage_error(error, folder) from None


def _ordered(table: pa.Table, *, keep: bool = False) -> tuple[pa.Table, list[bytes]]:
    """Return *table* by its keys, with that column only if *keep*, and the keys."""
    keys = table.column(_KEY).to_pylist()
    words = np.frombuffer(b"".join(keys), ">u8").reshape(-1, 4)
    order = np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))
    kept = table if keep else table.drop_columns([_KEY])
    return kept.combine_chunks().take(pa.array(order)), [keys[place] for place in order]


def _own(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    """Return *table*, a slice, as one batch whose buffers hold nothing else."""
    taken = table.take(pa.array(np.arange(table.num_rows))).combine_chunks()
    return pa.RecordBatch.from_arrays([one.chunk(0) for one in taken.columns], schema=schema)


def _table(rows: pa.Table, notices: tuple[str, ...]) -> Table:
    return Table({name: rows.column(name).to_pylist() for name in rows.column_names}, rows.num_rows, notices)
