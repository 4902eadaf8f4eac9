"""How a process of ours answers: one JSON object on stdout, and the error that an exception stands for."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from plasmid.core.errors import PlasmidError
from plasmid.core.extras import not_importable
from plasmid.core.files import home, storage_error

SCHEMA = "plasmid.cli/1"


def envelope(data: Mapping[str, Any], error: PlasmidError | None) -> str:
    """Return the machine's answer: ``{"schema", "status", "data", "error"}``."""
    said = {
        "schema": SCHEMA,
        "status": "error" if error else "ok",
        "data": data,
        "error": error.as_dict() if error else None,
    }
    return json.dumps(said, ensure_ascii=False, allow_nan=False)


def known(problem: BaseException) -> tuple[PlasmidError, int] | None:
    """Return the error that *problem* stands for, and the exit status; None for a fault of our own."""
    match problem:
        case PlasmidError():
            return problem, 1
        case KeyboardInterrupt():
            error = PlasmidError("usage.interrupted", "Interrupted.", "Nothing half-written was kept.")
            return error, 130  # as a shell says it
        case ModuleNotFoundError() if not (problem.name or "plasmid").startswith("plasmid"):
            return not_importable(problem), 1
        case OSError():
            return storage_error(problem, problem.filename or home()), 1
    return None


def log_to_stderr() -> None:
    """Send the logs of this process to standard error, from the level in ``PLASMID_LOG`` on."""
    logging.basicConfig(
        level=os.environ.get("PLASMID_LOG", "WARNING").upper(),
        stream=sys.stderr,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )
