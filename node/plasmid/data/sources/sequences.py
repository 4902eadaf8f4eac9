"""FASTA and FASTQ files as record batches.

Blocks of whole records are cut into columns by NumPy and Arrow, without an object for each record: as fast as
the parsers in C that hand out objects, and with room to check every letter.

Rules
-----
1. FASTA: a header is a line that begins with ``>``; the lines up to the next one are its sequence, joined,
   with blanks left out. Blank lines are skipped.
2. FASTQ: four lines a read: ``@`` and header, sequence, ``+`` (and the same header, or nothing), quality with
   an offset of 33. No line is wrapped.
3. ``id`` is a header's first word, ``description`` the rest of it. ``key=value`` in a description gives the
   column *key*: the value ends before the next ``word=``, so that ``OS=Homo sapiens OX=9606`` holds two.
4. A sequence is letters, ``*`` and ``-``; which letters, the contract says. An empty one is refused.
5. The first problem ends the reading. It names record and line, both counted from 1, and holds nothing of
   the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from plasmid.core.errors import DataError
from plasmid.data.source import BATCH_ROWS
from plasmid.data.sources.blocks import Block, Bytes, Places, Whole, blocks

MAX_HEADER_BYTES = 65_536

IDS_COMPARED = 2**24
"""Records whose ids are looked at for repetitions, 8 bytes each."""

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_FASTA = pa.schema([("id", pa.string()), ("description", pa.string()), ("sequence", pa.string())])
_FASTQ = _FASTA.append(pa.field("mean_quality", pa.float64()))
_FASTA_HINT = "A record is a line of '>', id and description, then lines of letters, '*' and '-'."
_FASTQ_HINT = "A read is four lines: '@' and its id, letters, '+', and as many quality marks as letters."


def fasta_columns() -> dict[str, str]:
    """Return the columns of every FASTA file -> their Arrow types."""
    return {field.name: str(field.type) for field in _FASTA}


def fastq_columns() -> dict[str, str]:
    """Return the columns of every FASTQ file -> their Arrow types."""
    return {field.name: str(field.type) for field in _FASTQ}


def read_fasta(
    path: Path, *, keys: Sequence[str] = (), repeated: Callable[[int], None] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the records of the FASTA file *path*: ``id``, ``description``, ``sequence``, then *keys*.

    Parameters
    ----------
    keys
        Names of ``key=value`` pairs of the descriptions, each a column of text: null where a record has none.
    repeated
        Is told at the end how many records have the id of an earlier one.

    Raises
    ------
    DataError
        As :func:`plasmid.data.sources.blocks.blocks`; ``data.not_fasta``, ``data.line_too_long``: a header;
        ``data.source_table``: a key that cannot be one.
    """
    yield from _read(_Form(path, "data.not_fasta", _FASTA_HINT), _whole_fasta, _fasta, _FASTA, keys, repeated)


