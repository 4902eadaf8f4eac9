"""CSV as Arrow reads it, in parts and by threads, where that can only be what the strict reader says.

Rules
-----
1. A part is whole rows: it ends at a line break that has an even number of quotes before it. It is no longer
   than a line may be, so no row is.
2. A quote can be taken in one way only where it opens a cell as its first byte, closes one as its last, or
   is doubled inside. Any other is amiss; so are a NUL, what is not UTF-8, a row with another number of cells
   than the header, and one longer than a part.
3. What is amiss ends the reading: :mod:`plasmid.recipes.rows` has the last word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from plasmid.data.sources.blocks import BOM
from plasmid.data.sources.read_ahead import in_order
from plasmid.recipes.rows import MAX_LINE_CHARACTERS, open_csv

_PART_BYTES = MAX_LINE_CHARACTERS
_THREADS = min(4, os.cpu_count() or 1)
_EDGE = np.isin(np.arange(256), tuple(b"\n\r,"))


@dataclass(frozen=True)
class _Part:
    """Whole rows of a CSV file, where the quotes in them are, and whether the header is the first of them."""

    letters: npt.NDArray[np.uint8]
    quotes: npt.NDArray[np.int64]
    first: bool


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the *columns* of the CSV file *path* as text, no cell null.

    Raises
    ------
    ArrowException, OSError
        Something is amiss; the rows yielded so far are those of the strict reader.
    DataError
        As :func:`plasmid.recipes.rows.open_csv`: of the header.
    """
    with open_csv(path) as content:
        header = content.header
    names = [f"c{place}" for place in range(len(header))]
    chosen = [names[header.index(column)] for column in columns]
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(chosen, pa.string()), include_columns=chosen, check_utf8=False
    )

    def read(part: _Part) -> list[pa.RecordBatch]:
        _check_text(part.letters)
        quoted = part.quotes.size > 0
        if quoted:
            _check_quotes(part)
        # A stream of one block: read_csv hands it to a thread, which takes longer than a small file does.
        table = pa.csv.open_csv(
            pa.BufferReader(pa.py_buffer(part.letters)),
            read_options=pa.csv.ReadOptions(
                column_names=names,
                skip_rows_after_names=int(part.first),
                block_size=len(part.letters) + 1,
                use_threads=False,
            ),
            parse_options=pa.csv.ParseOptions(quote_char='"' if quoted else False, newlines_in_values=quoted),
            convert_options=convert,
        ).read_all()
        found: list[pa.RecordBatch] = table.rename_columns(list(columns)).to_batches()
        return found

    threads = _THREADS if path.stat().st_size > _PART_BYTES else 0
    for batches in in_order(_parts(path), read, threads=threads):
        yield from batches


def _parts(path: Path) -> Iterator[_Part]:
    """Yield *path* in parts of whole rows; they are mapped, not copied."""
    with pa.memory_map(str(path)) as content:
        every = np.frombuffer(content.read_buffer(), np.uint8)
        begin = start = len(BOM) if every[: len(BOM)].tobytes() == BOM else 0
        while start < every.size:
            part = every[start : start + _PART_BYTES]
            quotes = np.flatnonzero(part == ord('"'))
            if start + part.size < every.size:
                breaks = (part == ord("\n")) | (part == ord("\r"))
                breaks[-1] &= part[-1] == ord("\n")  # the LF of a last CR may come next
                ends = np.flatnonzero(breaks) + 1
                before = np.searchsorted(quotes, ends)
                outside = np.flatnonzero(before % 2 == 0)
                if not outside.size:
                    raise pa.ArrowInvalid("a row is too long")
                part, quotes = part[: ends[outside[-1]]], quotes[: before[outside[-1]]]
            yield _Part(part, quotes, start == begin)
            start += part.size


def _check_text(letters: npt.NDArray[np.uint8]) -> None:
    """Raise ArrowInvalid where there is a NUL, or what is not UTF-8."""
    if letters.view(np.int8).min() > 0:
        return  # ASCII
    if letters.min() == 0:
        raise pa.ArrowInvalid("a NUL")
    whole = [None, pa.array([0, letters.size], pa.int32()).buffers()[1], pa.py_buffer(letters)]
    pa.Array.from_buffers(pa.binary(), 1, whole).cast(pa.string())


def _check_quotes(part: _Part) -> None:
    """Raise ArrowInvalid where there is a quote that could be taken in more than one way."""
    letters, opening, closing = part.letters, part.quotes[0::2], part.quotes[1::2]
    sound = len(opening) == len(closing)
    if sound:
        doubled = opening[1:] == closing[:-1] + 1
        begins = _EDGE[letters[opening - 1]] | (opening == 0)
        ends = _EDGE[letters.take(closing + 1, mode="clip")] | (closing == letters.size - 1)
        begins[1:] |= doubled
        ends[:-1] |= doubled
        sound = bool(begins.all() and ends.all())
    if not sound:
        raise pa.ArrowInvalid("a quote amiss")
