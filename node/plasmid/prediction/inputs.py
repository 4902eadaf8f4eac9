"""Rows to be scored, block by block: a file that :mod:`plasmid.data` reads, or a snapshot of a view.

Rules
-----
1. A block is so many rows in the order of their source, the last one excepted: the same rows in the same
   block, however often a prediction is interrupted.
2. A file is read twice: first to the end, under the part of the data contract that the adapter carries, so
   that every problem is told before anything is computed; then again, to be scored. Never more than a few
   batches of it are in memory.
3. Columns that are kept beside the scores are text as it stands, without blanks around it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from plasmid.adapters.files import HeadFile
from plasmid.core import extras
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import DataError, ModelError, UsageError
from plasmid.data.findings import Tally
from plasmid.data.settings import TableMap, table_kind
from plasmid.data.snapshot import Snapshot
from plasmid.data.sources.files import open_file
from plasmid.data.views.rows import Rows, flat_query, wanted_columns
from plasmid.recipes.columns import DEFAULT_MAX_ROWS, AnyColumn, Column, Contract, IdentifierColumn

ANY_ROWS = 2**53
_COLUMNS: TypeAdapter[dict[str, Column]] = TypeAdapter(dict[str, Column])
_OWN_NAMES = {"fasta": ("sequence", "id"), "fastq": ("sequence", "id"), "sd": ("smiles", "name")}
"""What the input of an adapter, and the name of a record, is called in files whose columns nobody chooses."""


@dataclass(frozen=True)
class Block:
    """Rows in the order of their source: block *number*, from 0, string or float64 columns."""

    number: int
    rows: pa.Table


@dataclass(frozen=True)
class Checked:
    """What was learned of all rows before the first was scored: their number, notices for their owner."""

    rows: int
    notices: tuple[str, ...]


class Input(Protocol):
    """Where rows come from.

    Attributes
    ----------
    keep
        Columns that are handed on beside the scores.
    """

    @property
    def keep(self) -> tuple[str, ...]: ...

    def identity(self) -> Mapping[str, Any]:
        """Return what a prediction that goes on must find unchanged, JSON values by name."""

    def check(self) -> Checked:
        """Read all rows. Raises DataError with every problem of theirs."""

    def blocks(self, size: int, done: Collection[int]) -> Iterator[Block]:
        """Yield the blocks of *size* rows but those whose numbers are in *done*. Raises DataError."""


def contract_of(about: HeadFile, *, max_rows: int = DEFAULT_MAX_ROWS) -> Contract:
    """Return the part of the data contract that an adapter carries, for tables of at most *max_rows*.

    Raises
    ------
    ModelError
        ``model.adapter_invalid``: its columns are no data contract.
    """
    try:
        columns = _COLUMNS.validate_json(canonical_json(about.columns))
    except (ValidationError, ValueError) as error:
        raise ModelError(
            "model.adapter_invalid",
            "the columns in the adapter's head.json are no data contract.",
            "Fetch the adapter again from its source.",
        ) from error
    return Contract(columns, about.head.classes, max_rows, about.label)


@dataclass(frozen=True)
class FileInput:
    """Rows of one file. Make it with :func:`file_input`.

    Attributes
    ----------
    columns
        Contract column -> the file's, where their names differ.
    """

    path: Path
    contract: Contract
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()

    @property
    def wanted(self) -> dict[str, AnyColumn]:
        """The columns that are read."""
        kept = {name: IdentifierColumn(type="identifier", missing="allowed") for name in self.keep}
        return kept | wanted_columns(self.contract, labels=False)

    def identity(self) -> Mapping[str, Any]:
        """See :class:`Input`: the file's content and how it is read, not its name."""
        try:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as error:
            raise _unreadable(self.path, error.strerror) from None
        return {
            "data_sha256": digest,
            "data_bytes": size,
            "columns": dict(self.columns),
            "keep": list(self.keep),
        }

    def check(self) -> Checked:
        """See :class:`Input`."""
        with extras.told(), closing(open_file(self.path)) as source:
            rows = self._rows(source)
            for _ in rows:
                pass
            return Checked(rows.kept, rows.notices)

    def blocks(self, size: int, done: Collection[int]) -> Iterator[Block]:
        """See :class:`Input`."""
        with extras.told(), closing(open_file(self.path)) as source:
            for number, rows in enumerate(_even(self._rows(source), size)):
                if number not in done:
                    yield Block(number, rows)

    def _rows(self, source: Any) -> Rows:
        wanted, tally = self.wanted, Tally()
        query = flat_query(source, TableMap(table="rows", columns=dict(self.columns)), wanted, tally)
        return Rows(
            source, query, str(self.path), wanted, replace(self.contract, columns=wanted), tally=tally
        )


