"""The state folder, and writes that are either whole or absent.

Rules
-----
1. All state lives under :func:`home`.
2. A file or folder appears under its final name only when it is complete (write aside, fsync,
   rename); a failed write leaves nothing behind and raises ``storage.*``.
3. What several processes change, they change under its lock (:func:`locked`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from plasmid.core.errors import StorageError


def home() -> Path:
    """Return the state folder: ``$PLASMID_HOME``, by default ``~/.plasmid``."""
    return Path(os.environ.get("PLASMID_HOME") or Path.home() / ".plasmid").expanduser().absolute()


def storage_error(error: OSError, path: Path) -> StorageError:
    """Return *error* as a :class:`StorageError` that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            "storage.full",
            f"no space left to write {path}.",
            "Free some space, or set PLASMID_HOME to another disk's folder; nothing half-written was kept.",
        )
    return StorageError(
        "storage.unwritable",
        f"cannot write {path}: {error.strerror or error}.",
        "Check that the folder exists and that you may write to it.",
    )


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, lasting: bool = True) -> None:
    """Write *data* to *path* so that a reader sees the old file or the new one, never a part.

    Parameters
    ----------
    lasting
        Whether the new file must be there after a loss of power; False: the old one may be, which saves a
        wait for the disk.

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable; *path* is then as it was.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        if lasting:
            sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise storage_error(error, path) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in *folder* survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes *path* (replacing it) when the block ends without error.

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable; *path* is then as it was.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        retired = path.with_name(f".{path.name}.{secrets.token_hex(4)}.retired")
        if path.exists():
            path.replace(retired)
        partial.replace(path)
        shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock that belongs to *path*, against other processes and other threads.

    Raises
    ------
    StorageError
        The lock, ``<path>.lock``, cannot be opened.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        file = lock.open("ab")
    except OSError as error:
        raise storage_error(error, lock) from error
    with file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # a lock per opened file: released when it is closed
        yield


def remove_tree(folder: Path) -> None:
    """Remove *folder* and what is in it, whatever modes it has; links are not followed."""
    for path, folders, _files in os.walk(folder):
        for name in folders:
            if not (Path(path) / name).is_symlink():
                (Path(path) / name).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
