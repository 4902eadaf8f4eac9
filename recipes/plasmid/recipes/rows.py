"""CSV files that may be anything, as rows of text.

Rules
-----
1. UTF-8, with or without a byte order mark; lines end in LF, CRLF or CR; a quoted cell may hold line
   breaks (RFC 4180). Blank lines are skipped.
2. Refused, each with a code of its own: what is not a regular readable file, not UTF-8, holds a NUL, has
   a line longer than :data:`MAX_LINE_CHARACTERS`, is not CSV (stray quotes, a quote never closed, a cell
   longer than the ``csv`` module's limit), or has no header.
3. A row whose number of cells is not the header's is handed on as it is: the caller counts those.
4. No error holds a cell, not even as the cause of an exception.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from plasmid.core.errors import DataError

MAX_LINE_CHARACTERS = 1_048_576
csv.field_size_limit(MAX_LINE_CHARACTERS)  # of the process: the same bound for a cell as for a line


@dataclass(frozen=True)
class CsvFile:
    """An open CSV file: its header, stripped of blanks, and its rows as ``(line number, cells)``.

    Line numbers count from 1 and are those of a row's first line.
    """

    header: list[str]
    rows: Iterator[tuple[int, list[str]]]


@contextmanager
def open_csv(path: Path) -> Iterator[CsvFile]:
    """Open *path*; reading its rows may raise what opening it may.

    Raises
    ------
    DataError
        ``data.unreadable``, ``data.not_utf8``, ``data.nul_character``, ``data.line_too_long``,
        ``data.not_csv`` or ``data.empty`` (no header).
    """
    try:
        if not path.is_file():
            raise _unreadable(
                path, "there is no such file" if not path.exists() else "it is not a regular file"
            )
        file = io.TextIOWrapper(path.open("rb"), encoding="utf-8-sig", newline="")
    except (OSError, ValueError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or "its name is not a file's") from None
    with file:
        rows = _rows(path, file)
        _, header = next(rows, (0, []))
        if not header:
            raise DataError(
                "data.empty", f"{path} is empty.", "Give a CSV file with a header line and at least one row."
            )
        yield CsvFile([name.strip() for name in header], rows)


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        "data.unreadable", f"cannot read {path}: {why}.", "Check the file's name and that you may read it."
    )


def _rows(path: Path, file: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_lines(path, file), strict=True, skipinitialspace=True)
    problem: DataError | None = None
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            problem = DataError(
                "data.not_csv",
                f"{path}, line {first}: not CSV: a stray or unclosed quote, or a cell longer than "
                f"{csv.field_size_limit()} characters.",
                "Quote cells that hold commas or quotes, and double the quotes inside them.",
            )
        except UnicodeDecodeError:
            problem = DataError(
                "data.not_utf8",
                f"{path}, line {_first_foreign(path)}: not UTF-8 text.",
                "Save the file as CSV in UTF-8.",
            )
        except OSError as error:
            problem = _unreadable(path, error.strerror or "the disk reports an error")
        # Raised here, outside the handlers, so that no exception with a piece of the file hangs on to it.
        if problem is not None:
            raise problem
        if cells:
            yield first, cells


def _first_foreign(path: Path) -> int:
    """Return the number of the first line that is not UTF-8; the decoder reads ahead and cannot say."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _lines(path: Path, file: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARACTERS:
            raise DataError(
                "data.line_too_long",
                f"{path}, line {number}: longer than {MAX_LINE_CHARACTERS} characters.",
                "Check that the file is a CSV file with line breaks.",
            )
        if "\0" in line:
            raise DataError(
                "data.nul_character", f"{path}, line {number}: holds a NUL.", "Save the file as CSV in UTF-8."
            )
        yield line
