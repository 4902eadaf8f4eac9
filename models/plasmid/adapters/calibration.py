"""``calibration.json``: the temperature that calibrates an adapter's probabilities, and where it is from.

Rules
-----
1. It is no part of what was trained, and is not signed by those who trained: it comes later, from an
   evaluation, and stands beside the adapter. ``head.json`` may hold a temperature of its own; this one goes
   before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plasmid.adapters.files import HeadFile, json_file
from plasmid.core.bounds import parse_json
from plasmid.core.errors import ModelError

CALIBRATION = "calibration.json"
MAX_BYTES = 65_536


class Calibration(BaseModel):
    """What the file holds.

    Attributes
    ----------
    temperature
        What logits are divided by (Guo et al. 2017, arXiv 1706.04599).
    run
        The evaluation that found it.
    rows, count
        Which rows that was over, and how many.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    format: Literal["plasmid.calibration/1"] = "plasmid.calibration/1"
    temperature: Annotated[float, Field(ge=0.01, le=100)]
    run: Annotated[str, Field(max_length=200)]
    rows: Literal["holdout", "all"]
    count: Annotated[int, Field(ge=1)]


def calibration_file(evaluation: Mapping[str, Any]) -> bytes:
    """Return the file's contents from what is kept of an *evaluation* of the temperature."""
    made = Calibration(**{name: evaluation[name] for name in ("temperature", "run", "rows", "count")})
    return json_file(made.model_dump(mode="json"))


def calibrated(folder: Path, about: HeadFile) -> HeadFile:
    """Return *about* with the temperature of the file in *folder*; as it is where there is none.

    Raises
    ------
    ModelError
        ``model.adapter_invalid``: the file is too long, or is not what it should be.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return about
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too long")
        text = path.read_bytes()
        parse_json(text)
        found = Calibration.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError):
        problem = ModelError(
            "model.adapter_invalid",
            f"the adapter in {folder} cannot be used: {CALIBRATION} is not what it should be.",
            "Fetch it again from its source, or remove that file.",
        )
    else:
        return about.model_copy(update={"temperature": found.temperature})
    raise problem
