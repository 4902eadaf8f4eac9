"""Stored bytes: in a folder, and in a store that is none."""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plasmid.core.errors import HubError, StorageError
from plasmid.hub.store.blobs import CHUNK_BYTES, BlobStore

DATA = os.urandom(2 * CHUNK_BYTES + 5)


def refusal(code: str) -> pytest.RaisesExc[HubError]:
    return pytest.RaisesExc(HubError, check=lambda error: error.code == code)


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BlobStore(
        str(tmp_path / "blobs") if request.param == "folder" else f"memory://{secrets.token_hex(4)}"
    )


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_bytes_are_hashed_while_they_are_stored(store: BlobStore, size: int | None) -> None:
    with store.writing(size=size) as writer:
        for first in range(0, len(DATA), 1000):
            writer.write(DATA[first : first + 1000])
    blob = writer.blob
    assert blob.sha256 == hashlib.sha256(DATA).hexdigest()
    assert blob.oid == hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    assert blob.size == len(DATA)
    assert b"".join(store.read(blob.sha256)) == DATA
    assert b"".join(store.read(blob.sha256, 10, CHUNK_BYTES + 20)) == DATA[10 : CHUNK_BYTES + 20]
    assert b"".join(store.read(blob.sha256, len(DATA) - 3)) == DATA[-3:]
    assert [len(chunk) for chunk in store.read(blob.sha256)] == [CHUNK_BYTES, CHUNK_BYTES, 5]
    assert store.load(blob.sha256, max_bytes=len(DATA)) == DATA
    assert store.load(blob.sha256, max_bytes=len(DATA) - 1) is None


def test_the_git_oid_of_known_bytes(store: BlobStore) -> None:
    assert store.put(b"").oid == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert store.put(b"hello\n").oid == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_what_is_not_as_announced_is_not_stored(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    for announced, code in (
        ({"size": 4}, "hub.upload_differs"),
        ({"size": 2}, "hub.too_large"),
        ({"max_bytes": 2}, "hub.too_large"),
        ({"sha256": "0" * 64}, "hub.upload_differs"),
    ):
        with refusal(code), store.writing(**announced) as writer:
            writer.write(b"abc")
    with pytest.raises(TypeError), store.writing() as writer:
        list(map(writer.write, [b"abc", None]))  # type: ignore[list-item]
    assert left(tmp_path) == []


def test_a_blob_that_is_missing_is_told_at_the_call(store: BlobStore) -> None:
    for name in ("0" * 64, "../../etc/passwd", "", "A" * 64):
        with refusal("hub.blob_missing"):
            store.read(name)
    assert not store.has("0" * 64)
    store.delete("0" * 64)


def test_storing_twice_keeps_one(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    assert store.put(b"abc") == store.put(b"abc")
    assert left(tmp_path) == [hashlib.sha256(b"abc").hexdigest()]
    assert [(name, size) for name, size, _ in store.stored()] == [(hashlib.sha256(b"abc").hexdigest(), 3)]


def test_what_a_killed_upload_left_goes_after_a_day(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "killed").write_bytes(b"half")
    now = datetime.now(UTC)
    assert store.drop_partial(now - timedelta(days=1)) == 0
    assert store.drop_partial(now + timedelta(days=1)) == 1
    assert left(tmp_path) == []


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "partial").write_text("a file where the folder should be")
    with pytest.raises(StorageError), BlobStore(str(tmp_path)).writing() as writer:
        writer.write(b"abc")


def test_a_store_without_a_driver_is_told() -> None:
    with refusal("hub.blobs_url"):
        BlobStore("nosuchstore://bucket")
