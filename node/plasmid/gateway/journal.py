"""The site's log: one JSON line per decision, appended and fsynced before the decision takes effect.

Rules
-----
1. If the line cannot be written, :meth:`Journal.write` raises and the caller lets nothing out.
2. A line holds names, digests, counts and codes; never a value from a row, a secret or a vector.
"""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from plasmid.core.files import storage_error


class Journal:
    """An append-only log file. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def write(self, event: str, **facts: str | int | float | bool | list[str] | None) -> None:
        """Append ``{"time", "event", **facts}``. Raises StorageError if it cannot be made durable."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(), "event": event, **facts}, allow_nan=False)
        try:
            with self._lock, self._path.open("ab") as file:
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, self._path) from error
