"""Tables as the worker gets them: an open, unnamed file of rows."""

from __future__ import annotations

import os
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from plasmid.data.findings import Tally
from plasmid.data.settings import Connections, ViewFile
from plasmid.data.snapshot import Snapshot, SnapshotWriter, row_keys
from plasmid.data.table import Table
from plasmid.data.views.reading import Collector, Figures
from plasmid.data.views.rows import Rows, wanted_columns
from plasmid.data.views.viewing import open_source, query_of
from plasmid.recipes.columns import NumberColumn


def snapshot_of(table: Table, document: Any) -> int:
    """Return the descriptor of *table*'s rows under the contract of *document*."""
    columns = {name: document.contract.columns[name] for name in table.columns}
    writer = SnapshotWriter(columns, Path(tempfile.gettempdir()))
    kinds = {
        name: pa.float64() if isinstance(one, NumberColumn) else pa.string() for name, one in columns.items()
    }
    arrays = [pa.array(table.columns[name], kinds[name]) for name in columns]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(columns))
    writer.add(batch, row_keys(batch))
    return writer.finish(notices=list(table.notices))[0]


def snapshot_of_view(
    document: Any, folder: Path, connection: dict[str, Any], view: dict[str, Any]
) -> tuple[Table, Figures]:
    """Return the rows of a snapshot of a site's *view* of *document*, as of 2026-01-01, and its figures."""
    file = ViewFile.model_validate({"source": "here", **view})
    known = Connections.model_validate({"connections": {"here": connection}})
    source = open_source(file, known, folder, path=None, scratch=folder / "scratch")
    try:
        tally, wanted = Tally(), wanted_columns(document.contract, labels=True)
        query = query_of(source, file, document, wanted, tally, today=date(2026, 1, 1))
        rows = Rows(source, query, "the view", wanted, document.contract, tally=tally)
        collector = Collector(wanted, folder / "scratch", patient="patient", holdout=None, key=bytes(32))
        for batch in rows:
            collector.add(batch)
        descriptor, figures, _ = collector.finish(())
        return rows_in(descriptor), figures
    finally:
        source.close()


def rows_in(descriptor: int | None) -> Table:
    """Return the rows behind *descriptor*, which stays open."""
    assert descriptor is not None
    return Snapshot(os.dup(descriptor)).table()


def frame_rows(table: Table, document: Any) -> dict[str, Any]:
    """Return what the header of an ``open`` frame says of *table*."""
    return {"descriptor": snapshot_of(table, document)}
