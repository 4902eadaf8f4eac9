"""Stored bytes, by their SHA-256, through fsspec: a local folder, or whatever else fsspec has a driver for.

Rules
-----
1. Bytes are hashed while they are written aside, under a random name; they get their own name when they are
   whole and are what was announced, and not before. On a disk they are there after a loss of power, then.
2. No name that a client chose is part of a path: only hexadecimal digits are.
3. Nothing is held in memory but one chunk; of a file elsewhere one part, of which S3 takes 10,000.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from plasmid.core.errors import HubError
from plasmid.core.files import storage_error, sync_folder
from plasmid.hub.store.records import Blob

CHUNK_BYTES = 2**20
PART_BYTES = 8 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobWriter:
    """Give it chunks; once :meth:`BlobStore.writing` has ended, :attr:`blob` says what was stored."""

    blob: Blob

    def __init__(self, file: Any, *, size: int | None, max_bytes: int | None) -> None:
        self._file = file
        self._announced = size
        self._limit = min((limit for limit in (size, max_bytes) if limit is not None), default=None)
        self._sha256 = hashlib.sha256()
        self._sha1 = None if size is None else _git_hash(size)
        self.written = 0

    def write(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        HubError
            ``hub.too_large``: they are more than was announced, or than is allowed.
        StorageError
            The disk is full.
        """
        self.written += len(chunk)
        if self._limit is not None and self.written > self._limit:
            raise HubError(
                "hub.too_large",
                f"the upload is longer than {self._limit} bytes.",
                "Send what was announced; a larger file has to be split, or the hub's limit raised.",
            )
        self._sha256.update(chunk)
        if self._sha1 is not None:
            self._sha1.update(chunk)
        self._file.write(chunk)

    def digests(self) -> tuple[str, str | None]:
        """Return SHA-256 and Git's SHA-1 of what was written; None: the size was not known beforehand."""
        known = self._sha1 is not None and self.written == self._announced
        return self._sha256.hexdigest(), self._sha1.hexdigest() if self._sha1 and known else None


