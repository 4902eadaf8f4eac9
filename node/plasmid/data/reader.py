"""The reader's process: it opens one view, once, and answers with a snapshot and what was found.

Rules
-----
1. It is told the site's folder, one document, one view and the key of the site's hashes (``data.key``), which
   it uses and cannot read itself; of no other key it knows anything. It alone talks to databases and parses
   files. What it says is figures, sentences without cells, and an unnamed file.
2. It locks itself in (:mod:`plasmid.isolation.own_process`) before it imports what parses: it may read
   its source (:mod:`plasmid.data.reach`), write to a folder of its own, and connect to its server's port
   alone. A file that takes a parser over gains no more than that.
3. Frames in: ``open`` (see :func:`plasmid.data.answering.answer`). Frames out: ``progress`` (rows), then
   ``opened`` (figures, notices, steps; the descriptor of the snapshot; body: people) or ``error``.
4. It ends with its answer, or when whoever asked is gone.
5. It has no pandas. Where that is installed, pyarrow would import it, only to ask of each list whether it is
   one of pandas' own: a quarter of a second for each view that is opened.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from plasmid.core import extras
from plasmid.core.errors import PlasmidError, SiteFailed, place
from plasmid.core.files import storage_error
from plasmid.data.reach import reach_of
from plasmid.isolation import own_process as itself
from plasmid.protocol.channel import Channel, ChannelClosed


class NoPandas(MetaPathFinder):
    """Makes an import of pandas fail, as where it is not installed."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        """Raise ModuleNotFoundError for pandas, and leave everything else to the finders after this one."""
        if fullname.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def lock(request: dict[str, Any]) -> list[str]:
    """Lock this process in for *request*; return what the host cannot deny it.

    Raises
    ------
    RecipeError
        ``recipe.invalid``: the view or the connections are none.
    SiteFailed
        ``site.sandbox``: the kernel refuses the lock.
    StorageError
        The folder for what does not fit into memory cannot be made.
    """
    reach, scratch = reach_of(request), Path(request["scratch"])
    try:
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in reach.shared:  # inside it could not make them
            path.touch(exist_ok=True)
    except OSError as error:
        raise storage_error(error, scratch) from error
    os.environ["TMPDIR"] = str(scratch)
    try:
        return itself.lock_in(read=reach.files, write=[scratch, *reach.shared], ports=reach.ports)
    except OSError as error:
        what = f"the reader could not lock itself in: {error}."
        raise SiteFailed(
            "site.sandbox", what, "Run 'plasmid doctor'; a kernel of its own rules out some."
        ) from error


def main() -> None:
    """Answer one request on the channel that is standard input."""
    sys.meta_path.insert(0, NoPandas())
    channel = Channel(socket.socket(fileno=os.dup(0)))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    request, _ = channel.receive()

    def gone() -> None:
        try:
            channel.receive()
        except ChannelClosed:
            os._exit(1)

    try:
        told = lock(request)
        threading.Thread(target=gone, daemon=True).start()
        with extras.told():
            from plasmid.data.answering import answer

            answer(channel, request, told)
    except PlasmidError as error:
        channel.send({"type": "error", **error.as_dict()})
    except ChannelClosed:
        os._exit(1)
    except Exception as error:  # noqa: BLE001 - a defect; where it is goes to the site's own log, no cell does
        sys.stderr.write(place(error) + "\n")
        sys.stderr.flush()
        said = {"code": "site.failed", "message": f"The reader failed at {place(error)}.", "hint": ""}
        channel.send({"type": "error", **said})
    sys.stderr.flush()
    os._exit(0)  # libraries of databases may hold threads


if __name__ == "__main__":
    main()
