"""Which stored blobs are kept: those of some commit, and, for a day, those that somebody is about to commit.

Rules
-----
1. A blob is recorded after it is stored, and its record goes before its bytes do, in one transaction with
   them: whoever finds the record and the bytes may commit it within a day.
2. Recording and collecting exclude each other (:func:`plasmid.hub.store.database.lock_blobs`); a commit that
   names a blob as it is collected fails by its foreign key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from plasmid.hub.store.blobs import BlobStore, missing
from plasmid.hub.store.database import lock_blobs, micros, writing
from plasmid.hub.store.reading import BATCH, blobs
from plasmid.hub.store.records import Blob
from plasmid.hub.store.tables import BlobRow, FileRow

KEEP = timedelta(days=1)
_FRESH = timedelta(hours=1)
"""A record that is no older need not be renewed."""


@dataclass(frozen=True)
class Collected:
    """What a collect freed: blobs, their bytes, and uploads that never ended."""

    blobs: int
    size: int
    partial: int


def keep_blobs(engine: Engine, store: BlobStore, stored: Sequence[Blob], time: datetime) -> None:
    """Record blobs that were just stored.

    Raises HubError (``hub.blob_missing``): one was collected meanwhile.
    """
    if not stored:
        return
    kind: Any = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
    row = kind(BlobRow)
    upsert = row.on_conflict_do_update(index_elements=["sha256"], set_={"wanted": row.excluded.wanted})
    values = [
        {"sha256": blob.sha256, "oid": blob.oid, "size": blob.size, "wanted": micros(time)}
        for blob in sorted(set(stored), key=lambda blob: blob.sha256)
    ]
    with writing(engine) as connection:
        lock_blobs(connection, alone=False)
        connection.execute(upsert, values)
        for blob in stored:
            if not store.has(blob.sha256):
                raise missing(blob.sha256)


def want_blob(engine: Engine, store: BlobStore, name: str, time: datetime) -> Blob | None:
    """Return a blob if it is stored; it will be kept for a day even if nothing uses it."""
    wanted = select(BlobRow).where(BlobRow.sha256 == name)
    with engine.connect() as connection:
        row = connection.execute(wanted).one_or_none() if name.isprintable() else None
    if row is not None and row.wanted < micros(time - _FRESH):
        with writing(engine) as connection:
            lock_blobs(connection, alone=False)
            connection.execute(update(BlobRow).where(BlobRow.sha256 == name).values(wanted=micros(time)))
            row = connection.execute(wanted).one_or_none()
    return Blob(row.sha256, row.oid, row.size) if row is not None and store.has(name) else None


def collect(engine: Engine, store: BlobStore, time: datetime) -> Collected:
    """Free the blobs that no commit uses and nobody wanted for a day, and what uploads left behind."""
    before = time - KEEP
    unused = ~exists().where(FileRow.blob == BlobRow.sha256)
    old = (BlobRow.wanted < micros(before)) & unused
    freed = [0, 0]
    with engine.connect() as connection:
        found = connection.execute(select(BlobRow.sha256, BlobRow.size).where(old)).all()
    for name, size in found:
        with writing(engine) as connection:
            lock_blobs(connection, alone=True)
            if connection.execute(delete(BlobRow).where(BlobRow.sha256 == name, old)).rowcount:
                store.delete(name)
                freed[0], freed[1] = freed[0] + 1, freed[1] + size
    for name, size in _unrecorded(engine, store, before):
        with writing(engine) as connection:
            lock_blobs(connection, alone=True)
            if not blobs(connection, [name]):
                store.delete(name)
                freed[0], freed[1] = freed[0] + 1, freed[1] + size
    return Collected(freed[0], freed[1], store.drop_partial(before))


def _unrecorded(engine: Engine, store: BlobStore, before: datetime) -> Iterable[tuple[str, int]]:
    """Yield the blobs stored before that time without a record: the hub ended before it was made."""
    part: dict[str, int] = {}
    for name, size, stored in store.stored():
        if stored is not None and stored < before:
            part[name] = size
        if len(part) == BATCH:
            yield from _without_record(engine, part)
            part = {}
    yield from _without_record(engine, part)


def _without_record(engine: Engine, part: dict[str, int]) -> list[tuple[str, int]]:
    with engine.connect() as connection:
        known = blobs(connection, part)
    return [(name, size) for name, size in part.items() if name not in known]