class BlobStore:
    """The blobs below *url*: a path, or what fsspec takes (``s3://bucket/hub``).

    Raises
    ------
    HubError
        ``hub.blobs_url``: fsspec has no driver for it here.
    """

    def __init__(self, url: str) -> None:
        try:
            # Without a cache of folders: other processes of the hub store blobs, too.
            self._files, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise HubError(
                "hub.blobs_url",
                f"blobs cannot be kept at {url.split('?')[0]}: {error}.",
                "Give a folder, or install fsspec's driver ('plasmid[s3]' for s3://).",
            ) from error
        self._local = isinstance(self._files, LocalFileSystem)
        self._parts = {} if self._local else {"block_size": PART_BYTES}

    @contextmanager
    def writing(
        self, *, size: int | None = None, sha256: str | None = None, max_bytes: int | None = None
    ) -> Iterator[BlobWriter]:
        """Yield a writer; what it was given is stored when the block ends without an error, else not at all.

        Parameters
        ----------
        size, sha256
            What was announced; None is not known. A known size saves reading the bytes once more.
        max_bytes
            What is allowed at most.

        Raises
        ------
        HubError
            ``hub.upload_differs``: the bytes are other than announced; ``hub.too_large``.
        StorageError
            The disk is full or the folder is not writable.
        """
        partial = f"{self._root}/partial/{secrets.token_hex(16)}"
        try:
            self._make_folder(f"{self._root}/partial")
            with self._files.open(partial, "wb", **self._parts) as file:
                writer = BlobWriter(file, size=size, max_bytes=max_bytes)
                try:
                    yield writer
                    found, oid = writer.digests()
                    _check(writer.written, size, found, sha256)
                    if self._local:
                        file.flush()
                        os.fsync(file.fileno())
                except BaseException:
                    _discard(file)
                    raise
            writer.blob = Blob(found, oid or self._git_oid(partial, writer.written), writer.written)
            self._move(partial, found)
        except OSError as error:
            raise storage_error(error, Path(self._root)) from error
        finally:
            with contextlib.suppress(OSError):
                if self._files.exists(partial):
                    self._files.rm_file(partial)

    def put(self, data: bytes) -> Blob:
        """Store *data*."""
        with self.writing(size=len(data)) as writer:
            writer.write(data)
        return writer.blob

    def has(self, sha256: str) -> bool:
        """Whether that blob is stored."""
        return bool(self._files.exists(self._place(sha256)))

    def path(self, sha256: str) -> Path | None:
        """Return the blob's file, None where blobs are not on this machine."""
        return Path(self._place(sha256)) if self._local else None

    def read(self, sha256: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Return bytes ``[start, end)`` (None: to its end) in chunks.

        Raises
        ------
        HubError
            ``hub.blob_missing``, at the call.
        """
        try:
            file = self._files.open(self._place(sha256), "rb", **self._parts)
            file.seek(start)
        except FileNotFoundError as error:
            raise missing(sha256) from error
        return _chunks(file, None if end is None else max(0, end - start))

    def load(self, sha256: str, *, max_bytes: int) -> bytes | None:
        """Return a blob, None if it is longer than *max_bytes*. Raises HubError (``hub.blob_missing``)."""
        data = b"".join(self.read(sha256, 0, max_bytes + 1))
        return None if len(data) > max_bytes else data

    # -- collecting --------------------------------------------------------------------------------

    def delete(self, sha256: str) -> None:
        """Take a blob away, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._place(sha256))

    def stored(self) -> Iterator[tuple[str, int, datetime | None]]:
        """Yield each blob's SHA-256, size in bytes, and when it was stored (None: not known)."""
        for first in self._listed(f"{self._root}/sha256"):
            for second in self._listed(first["name"]):
                for entry in self._listed(second["name"]):
                    name = str(entry["name"]).rpartition("/")[2]
                    if _SHA256.fullmatch(name):
                        yield name, int(entry["size"] or 0), _modified(entry)

    def drop_partial(self, before: datetime) -> int:
        """Delete what uploads that never ended left behind before that time; return how many."""
        old = [
            str(entry["name"])
            for entry in self._listed(f"{self._root}/partial")
            if (modified := _modified(entry)) is not None and modified < before
        ]
        for name in old:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(name)
        return len(old)

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        try:
            return list(self._files.ls(folder, detail=True, refresh=True))
        except FileNotFoundError:
            return []

    # -- places ------------------------------------------------------------------------------------

    def _place(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise missing(sha256)
        return f"{self._root}/sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"

    def _make_folder(self, folder: str) -> None:
        if self._local:
            Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)

    def _move(self, partial: str, sha256: str) -> None:
        place = self._place(sha256)
        self._make_folder(place.rpartition("/")[0])
        if self._local:
            Path(partial).replace(place)
            sync_folder(Path(place).parent)
        else:
            self._files.cp_file(partial, place)  # what was written aside is deleted in any case

    def _git_oid(self, partial: str, size: int) -> str:
        found = _git_hash(size)
        with self._files.open(partial, "rb", **self._parts) as file:
            while chunk := file.read(CHUNK_BYTES):
                found.update(chunk)
        return str(found.hexdigest())


def missing(sha256: str) -> HubError:
    """Return the error for a blob that is not stored."""
    return HubError(
        "hub.blob_missing", f"no file with SHA-256 {sha256[:64]} is stored here.", "Upload it first."
    )


def _git_hash(size: int) -> Any:
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


def _check(written: int, size: int | None, found: str, sha256: str | None) -> None:
    if size is not None and written != size:
        raise HubError(
            "hub.upload_differs", f"{written} bytes came, {size} were announced.", "Upload the file again."
        )
    if sha256 is not None and found != sha256:
        raise HubError(
            "hub.upload_differs",
            f"what came has the SHA-256 {found[:16]}..., {sha256[:16]}... was announced.",
            "Upload the file again; it may have been changed meanwhile.",
        )


def _discard(file: Any) -> None:
    """Have a remote store forget an upload that has not ended; closing it would complete it."""
    if isinstance(file, AbstractBufferedFile):
        with contextlib.suppress(OSError):
            file.discard()
        file.closed = True


def _chunks(file: Any, left: int | None) -> Iterator[bytes]:
    with file:
        while left is None or left > 0:
            chunk = file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            if not chunk:
                return
            left = None if left is None else left - len(chunk)
            yield chunk


def _modified(entry: dict[str, Any]) -> datetime | None:
    found = entry.get("mtime") or entry.get("LastModified") or entry.get("created")
    if isinstance(found, int | float):
        return datetime.fromtimestamp(found, UTC)
    return found if isinstance(found, datetime) else None