@extras.told()
def file_input(
    path: Path, about: HeadFile, *, columns: Mapping[str, str] | None = None, keep: Sequence[str] = ()
) -> FileInput:
    """Return the rows of *path* for the adapter *about*.

    Parameters
    ----------
    columns
        Contract column -> the file's. Where nothing else is said, the adapter's input is ``sequence`` in
        FASTA and FASTQ files, ``smiles`` in SD files.
    keep
        Columns of the file to be handed on; those files hand on the name of each record where none is named.

    Raises
    ------
    DataError
        ``data.unreadable``; as :func:`plasmid.data.sources.files.open_file`.
    UsageError
        ``usage.predict_column``: *columns* names no column of the adapter, or *keep* names a label.
    """
    contract = contract_of(about, max_rows=ANY_ROWS)
    mapped, kept = dict(columns or {}), tuple(dict.fromkeys(keep))
    strange = sorted(mapped.keys() - wanted_columns(contract, labels=False).keys())
    if strange:
        raise UsageError(
            "usage.predict_column",
            f"the adapter reads no column {', '.join(strange)}.",
            f"It reads {', '.join(wanted_columns(contract, labels=False))}.",
        )
    check_kept(kept, about)
    if not path.is_file():
        raise _unreadable(path, "there is no such file")
    own = _OWN_NAMES.get(table_kind(path) or "")
    if own is not None:
        with closing(open_file(path)) as source:
            there = source.tables()["rows"].columns
        if about.input not in there and about.input not in mapped:
            mapped[about.input] = own[0]
        kept = kept or (own[1],)
    return FileInput(path, contract, mapped, kept)


def check_kept(keep: Sequence[str], about: HeadFile) -> None:
    """Refuse columns that are called like an answer's. Raises UsageError (``usage.predict_column``)."""
    both = sorted(set(keep) & about.head.columns().keys())
    if both:
        raise UsageError(
            "usage.predict_column",
            f"{', '.join(both)} cannot be kept: a column of the adapter's answers is called so.",
            "Give the column another name in the file.",
        )


@dataclass(frozen=True)
class ViewInput:
    """The rows of a view, as they were when it was opened, in the order of their keys.

    Attributes
    ----------
    digest
        The snapshot's.
    notices
        What opening it told.
    """

    snapshot: Snapshot
    digest: str
    notices: tuple[str, ...]
    keep: tuple[str, ...]

    def identity(self) -> Mapping[str, Any]:
        """See :class:`Input`."""
        return {"data_sha256": self.digest, "keep": list(self.keep)}

    def check(self) -> Checked:
        """See :class:`Input`: the view's reader has checked them."""
        return Checked(self.snapshot.rows, self.notices)

    def blocks(self, size: int, done: Collection[int]) -> Iterator[Block]:
        """See :class:`Input`."""
        for number, start in enumerate(range(0, self.snapshot.rows, size)):
            if number not in done:
                part = self.snapshot.subset(range(start, min(start + size, self.snapshot.rows)))
                yield Block(number, pa.table(dict(part.columns)))


def _even(batches: Iterator[pa.RecordBatch] | Rows, size: int) -> Iterator[pa.Table]:
    """Yield the rows of *batches* in tables of *size* rows; the last one may be shorter."""
    waiting: list[pa.Table] = []
    rows = 0
    for batch in batches:
        waiting.append(pa.Table.from_batches([batch]))
        rows += batch.num_rows
        if rows >= size:
            table, start = pa.concat_tables(waiting), 0
            while rows - start >= size:
                yield table.slice(start, size).combine_chunks()
                start += size
            waiting, rows = [table.slice(start)], rows - start
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def _unreadable(path: Path, why: str | None) -> DataError:
    return DataError(
        "data.unreadable",
        f"cannot read {path}: {why or 'for no reason that is known'}.",
        "Check the file's name and that you may read it.",
    )
