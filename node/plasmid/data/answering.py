"""What a reader does once it is locked in: open one view, read its rows, and say what was found.

Imported by :mod:`plasmid.data.reader` when nothing that is parsed here can reach more than its source.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.core.errors import DataError
from plasmid.data.findings import Tally
from plasmid.data.settings import Connections, ViewFile
from plasmid.data.views.reading import Collector
from plasmid.data.views.rows import Rows, wanted_columns
from plasmid.data.views.viewing import open_source, query_of, transforms_of
from plasmid.protocol.channel import Channel
from plasmid.recipes.documents import parse_document, patient_of, unit_of

PROGRESS_S = 1.0


def answer(channel: Channel, request: dict[str, Any], told: Sequence[str] = ()) -> None:
    """Open the view of *request* and say what was found.

    Parameters
    ----------
    request
        ``folder`` (the site's), ``document``, ``view`` (a :class:`ViewFile`), ``connections``, ``path`` (of
        the data folder's file, where the view names no connection), ``key`` (the site's data key, in
        hexadecimal), ``keep`` (whether a snapshot is wanted), ``scratch`` (a folder of this process's own).
    told
        What the owner should know beside what the rows say.
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
        last = time.monotonic()
        for batch in rows:
            collector.add(batch)
            if time.monotonic() - last > PROGRESS_S:
                last = time.monotonic()
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
            "notices": [*told, *rows.notices],
            "steps": steps,
        }
        channel.send(said, people.astype(np.uint64).tobytes(), descriptor=descriptor)
    finally:
        source.close()


def _what(view: ViewFile, path: Path | None) -> str:
    return str(path) if view.source is None else f"the view of {view.source}"
