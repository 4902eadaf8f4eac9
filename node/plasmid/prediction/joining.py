"""From the parts of a prediction to one file, which appears whole or not at all.

Rules
-----
1. Parquet keeps float32; CSV has the shortest text that reads back as the same float32, and of a list its
   numbers with blanks between them. Both say the same for the same parts, bit for bit: nothing depends on
   when or how often the prediction was interrupted.
2. At most :data:`GROUP_ROWS` rows are in memory.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from plasmid.core.errors import UsageError
from plasmid.core.files import storage_error, sync_folder

GROUP_ROWS = 65_536
"""Rows of a row group."""
ENDINGS = (".parquet", ".csv")


def check_ending(out: Path) -> None:
    """Refuse a name of another kind of file. Raises UsageError (``usage.predict_out``)."""
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(
            "usage.predict_out",
            f"{out} ends neither in {' nor in '.join(ENDINGS)}.",
            "The ending says what is written.",
        )


def join(parts: Iterator[pa.Table], out: Path, about: Mapping[str, Any], *, mode: int = 0o644) -> None:
    """Write all *parts*, of which there is at least one, to *out*.

    Parameters
    ----------
    about
        JSON values that a Parquet file has in its metadata, under ``plasmid``.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written; *out* is then as it was.
    """
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    write = _parquet if out.suffix.lower() == ".parquet" else _csv
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            write(_groups(parts), file, about)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise storage_error(error, out) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _groups(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = 0
    for part in parts:
        if waiting and rows + part.num_rows > GROUP_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, rows = [], 0
        waiting.append(part)
        rows += part.num_rows
    yield pa.concat_tables(waiting).combine_chunks()


def _parquet(groups: Iterator[pa.Table], file: IO[bytes], about: Mapping[str, Any]) -> None:
    writer = None
    for group in groups:
        if writer is None:
            schema = group.schema.with_metadata({"plasmid": json.dumps(dict(about))})
            writer = pa.parquet.ParquetWriter(file, schema, compression="zstd")
        writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=group.num_rows)
    assert writer is not None, "there is at least one part"
    writer.close()


def _csv(groups: Iterator[pa.Table], file: IO[bytes], about: Mapping[str, Any]) -> None:  # noqa: ARG001 - one signature
    for number, group in enumerate(groups):
        for place, column in enumerate(group.columns):
            if pa.types.is_list(column.type):
                text = pc.binary_join(column.cast(pa.list_(pa.string())), " ")
                group = group.set_column(place, group.column_names[place], text)
        pa.csv.write_csv(group, file, pa.csv.WriteOptions(include_header=number == 0, quoting_style="needed"))
