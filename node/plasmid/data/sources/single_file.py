"""One file of one kind, without an engine: what columns it has, and its rows as batches.

Rules
-----
1. CSV (:mod:`plasmid.data.sources.csv_arrow`) and Parquet are read by Arrow itself. Where anything in a file
   is amiss, or could be taken in two ways, it stops, and the caller asks somebody stricter from there on.
2. The strict reader of CSV knows lines, and counts rows with another number of cells than the header. Empty
   cells beyond the header's are nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from plasmid.core.errors import DataError
from plasmid.data.source import BATCH_ROWS, LocalTable
from plasmid.data.sources.blocks import BOM
from plasmid.data.sources.csv_arrow import read_csv
from plasmid.recipes.rows import open_csv

_KEY = re.compile(r"(?:^|(?<=\s))([A-Za-z_][A-Za-z0-9_.-]*)=")
_LOOK_BYTES = 256 * 1024
LeftOut = Callable[[DataError], None]
_MANY_ROWS = 4 * BATCH_ROWS
_BUFFER_BYTES = 8 * 2**20


@dataclass(frozen=True)
class File:
    """One file of a connection."""

    path: Path
    kind: str


def described(file: File) -> LocalTable:
    """Return the columns of *file*. Raises DataError: it is not what its ending says."""
    match file.kind:
        case "csv":
            with open_csv(file.path) as content:
                header = content.header
            names = [one for one in header if one]
            return LocalTable(dict.fromkeys(names, "text"), None, _repeated(names))
        case "parquet":
            return _columnar(file.path, _parquet_schema)
        case "arrow":
            return _columnar(file.path, _arrow_schema)
        case "sd":
            from plasmid.data.sources.molecules import sd_columns

            return LocalTable(sd_columns(file.path))
        case _:
            return LocalTable(_sequence_columns(file))


def is_straight(file: File, wanted: Iterable[str]) -> bool:
    """Return whether :func:`straight` may read the columns *wanted* of *file*."""
    return file.kind != "parquet" or not any(
        "." in column for column in wanted
    )  # Arrow takes that for a path


def only_strict(file: File, columns: Sequence[str], *, engine: bool) -> bool:
    """Return whether nobody but the strict reader may read *file*, whose columns are *columns*.

    Others have their own way with CSV of one column, or with a blank line first; an *engine* with a NUL, too.
    """
    if file.kind != "csv":
        return False
    with file.path.open("rb") as content:
        begin = content.read(4).removeprefix(BOM)[:1]
        if len(columns) == 1 or begin in (b"\r", b"\n"):
            return True
        return engine and any(b"\0" in part for part in iter(lambda: content.read(_LOOK_BYTES), b""))


def straight(file: File, columns: Sequence[str], left_out: LeftOut | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the *columns* of *file*, in its order; *left_out* is as for :func:`stream`.

    Raises
    ------
    ArrowException, OSError
        Something is amiss in a CSV or Parquet file; what was yielded so far is sound.
    DataError
        As the reader of the file's kind.
    """
    if file.kind == "parquet":
        # pre_buffer would keep all that was read until the end
        with pa.parquet.ParquetFile(file.path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as content:
            yield from content.iter_batches(_MANY_ROWS, columns=list(columns))
    elif file.kind == "csv":
        yield from read_csv(file.path, columns)
    else:
        yield from stream(file, columns, left_out)


def strict(path: Path, schema: pa.Schema, ragged: Callable[[int, int], None]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a CSV file as text, those left out that have another number of cells than the header.

    Parameters
    ----------
    ragged
        Told at the end how many those are, and the line of the first, if there is one.

    Raises
    ------
    DataError
        As :func:`plasmid.recipes.rows.open_csv`.
    """
    odd = [0, 0]
    kept: list[list[str]] = []
    with open_csv(path) as content:
        places = [content.header.index(column) for column in schema.names]
        for line, cells in content.rows:
            if not sound(cells, len(content.header)):
                odd = [odd[0] + 1, odd[1] or line]
                continue
            kept.append([cells[place] for place in places])
            if len(kept) == BATCH_ROWS:
                yield _batch(kept, schema)
                kept = []
    if odd[0]:
        ragged(odd[0], odd[1])
    if kept:
        yield _batch(kept, schema)


def stream(file: File, wanted: Sequence[str], left_out: LeftOut | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a file that DuckDB does not read itself, with the *wanted* columns at least.

    Parameters
    ----------
    left_out
        Is given the error of molecules that cannot be read, whose records are left out; None raises it.
    """
    if file.kind == "arrow":
        yield from _arrow_batches(file.path)
    elif file.kind == "sd":
        from plasmid.data.sources.molecules import read_sd

        yield from read_sd(file.path, columns=wanted or ["name"], left_out=left_out)
    else:
        _, read = _sequences(file)
        yield from read(file.path, columns=wanted or ["id"])


def _sequences(file: File) -> tuple[dict[str, str], Any]:
    from plasmid.data.sources import sequences

    if file.kind == "fasta":
        return sequences.fasta_columns(), sequences.read_fasta
    return sequences.fastq_columns(), sequences.read_fastq


def _sequence_columns(file: File) -> dict[str, str]:
    """Return the columns that every record has, and the keys (``key=value``) of the first descriptions."""
    columns, read = _sequences(file)
    with closing(read(file.path, columns=["description"], ahead=False)) as batches:
        first = next(batches, None)
    said = [] if first is None else first.column("description").slice(0, 1000).to_pylist()
    keys = dict.fromkeys(key for text in said for key in _KEY.findall(text or ""))
    return {**columns, **dict.fromkeys([key for key in keys if key not in columns][:100], "string")}


def _columnar(path: Path, read: Callable[[Path], tuple[pa.Schema, int | None]]) -> LocalTable:
    try:
        schema, rows = read(path)
    except (OSError, pa.ArrowException):
        damaged = True
    else:
        damaged = False
    if damaged:
        raise DataError(
            "data.source_damaged",
            f"{path.name} is not what its ending says.",
            "Check that the file is whole.",
        )
    types: dict[str, str] = {}
    for field in schema:
        types.setdefault(field.name, str(field.type))
    return LocalTable(types, rows, _repeated(schema.names))


def _repeated(names: Sequence[str]) -> dict[str, int]:
    """Return how often a name occurs that more than one column has, in any case of its letters."""
    folded = [name.casefold() for name in names]
    return {name: folded.count(name.casefold()) for name in names if folded.count(name.casefold()) > 1}


def _parquet_schema(path: Path) -> tuple[pa.Schema, int | None]:
    with pa.parquet.ParquetFile(path) as file:
        return file.schema_arrow, file.metadata.num_rows


def _arrow_schema(path: Path) -> tuple[pa.Schema, int | None]:
    with pa.memory_map(str(path)) as mapped:
        return pa.ipc.open_file(mapped).schema, None


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as mapped:
        file = pa.ipc.open_file(mapped)
        for index in range(file.num_record_batches):
            batch = file.get_batch(index)
            batch.validate(full=True)  # a damaged offset would end the process
            yield batch


def sound(cells: Sequence[str], width: int) -> bool:
    """Return whether a row fits a header of *width* cells: empty ones beyond it are nothing."""
    return len(cells) >= width and not any(cells[width:])


def _batch(rows: list[list[str]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array(list(cells), pa.string()) for cells in zip(*rows, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
