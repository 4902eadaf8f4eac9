"""Rows of a file as a table in memory, or of a view as a snapshot. In the caller's own process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plasmid.bases.specs import Cell
from plasmid.core.errors import DataError
from plasmid.data.findings import Tally
from plasmid.data.people import person_key
from plasmid.data.settings import TableMap
from plasmid.data.snapshot import Snapshot, SnapshotWriter, row_keys
from plasmid.data.sources.files import open_file
from plasmid.data.table import Table
from plasmid.data.views.rows import Rows, flat_query, held_out, wanted_columns
from plasmid.recipes.columns import AnyColumn, Contract
from plasmid.recipes.documents import unit_of
from plasmid.recipes.schema import Holdout


def read_table(path: Path, contract: Contract, *, labels: bool = True) -> Table:
    """Return the contract's columns of the file *path*, validated, in the file's order.

    Parameters
    ----------
    path
        CSV, Parquet, Arrow, FASTA, FASTQ or SD, by its ending.
    labels
        False leaves label and identifier columns out: for tables that are to be predicted.

    Returns
    -------
    Table
        Columns in the contract's order: text, numbers (float), or None where a cell is missing.

    Raises
    ------
    DataError
        As :func:`plasmid.data.sources.files.open_file` and :class:`plasmid.data.views.rows.Rows`.
    """
    wanted = wanted_columns(contract, labels=labels)
    source = open_file(path)
    try:
        tally = Tally()
        rows = Rows(
            source,
            flat_query(source, TableMap(table="rows"), wanted, tally),
            str(path),
            wanted,
            contract,
            tally=tally,
        )
        values: dict[str, list[Cell]] = {name: [] for name in wanted}
        for batch in rows:
            for column in wanted:
                values[column] += batch.column(column).to_pylist()
        return Table(values, rows.kept, rows.notices)
    finally:
        source.close()


def site_rows(path: Path, document: Any, folder: Path) -> tuple[int, Figures]:
    """Return what a site whose data is the file *path* trains on: a snapshot's descriptor, and its figures.

    Rows that the parsed *document* holds out are left out, and the rest stands in a snapshot's order. Only
    for whoever owns the file: a gateway has this done by a process of its own (:mod:`plasmid.data.reader`).

    Parameters
    ----------
    folder
        Where unnamed files may be made.

    Raises
    ------
    DataError
        As :func:`read_table`.
    StorageError
        The disk is full.
    """
    contract = document.contract
    wanted = wanted_columns(contract, labels=True)
    leaves_out = unit_of(document) != "none"
    source = open_file(path, leaves_out=leaves_out)
    try:
        tally = Tally(leaves_out=leaves_out)
        query = flat_query(source, TableMap(table="rows"), wanted, tally)
        rows = Rows(source, query, str(path), wanted, contract, tally=tally)
        data = document.data
        held, person = getattr(data, "holdout", None), getattr(data, "patient", None)
        collector = Collector(wanted, folder, patient=person, holdout=held, key=b"")
        for batch in rows:
            collector.add(batch)
        descriptor, figures, _ = collector.finish(rows.notices)
    finally:
        source.close()
    assert descriptor is not None, "there is a folder"
    return descriptor, figures


def training_table(path: Path, document: Any, folder: Path) -> Table:
    """Return the rows of :func:`site_rows` in memory.

    Raises
    ------
    DataError
        As there; ``data.empty``: the document holds all of them out.
    StorageError
        As there.
    """
    descriptor, _ = site_rows(path, document, folder)
    table = Snapshot(descriptor).table()
    if not table.rows:
        raise DataError(
            "data.empty",
            f"of {path} no row is left to train on.",
            "Hold out a smaller share, or give more rows.",
        )
    return table


@dataclass(frozen=True)
class Figures:
    """What the gateway learns about a view's rows.

    Attributes
    ----------
    rows, people
        Their number; where no column says whose a row is, every row is somebody else's.
    digest
        See :mod:`plasmid.data.snapshot`; None where nothing was kept.
    held_out
        Rows that the recipe holds out, beside the others.
    """

    rows: int
    people: int
    digest: str | None
    held_out: int = 0


class Collector:
    """Takes checked batches, leaves out what is held out, and writes the rest to a snapshot.

    Parameters
    ----------
    folder
        Where the snapshot's unnamed file is made; None keeps figures alone.
    patient
        The column whose equal cells are one person; None counts rows.
    key
        The site's secret for :attr:`people`.
    held
        Take what is held out, and leave out the rest.
    """

    def __init__(
        self,
        columns: Mapping[str, AnyColumn],
        folder: Path | None,
        *,
        patient: str | None,
        holdout: Holdout | None,
        key: bytes,
        held: bool = False,
    ) -> None:
        self._writer = SnapshotWriter(columns, folder) if folder is not None else None
        self._patient, self._holdout, self._held, self._key = patient, holdout, held, key
        self._people: list[NDArray[np.uint64]] = []
        self._rows = self._held_out = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take one batch of the contract's columns. Raises StorageError where the disk is full."""
        keys = row_keys(batch)
        if self._holdout is not None:
            out = np.asarray(held_out(batch, keys, self._holdout, self._patient))
            self._held_out += int(out.sum())
            out = ~out if self._held else out
            batch = batch.filter(pa.array(~out))
            keys = [key for key, gone in zip(keys, out, strict=True) if not gone]
        self._rows += batch.num_rows
        if self._patient is not None:
            self._people.append(people_keys(batch, keys, self._patient, self._key))
        if self._writer is not None:
            self._writer.add(batch, keys)

    def people(self) -> NDArray[np.uint64]:
        """Return the keyed hash of every patient, uint64 [people], ascending; none where no column says."""
        return np.unique(np.concatenate(self._people)) if self._people else np.empty(0, np.uint64)

    def finish(self, notices: tuple[str, ...]) -> tuple[int | None, Figures, NDArray[np.uint64]]:
        """Return the snapshot's descriptor if there is one, the figures, and :meth:`people`."""
        people = self.people()
        descriptor, digest = None, None
        if self._writer is not None:
            descriptor, digest = self._writer.finish(notices=list(notices))
        number = self._rows if self._patient is None else len(people)
        return descriptor, Figures(self._rows, number, digest, self._held_out), people


def people_keys(batch: pa.RecordBatch, keys: list[bytes], patient: str, secret: bytes) -> NDArray[np.uint64]:
    """Return :func:`person_key` of whose each row is, uint64 [rows].

    Of the patient's identifier if there is one, else of the row itself.
    """
    cells = batch.column(patient).to_pylist()
    whose = [key if cell is None else str(cell).encode() for cell, key in zip(cells, keys, strict=True)]
    return np.array([person_key(one, secret) for one in whose], np.uint64)
