"""Files of records in plain text, gzip or not, as blocks of whole records.

Rules
-----
1. gzip is known by its first two bytes, not by the file's name.
2. What is yielded has no byte order mark and ends in a line break; line breaks are LF or CRLF. Whether it is
   UTF-8 without NULs, :func:`checked` says, in whichever thread takes the block.
3. Memory is bounded by :data:`BLOCK_BYTES` and the longest record, times the blocks kept at a time, however
   large the file or its expansion.
4. No error holds a part of the file, not even as its cause.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plasmid.core.errors import DataError

BLOCK_BYTES = 2 * 2**20
"""What is read at a time."""

MAX_RECORD_BYTES = 16 * 2**20
"""Longest record, to within one block."""

MAX_RECORD_LINES = 1_000_000

BOM = b"\xef\xbb\xbf"

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Whole records, or what follows the last one.

    Attributes
    ----------
    letters
        The bytes. They are overwritten by a later block: see *kept* of :func:`blocks`.
    low
        Where in *letters* bytes up to the space are: line breaks, blanks, control characters.
    ranks
        Which of *low* are the line breaks.
    breaks
        Where in *letters* those are; the last byte is one.
    line
        Number of the first line, from 1.
    """

    letters: Bytes
    low: Places
    ranks: Places
    breaks: Places
    line: int


Whole = Callable[[bytearray, int, Places], int]
"""Takes a buffer, how many of its bytes count, and their line breaks; returns how many are whole records."""


def blocks(path: Path, whole: Whole, *, most: int = MAX_RECORD_BYTES, kept: int = 1) -> Iterator[Block]:
    """Yield the records of *path*, and what follows the last one unless it is blank.

    Parameters
    ----------
    most
        Bytes that a record may have.
    kept
        How many blocks there are at a time: the last one, and those before it.

    Raises
    ------
    DataError
        ``data.unreadable``, ``data.gzip_damaged``, ``data.record_too_long``, ``data.empty``: nothing but
        blanks.
    """
    # The same buffers for the whole file: fresh memory for each block costs more than parsing it.
    ring = [bytearray(BLOCK_BYTES + len(BOM)) for _ in range(kept)]
    turn, filled, line, found = 0, 0, 1, False
    with _opened(path) as file:
        while True:
            buffer = ring[turn]
            count = _fill(path, file, buffer, filled)
            if not filled and not found and buffer.startswith(BOM):
                del buffer[: len(BOM)]
                count -= len(BOM)
            filled += count
            if not count and filled and buffer[filled - 1] != ord("\n"):
                buffer[filled : filled + 1] = b"\n"
                filled += 1
            letters = np.frombuffer(buffer, np.uint8, filled)
            low: Places = np.flatnonzero(letters <= ord(" "))
            ranks: Places = np.flatnonzero(letters[low] == ord("\n"))
            breaks: Places = low[ranks]
            if not count:
                break
            place = whole(buffer, filled, breaks)
            if place:
                inside = int(np.searchsorted(breaks, place))
                until = ranks[inside - 1] + 1
                yield Block(letters[:place], low[:until], ranks[:inside], breaks[:inside], line)
                line, found, turn = line + inside, True, (turn + 1) % kept
            elif filled > most or len(breaks) > MAX_RECORD_LINES:
                raise DataError(
                    "data.record_too_long",
                    f"{path} holds a record of more than {most:,} bytes or {MAX_RECORD_LINES:,} lines, "
                    f"which begins at line {line}.",
                    "Leave that record out, or cut it.",
                )
            rest = bytes(letters[place:])
            filled = len(rest)
            del letters
            ring[turn] = _room(ring[turn], filled)
            ring[turn][:filled] = rest
    if bytes(letters).strip():
        yield Block(letters, low, ranks, breaks, line)
    elif not found:
        raise DataError("data.empty", f"{path} is empty.", "Give a file with at least one record.")


def _room(buffer: bytearray, filled: int) -> bytearray:
    """Return a buffer that holds another block behind its first *filled* bytes."""
    wanted = filled + BLOCK_BYTES
    return buffer if wanted <= len(buffer) else bytearray(2 * wanted)


def _fill(path: Path, file: BufferedIOBase, buffer: bytearray, filled: int) -> int:
    """Read up to a block behind the first *filled* bytes of *buffer*; return how many bytes, 0 at the end."""
    try:
        with memoryview(buffer) as view, view[filled : filled + BLOCK_BYTES] as free:
            return file.readinto(free)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        problem = DataError(
            "data.gzip_damaged",
            f"{path} is gzip, but damaged or cut off.",
            "Copy the file again, and try `gzip -t` on it.",
        )
    except OSError as error:
        problem = _unreadable(path, error.strerror or "its device reports an error")
    raise problem


def _opened(path: Path) -> BufferedIOBase:
    try:
        if path.is_file():
            with path.open("rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
            return gzip.open(path, "rb") if packed else path.open("rb")
        why = "there is no such file" if not path.exists() else "it is not a regular file"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its name is not a file's"
    raise _unreadable(path, why)


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        "data.unreadable", f"cannot read {path}: {why}.", "Check the file's name and that you may read it."
    )


def checked(path: Path, block: Block) -> Block:
    """Return a *block* of *path*, if it is UTF-8 without NULs.

    Raises
    ------
    DataError
        ``data.not_utf8``, ``data.nul_character``, with the line.
    """
    if block.letters.view(np.int8).min() > 0:  # neither NUL nor beyond ASCII
        return block
    if block.letters.min() == 0:
        where = block.line + int(np.searchsorted(block.breaks, np.argmin(block.letters)))
        raise DataError(
            "data.nul_character", f"{path} holds a NUL at line {where}.", "Save the file as plain text."
        )
    where = -1
    try:
        bytes(block.letters).decode("utf-8")
    except UnicodeDecodeError as error:
        where = block.line + int(np.searchsorted(block.breaks, error.start))
    if where >= 0:
        raise DataError(
            "data.not_utf8", f"{path} is not UTF-8 at line {where}.", "Save the file as plain text in UTF-8."
        )
    return block
