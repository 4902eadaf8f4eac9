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

import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from plasmid.core.errors import DataError
from plasmid.data.source import BATCH_ROWS
from plasmid.data.sources.blocks import Block, Bytes, Places, Whole, blocks, checked
from plasmid.data.sources.lines import Lines, data_of, offsets_of, pick, strings
from plasmid.data.sources.read_ahead import in_order

MAX_HEADER_BYTES = 65_536

_THREADS = max(1, min(4, os.cpu_count() or 1) - 1)  # and one reads
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
    path: Path, *, columns: Sequence[str] | None = None, ahead: bool = True
) -> Iterator[pa.RecordBatch]:
    """Yield the records of the FASTA file *path*.

    Parameters
    ----------
    columns
        Which, in this order: those of :func:`fasta_columns`, and keys of ``key=value`` in the descriptions,
        each a column of text, null where a record has none. None is the former.
    ahead
        Whether blocks are parsed before they are asked for, by threads: for whoever wants them all.

    Raises
    ------
    DataError
        As :func:`plasmid.data.sources.blocks.blocks` and ``checked``; ``data.not_fasta``;
        ``data.line_too_long``: a header; ``data.source_table``: a column that cannot be one.
    """
    form = _Form(path, "data.not_fasta", _FASTA_HINT, _FASTA, _whole_fasta, _fasta)
    yield from _read(form, columns, ahead=ahead)


def read_fastq(
    path: Path, *, columns: Sequence[str] | None = None, ahead: bool = True
) -> Iterator[pa.RecordBatch]:
    """Yield the reads of the FASTQ file *path*: as :func:`read_fasta`, with ``mean_quality``.

    ``mean_quality`` is the arithmetic mean of a read's Phred scores, as FastQC reports it: not the score of
    the mean error.

    Raises
    ------
    DataError
        As :func:`read_fasta`, with ``data.not_fastq`` for ``data.not_fasta``.
    """
    form = _Form(path, "data.not_fastq", _FASTQ_HINT, _FASTQ, _whole_fastq, _fastq)
    yield from _read(form, columns, ahead=ahead)


class _Wrong(Exception):
    """What is wrong in a block, at which *record* and *line* of it, both counted from 0."""

    def __init__(self, record: int, line: int, what: str, code: str = "") -> None:
        super().__init__(what)
        self.record, self.line, self.what, self.code = record, line, what, code


@dataclass(frozen=True)
class _Form:
    """A file and what it should be."""

    path: Path
    code: str
    hint: str
    schema: pa.Schema
    whole: Whole
    parse: Callable[[Lines, Container[str]], dict[str, pa.Array]]


def _read(form: _Form, columns: Sequence[str] | None, *, ahead: bool) -> Iterator[pa.RecordBatch]:
    wanted = form.schema.names if columns is None else list(columns)
    keys = [name for name in wanted if name not in form.schema.names]
    wrong = [key for key in keys if not _KEY.fullmatch(key)] + [
        name for name in wanted if wanted.count(name) > 1
    ]
    if wrong:
        raise DataError(
            "data.source_table",
            f"{form.path} has no column {wrong[0]!r}.",
            f"It has {', '.join(form.schema.names)}, and one for each key of 'key=value' in its headers.",
        )

    def parsed(block: Block) -> tuple[int, pa.RecordBatch | _Wrong]:
        try:
            found = form.parse(Lines(checked(form.path, block)), wanted)
        except _Wrong as wrong:
            return block.line, wrong
        found |= {key: _value(found["description"], key) for key in keys}
        return block.line, pa.RecordBatch.from_pydict({name: found[name] for name in wanted})

    records = 0
    whole = blocks(form.path, form.whole, kept=_THREADS + 1)
    for line, batch in in_order(whole, parsed, threads=_THREADS) if ahead else map(parsed, whole):
        if isinstance(batch, _Wrong):
            raise DataError(
                batch.code or form.code,
                f"{form.path}: record {records + batch.record + 1}, line {line + batch.line}: {batch.what}.",
                form.hint,
            )
        records += batch.num_rows
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _whole_fasta(buffer: bytearray, filled: int, breaks: Places) -> int:  # noqa: ARG001 - one signature
    return buffer.rfind(b"\n>", 0, filled) + 1


def _whole_fastq(buffer: bytearray, filled: int, breaks: Places) -> int:  # noqa: ARG001 - one signature
    reads = len(breaks) // 4
    return int(breaks[4 * reads - 1]) + 1 if reads else 0


def _fasta(
    lines: Lines,
    wanted: Container[str],  # noqa: ARG001 - one signature
) -> dict[str, pa.Array]:
    is_head = lines.letters[lines.starts] == ord(">")
    heads = np.flatnonzero(is_head)
    lengths = lines.ends - lines.starts
    stray = np.flatnonzero(lengths[: heads[0]] if heads.size else lengths)
    if stray.size:
        raise _Wrong(0, int(stray[0]), "text before the first header")
    # Where each line's letters begin among all sequence letters of the block, and where the last end.
    begins = np.concatenate(([0], np.cumsum(np.where(is_head, 0, lengths))))
    offsets = np.append(begins[heads], begins[-1])
    letters = data_of(lines.pick(~is_head))

    def error(place: int) -> _Wrong:
        line = int(np.searchsorted(begins, place, side="right")) - 1
        return _Wrong(
            int(np.searchsorted(heads, line)) - 1, line, "a character that is no letter, '*' or '-'"
        )

    letters, blanks = _sequence(letters, error, blanks=True)
    offsets = offsets - np.searchsorted(blanks, offsets)
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if empty.size:
        raise _Wrong(int(empty[0]), int(heads[empty[0]]), "no sequence follows this header")
    return _headers(lines, heads) | {"sequence": strings(letters, offsets)}