def read_fastq(
    path: Path, *, keys: Sequence[str] = (), repeated: Callable[[int], None] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the reads of the FASTQ file *path*: as :func:`read_fasta`, with ``mean_quality`` before *keys*.

    ``mean_quality`` is the arithmetic mean of a read's Phred scores, as FastQC reports it: not the score of
    the mean error.

    Raises
    ------
    DataError
        As :func:`read_fasta`, with ``data.not_fastq`` for ``data.not_fasta``.
    """
    yield from _read(_Form(path, "data.not_fastq", _FASTQ_HINT), _whole_fastq, _fastq, _FASTQ, keys, repeated)


@dataclass
class _Form:
    """Where in a file we are, for errors: records read before this block, number of its first line."""

    path: Path
    code: str
    hint: str
    records: int = 0
    line: int = 1

    def error(self, record: int, line: int, what: str, code: str = "") -> DataError:
        """*record* and *line* count from 0 within the block."""
        return DataError(
            code or self.code,
            f"{self.path}: record {self.records + record + 1}, line {self.line + line}: {what}.",
            self.hint,
        )


class _Lines:
    """The lines of a block: line i is ``letters[starts[i]:ends[i]]``, its line break left out."""

    def __init__(self, block: Block) -> None:
        self.letters: Bytes = block.letters
        self.starts: Places = np.concatenate(([0], block.breaks[:-1] + 1))
        self.ends: Places = block.breaks - (self.letters[block.breaks - 1] == ord("\r"))

    def first(self, which: slice | Places) -> Bytes:
        """The first byte of each of those lines: a line break where one is empty."""
        found: Bytes = self.letters[self.starts[which]]
        return found

    def pick(self, which: npt.NDArray[np.bool_] | Places, skip: int = 0) -> pa.StringArray:
        """Return those lines without their first *skip* bytes, copied behind one another."""
        return _pick(self.letters, self.starts[which] + skip, self.ends[which])


_Parse = Callable[[_Lines, _Form], dict[str, pa.Array]]


def _read(
    form: _Form,
    whole: Whole,
    parse: _Parse,
    schema: pa.Schema,
    keys: Sequence[str],
    repeated: Callable[[int], None] | None,
) -> Iterator[pa.RecordBatch]:
    wrong = [
        key for key in keys if not _KEY.fullmatch(key) or key in schema.names or list(keys).count(key) > 1
    ]
    if wrong:
        raise DataError(
            "data.source_table",
            f"{form.path} has no column {wrong[0]!r}.",
            f"It has {', '.join(schema.names)}, and a column for each key of 'key=value' in its headers.",
        )
    hashes: list[Places] = []
    for block in blocks(form.path, whole):
        form.line = block.line
        columns = parse(_Lines(block), form)
        rows = len(columns["id"])
        if repeated is not None and form.records < IDS_COMPARED:
            hashes.append(np.fromiter(map(hash, columns["id"].to_pylist()), np.int64, rows))
        columns |= {key: _value(columns["description"], key) for key in keys}
        form.records += rows
        batch = pa.RecordBatch.from_pydict(columns)
        for start in range(0, rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)
    if repeated is not None:
        every = np.concatenate(hashes)
        repeated(len(every) - len(np.unique(every)))


def _whole_fasta(buffer: bytearray, filled: int, breaks: Places) -> int:  # noqa: ARG001 - one signature
    return buffer.rfind(b"\n>", 0, filled) + 1


def _whole_fastq(buffer: bytearray, filled: int, breaks: Places) -> int:  # noqa: ARG001 - one signature
    reads = len(breaks) // 4
    return int(breaks[4 * reads - 1]) + 1 if reads else 0


def _fasta(lines: _Lines, form: _Form) -> dict[str, pa.Array]:
    is_head = lines.first(slice(None)) == ord(">")
    heads = np.flatnonzero(is_head)
    lengths = lines.ends - lines.starts
    stray = np.flatnonzero(lengths[: heads[0]] if heads.size else lengths)
    if stray.size:
        raise form.error(0, int(stray[0]), "text before the first header")
    # Where each line's letters begin among all sequence letters of the block, and where the last end.
    begins = np.concatenate(([0], np.cumsum(np.where(is_head, 0, lengths))))
    offsets = np.append(begins[heads], begins[-1])
    letters = _data(lines.pick(~is_head))

    def error(place: int) -> DataError:
        line = int(np.searchsorted(begins, place, side="right")) - 1
        return form.error(
            int(np.searchsorted(heads, line)) - 1, line, "a character that is no letter, '*' or '-'"
        )

    letters, blanks = _sequence(letters, error, blanks=True)
    offsets = offsets - np.searchsorted(blanks, offsets)
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if empty.size:
        raise form.error(int(empty[0]), int(heads[empty[0]]), "no sequence follows this header")
    return _headers(lines, heads, form) | {"sequence": _strings(letters, offsets)}


def _fastq(lines: _Lines, form: _Form) -> dict[str, pa.Array]:
    lengths = lines.ends - lines.starts
    count = len(lengths) // 4
    heads = np.arange(0, 4 * count, 4)
    letters, marks = lines.pick(heads + 1), lines.pick(heads + 3)
    for place, wrong, what in (
        (0, lines.first(heads) != ord("@"), "the header of a read does not begin with '@'"),
        (2, lines.first(heads + 2) != ord("+"), "the third line of a read does not begin with '+'"),
        (1, lengths[heads + 1] == 0, "a read without letters"),
        (3, lengths[heads + 3] != lengths[heads + 1], "not as many quality marks as letters"),
        (2, _differ(lines, heads), "the third line of a read repeats another header than its own"),
    ):
        if wrong.any():
            record = int(np.argmax(wrong))
            raise form.error(record, 4 * record + place, what)
    offsets = _offsets(letters)
    sequence, quality = _data(letters), _data(marks)
    if count and (quality.min() < ord("!") or quality.max() > ord("~")):
        place = int(np.argmax((quality < ord("!")) | (quality > ord("~"))))
        record = int(np.searchsorted(offsets, place, side="right")) - 1
        raise form.error(record, 4 * record + 3, "a quality mark that is not between '!' and '~'")

    def error(place: int) -> DataError:
        record = int(np.searchsorted(offsets, place, side="right")) - 1
        return form.error(record, 4 * record + 1, "a character that is no letter, '*' or '-'")

    _sequence(sequence, error, blanks=False)
    if 4 * count < len(lengths):
        raise form.error(count, len(lengths) - 1, "the file ends within this read")
    # Marks are at most 126, and a block at most 2**25 bytes: their sum fits.
    total = np.add.reduceat(quality, offsets[:-1], dtype=np.uint32)
    return _headers(lines, heads, form) | {
        "sequence": _strings(sequence, offsets),
        "mean_quality": pa.array(total / np.diff(offsets) - 33.0),
    }


def _headers(lines: _Lines, heads: Places, form: _Form) -> dict[str, pa.Array]:
    long = np.flatnonzero(lines.ends[heads] - lines.starts[heads] > MAX_HEADER_BYTES)
    if long.size:
        what = f"a header of more than {MAX_HEADER_BYTES:,} bytes"
        raise form.error(int(long[0]), int(heads[long[0]]), what, "data.line_too_long")
    texts = lines.pick(heads, skip=1)
    if np.isin(lines.letters[lines.starts[heads] + 1], (ord(" "), ord("\t"))).any():
        texts = pc.ascii_ltrim_whitespace(texts)
    offsets, data = _offsets(texts), _data(texts)
    blanks = np.append(np.flatnonzero((data == ord(" ")) | (data == ord("\t"))), len(data))
    cut = np.minimum(blanks[np.searchsorted(blanks, offsets[:-1])], offsets[1:])
    return {
        "id": _pick(data, offsets[:-1], cut),
        "description": pc.ascii_trim_whitespace(_pick(data, cut, offsets[1:])),
    }


def _value(descriptions: pa.StringArray, key: str) -> pa.Array:
    pattern = rf"(?:^|\s){re.escape(key)}=(?P<value>.*?)(?:\s+{_KEY.pattern}=|\s*$)"
    return pc.struct_field(pc.extract_regex(descriptions, pattern), "value")


def _differ(lines: _Lines, heads: Places) -> npt.NDArray[np.bool_]:
    """True where a read's third line holds a header that is not the read's own."""
    said = np.flatnonzero(lines.ends[heads + 2] - lines.starts[heads + 2] > 1)
    wrong = np.zeros(len(heads), np.bool_)
    again, own = lines.pick(heads[said] + 2, skip=1), lines.pick(heads[said], skip=1)
    wrong[said] = pc.not_equal(again, own).to_numpy(zero_copy_only=False)
    return wrong


def _sequence(letters: Bytes, error: Callable[[int], DataError], *, blanks: bool) -> tuple[Bytes, Places]:
    """Return *letters* without *blanks*, and where those were; raise the error of the first wrong place."""
    odd = ((letters | 32) - ord("a")) >= 26  # bytes wrap: everything but letters ends at 26 or above
    if not odd.any():
        return letters, np.empty(0, np.int64)
    places = np.flatnonzero(odd)
    kinds = letters[places]
    is_blank = np.isin(kinds, (ord(" "), ord("\t"))) & blanks
    wrong = places[~is_blank & ~np.isin(kinds, (ord("*"), ord("-")))]
    if wrong.size:
        raise error(int(wrong[0]))
    gaps = places[is_blank]
    return np.delete(letters, gaps), gaps


def _pick(data: Bytes, starts: Places, ends: Places) -> pa.StringArray:
    """Return ``data[starts[i]:ends[i]]`` for each i, in order and not overlapping, as an array of its own.

    *data* is UTF-8, which is not checked again, and is cut at ASCII characters only.
    """
    # As an array over the same bytes, the wanted values alternate with the gaps between them.
    offsets = np.empty(2 * len(starts), np.int32)
    offsets[0::2], offsets[1::2] = starts, ends
    if not offsets.size:
        return pa.array([], pa.string())
    whole = _strings(data, offsets)
    return whole.take(pa.array(np.arange(0, offsets.size - 1, 2, dtype=np.int32)))


def _offsets(array: pa.Array) -> Places:
    found = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    return found.astype(np.int64)


def _data(array: pa.Array) -> Bytes:
    buffer = array.buffers()[2]
    if buffer is None or not len(array):
        return np.empty(0, np.uint8)
    return np.frombuffer(buffer, np.uint8)[: _offsets(array)[-1]]


def _strings(data: Bytes, offsets: Places | npt.NDArray[np.int32]) -> pa.StringArray:
    """Return an array over *data*, which is not copied."""
    buffers = [None, pa.py_buffer(offsets.astype(np.int32, copy=False)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)
