"""Tables as the worker gets them: an open, unnamed file of rows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from plasmid.data.snapshot import Snapshot, SnapshotWriter, row_keys
from plasmid.data.table import Table
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


def rows_in(descriptor: int | None) -> Table:
    """Return the rows behind *descriptor*, which stays open."""
    assert descriptor is not None
    return Snapshot(os.dup(descriptor)).table()


def frame_rows(table: Table, document: Any) -> dict[str, Any]:
    """Return what the header of an ``open`` frame says of *table*."""
    return {"descriptor": snapshot_of(table, document)}