def _fastq(lines: Lines, wanted: Container[str]) -> dict[str, pa.Array]:
    count = len(lines.starts) // 4
    heads, bases, again, marks = (slice(first, 4 * count, 4) for first in range(4))
    lengths = lines.ends - lines.starts
    for place, wrong, what in _wrong_reads(lines, heads, bases, again, marks):
        if wrong.any():
            record = int(np.argmax(wrong))
            raise _Wrong(record, 4 * record + place, what)
    letters = lines.pick(bases)
    offsets, sequence = offsets_of(letters), data_of(letters)

    def error(place: int) -> _Wrong:
        record = int(np.searchsorted(offsets, place, side="right")) - 1
        return _Wrong(record, 4 * record + 1, "a character that is no letter, '*' or '-'")

    _sequence(sequence, error, blanks=False)
    if 4 * count < len(lengths):
        raise _Wrong(count, len(lengths) - 1, "the file ends within this read")
    columns = _headers(lines, heads) | {"sequence": letters}
    if "mean_quality" in wanted:
        # Marks are at most 126, and a block at most 2**25 bytes: their sum fits.
        total = np.add.reduceat(data_of(lines.pick(marks)), offsets[:-1], dtype=np.uint32)
        columns["mean_quality"] = pa.array(total / np.diff(offsets) - 33.0)
    return columns


def _wrong_reads(
    lines: Lines, heads: slice, bases: slice, again: slice, marks: slice
) -> Iterator[tuple[int, npt.NDArray[np.bool_], str]]:
    """Yield which reads are wrong at which of their lines, and how; each presumes that none before was."""
    lengths = lines.ends - lines.starts
    first = [lines.letters[lines.starts[which]] for which in (heads, again)]
    yield 0, first[0] != ord("@"), "the header of a read does not begin with '@'"
    yield 2, first[1] != ord("+"), "the third line of a read does not begin with '+'"
    yield 1, lengths[bases] == 0, "a read without letters"
    yield 3, lengths[marks] != lengths[bases], "not as many quality marks as letters"
    yield 2, _differ(lines, heads, again), "the third line of a read repeats another header than its own"
    yield 3, _foul(lines, again, marks), "a quality mark that is not between '!' and '~'"


def _foul(lines: Lines, again: slice, marks: slice) -> npt.NDArray[np.bool_]:
    """True where a read's line of marks has a byte that is not between ``!`` and ``~``."""
    low = lines.ranks[marks] - lines.ranks[again] - 1
    foul: npt.NDArray[np.bool_] = low != lines.breaks[marks] - lines.ends[marks]  # more than its break's CR
    if lines.letters.max() > ord("~"):
        where = np.searchsorted(lines.breaks, np.flatnonzero(lines.letters > ord("~")))
        foul |= np.isin(np.arange(len(lines.breaks))[marks], where)
    return foul


def _headers(lines: Lines, heads: Places | slice) -> dict[str, pa.Array]:
    letters, starts, ends = lines.letters, lines.starts[heads], lines.ends[heads]
    if (long := ends - starts > MAX_HEADER_BYTES).any():
        record = int(np.argmax(long))
        line = int(np.searchsorted(lines.starts, starts[record]))
        what = f"a header of more than {MAX_HEADER_BYTES:,} bytes"
        raise _Wrong(record, line, what, "data.line_too_long")
    starts = starts + 1
    cut = np.minimum(lines.first_low(heads), ends)
    if (_blank(letters[starts]) | ~_blank(letters[cut]) & (cut < ends)).any():
        # Blanks before an id, or a control character, which ends none.
        while (before := _blank(letters[starts]) & (starts < ends)).any():
            starts = starts + before
        blanks = lines.low[_blank(letters[lines.low]) | (letters[lines.low] == ord("\n"))]
        cut = np.minimum(blanks[np.searchsorted(blanks, starts)], ends)
    return {
        "id": pick(letters, starts, cut),
        "description": pc.ascii_trim_whitespace(pick(letters, cut, ends)),
    }


def _blank(letters: Bytes) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (letters == ord(" ")) | (letters == ord("\t"))
    return found


def _value(descriptions: pa.StringArray, key: str) -> pa.Array:
    pattern = rf"(?:^|\s){re.escape(key)}=(?P<value>.*?)(?:\s+{_KEY.pattern}=|\s*$)"
    return pc.struct_field(pc.extract_regex(descriptions, pattern), "value")


def _differ(lines: Lines, heads: slice, again: slice) -> npt.NDArray[np.bool_]:
    """True where a read's third line holds a header that is not the read's own."""
    starts, ends = lines.starts[again] + 1, lines.ends[again]
    wrong = starts < ends
    if (said := np.flatnonzero(wrong)).size:
        repeated = pick(lines.letters, starts[said], ends[said])
        own = pick(lines.letters, lines.starts[heads][said] + 1, lines.ends[heads][said])
        wrong[said] = pc.not_equal(repeated, own).to_numpy(zero_copy_only=False)
    return wrong


def _sequence(letters: Bytes, error: Callable[[int], _Wrong], *, blanks: bool) -> tuple[Bytes, Places]:
    """Return *letters* without *blanks*, and where those were; raise the error of the first wrong place."""
    if letters.size and letters.min() >= ord("A") and letters.max() <= ord("Z"):  # as most are
        return letters, np.empty(0, np.int64)
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
