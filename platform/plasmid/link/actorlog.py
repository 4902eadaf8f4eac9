"""Where the coordinator's Ray actors log: one file in the coordinator's folder, not Ray's session folder."""

from __future__ import annotations

import logging
from pathlib import Path


def log_to(folder: Path) -> None:
    """Send this process's log to ``coordinator.log`` in *folder*."""
    logging.basicConfig(
        filename=folder / "coordinator.log",
        level=logging.INFO,
        format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s",
        force=True,
    )
