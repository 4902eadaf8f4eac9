"""The gateway's side of opening a view: start a reader, hear what it found, and hold the snapshot.

Rules
-----
1. The gateway never has a row in its memory: it holds an open, unnamed file of them, which it hands on to the
   worker, and figures.
2. The reader locks itself in, and gets an environment without anything of the site's.
3. Under a privacy unit all that is wrong with a site's data is one answer, ``data.not_ready``: no row decides
   whether the data are ready (:mod:`plasmid.data.findings`), and which problem it is stays at home.
4. The reader may take as long as the view says; then it is ended. Whatever became of it, its folder for
   what does not fit into memory is removed.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plasmid.core.errors import DataError, SiteFailed, from_dict
from plasmid.core.files import remove_tree, storage_error
from plasmid.data.settings import NAMED_IN
from plasmid.gateway.home import SiteHome
from plasmid.gateway.views import Slice
from plasmid.protocol.channel import Channel, ChannelClosed
from plasmid.recipes.documents import unit_of

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PYTHONPATH",
              "OMP_NUM_THREADS", "MKL_NUM_THREADS", *NAMED_IN)  # fmt: skip
MOST_PEOPLE_BYTES = 2**31


@dataclass
class Opened:
    """A view as it was when it was opened.

    Attributes
    ----------
    descriptor
        The snapshot, open for reading, until :meth:`close`; None where only figures were wanted.
    digest
        The snapshot's; it stays at the site.
    by_patient
        Whether people are told apart by an identifier; else every row counts as somebody's.
    rows, people, held_out
        Numbers of rows, of people in them, and of rows that the recipe holds out.
    notices
        What the owner should know, a sentence each.
    steps
        What each transform of the view did: ``name``, ``does`` (a sentence) and ``counts``.
    keys
        The keyed hashes of the people, uint64 big to small as bytes: native order, ascending.
    """

    descriptor: int | None
    digest: str | None
    rows: int
    people: int
    by_patient: bool = False
    held_out: int = 0
    notices: tuple[str, ...] = ()
    steps: tuple[dict[str, Any], ...] = ()
    keys: bytes = field(default=b"", repr=False)

    def close(self) -> None:
        """Let go of the snapshot; calling it again does nothing."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def open_view(
    home: SiteHome,
    part: Slice,
    document: Any,
    *,
    keep: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Opened:
    """Return what *document* may see of *part*, read now.

    Parameters
    ----------
    keep
        False leaves out the snapshot: for figures alone.
    progress
        Called about every second with the rows read so far.

    Raises
    ------
    DataError
        ``data.absent``: the view names no source; what is wrong with the rows, or their source;
        ``data.source_timeout``: the view's limit is over.
    SiteFailed
        ``site.failed``: the reader ended unexpectedly; ``site.sandbox``: it could not lock itself in, or did
        what no reader does.
    StorageError
        The site's folder cannot be written.
    """
    if part.source is None:
        home.table(document.name)  # says why there is none
    request = _request(home, part, document, keep=keep)
    process, channel = _started(home)
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(part.file.limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        channel.send(request)
        while True:
            header, body = channel.receive(most_bytes=MOST_PEOPLE_BYTES, files=True)
            if header["type"] == "opened":
                return _opened(header, bytes(body))
            if header["descriptor"] is not None:
                os.close(header["descriptor"])
            if header["type"] == "error":
                raise from_dict(header)
            if progress is not None:
                progress(int(header["rows"]))
    except ChannelClosed:
        gone = True
    finally:
        timer.cancel()
        channel.close()
        process.kill()
        process.wait()
        remove_tree(Path(request["scratch"]))
    if late.is_set() and gone:
        raise DataError(
            "data.source_timeout",
            f"the view was not read within {part.file.limit_s:g} s.",
            "Narrow the view, help the database with an index, or raise limit_s in the view's file.",
        )
    if process.returncode == -signal.SIGSYS:
        raise SiteFailed(
            "site.sandbox",
            "the reader was ended: it made a system call that no reader makes.",
            "Its source may attack whoever reads it. Do not open it again before you know why.",
        )
    raise SiteFailed(
        "site.failed",
        "the reader ended unexpectedly.",
        "See reader.log in the site's folder; is memory short?",
    )


@contextmanager
def told_alike(document: Any) -> Iterator[None]:
    """Make one error, ``data.not_ready``, of each that is about data, where *document* has a privacy unit."""
    try:
        yield
    except (DataError, SiteFailed) as error:
        ended = error.code in ("site.failed", "site.sandbox")  # a row may end a reader
        if unit_of(document) == "none" or not (isinstance(error, DataError) or ended):
            raise
        raise DataError("data.not_ready", f"{error.code}: {error.message}", error.hint) from error


def _request(home: SiteHome, part: Slice, document: Any, *, keep: bool) -> dict[str, Any]:
    return {
        "type": "open",
        "folder": str(home.folder),
        "document": document.model_dump(mode="json"),
        "view": part.file.model_dump(mode="json"),
        "connections": part.connections.model_dump(mode="json"),
        "path": None if part.path is None else str(part.path),
        "key": home.data_key().hex(),
        "keep": keep,
        "scratch": str(home.scratch / f"reader-{secrets.token_hex(8)}"),
    }


def _started(home: SiteHome) -> tuple[subprocess.Popen[bytes], Channel]:
    ours, theirs = socket.socketpair()
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        with theirs, (home.folder / "reader.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "plasmid.data.reader"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
            )
    except OSError as error:
        ours.close()
        raise storage_error(error, home.folder) from error
    return process, Channel(ours)


def _opened(header: dict[str, Any], keys: bytes) -> Opened:
    return Opened(
        descriptor=header["descriptor"],
        digest=header["digest"],
        rows=header["rows"],
        people=header["people"],
        by_patient=header["by_patient"],
        held_out=header["held_out"],
        notices=tuple(header["notices"]),
        steps=tuple(header["steps"]),
        keys=keys,
    )
