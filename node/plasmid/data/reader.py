"""The reader's process: it opens one view, once, and answers with a snapshot and what was found.

Rules
-----
1. It knows the site's folder, one document, and one view. It alone talks to databases and parses files; it
   has no private key of the site, and what it says is figures, sentences without cells, and an unnamed file.
2. Frames in: ``open`` (see :func:`answer`). Frames out: ``progress`` (rows), then ``opened`` (figures,
   notices, steps; the descriptor of the snapshot; body: people) or ``error``.
3. It ends with its answer, or when whoever asked is gone.
4. It has no pandas. Where that is installed, pyarrow would import it, only to ask of each list whether it is
   one of pandas' own: a quarter of a second for each view that is opened.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.core import extras
from plasmid.core.errors import DataError, PlasmidError, place
from plasmid.data.findings import Tally
from plasmid.data.reading import Collector
from plasmid.data.rows import Rows, wanted_columns
from plasmid.data.settings import Connections, ViewFile
from plasmid.data.viewing import open_source, query_of, transforms_of
from plasmid.recipes.documents import parse_document, patient_of, unit_of
from plasmid.training.channel import Channel, ChannelClosed

PROGRESS_S = 1.0


class NoPandas(MetaPathFinder):
    """Makes an import of pandas fail, as where it is not installed."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        """Raise ModuleNotFoundError for pandas, and leave everything else to the finders after this one."""
        if fullname.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def answer(channel: Channel, request: dict[str, Any]) -> None:
    """Open the view of *request* and say what was found.

    Parameters
    ----------
    request
        ``folder`` (the site's), ``document``, ``view`` (a :class:`ViewFile`), ``connections``, ``path`` (of
        the data folder's file, where the view names no connection), ``key`` (the site's data key, in
        hexadecimal), ``keep`` (whether a snapshot is wanted), ``scratch`` (a folder of this process's own).
    """
    folder, document = Path(request["folder"]), parse_document(request["document"])
    contract: Any = document.contract  # type: ignore[union-attr]
    data = getattr(document, "data", None)
    view = ViewFile.model_validate(request["view"])
    connections = Connections.model_validate(request["connections"])
    path = None if request["path"] is None else Path(request["path"])
    unit = unit_of(document)
    wanted, tally = wanted_columns(contract, labels=True), Tally(leaves_out=unit != "none")
    key = bytes.fromhex(request["key"])
    patient = patient_of(document)
    asked = getattr(document, "rows", None)
    scratch = Path(request["scratch"])
    transforms = transforms_of(view, wanted, folder, key=key, patient=patient, unit=unit)
    source = open_source(view, connections, folder, path=path, scratch=scratch, leaves_out=tally.leaves_out)
    try:
        query = query_of(source, view, document, wanted, tally, today=datetime.now(UTC).date())
        rows = Rows(source, query, _what(view, path), wanted, contract, transforms=transforms, tally=tally)
        collector = Collector(
            wanted,
            scratch if request["keep"] else None,
            patient=patient,
            holdout=None if asked == "both" else getattr(data, "holdout", None),
            held=asked == "holdout",
            key=key,
        )
        told = time.monotonic()
        for batch in rows:
            collector.add(batch)
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                channel.send({"type": "progress", "rows": rows.read})
        steps = [
            {"name": name, "does": does, "counts": counts}
            for does, (name, counts) in zip(transforms.describe(), transforms.counts(), strict=True)
        ]
        descriptor, figures, people = collector.finish(rows.notices)
        if not figures.rows and not tally.leaves_out:
            raise DataError(
                "data.empty",
                f"the recipe holds out every row of {_what(view, path)}, or none that is asked for.",
                "A site needs at least one row to take part.",
            )
        said = {
            "type": "opened",
            "rows": figures.rows,
            "people": figures.people,
            "by_patient": patient is not None,
            "digest": figures.digest,
            "held_out": figures.held_out,
            "notices": list(rows.notices),
            "steps": steps,
        }
        channel.send(said, people.astype(np.uint64).tobytes(), descriptor=descriptor)
    finally:
        source.close()


def _what(view: ViewFile, path: Path | None) -> str:
    return str(path) if view.source is None else f"the view of {view.source}"


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

    threading.Thread(target=gone, daemon=True).start()
    try:
        with extras.told():
            answer(channel, request)
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
