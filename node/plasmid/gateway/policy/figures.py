"""Figures that rules and explanations name: bytes that may leave, and people in a view."""

from __future__ import annotations

from typing import Any

import numpy as np

from plasmid.computations.api import Shape
from plasmid.dp.rotation import padded_length
from plasmid.gateway.open_view import Opened
from plasmid.planner.attempts import AUDIT_LENGTH, attempts
from plasmid.protocol.body import body_bytes
from plasmid.secagg.ring import TAIL


def most_bytes(document: Any, shape: Shape) -> int:
    """Return the most bytes of vectors that a site sends in one run, whatever the roster.

    The width of a word follows from the roster where noise is shared; the wider one counts.
    """
    privacy = document.privacy
    length = padded_length(shape.schema.size) if privacy.rotation == "hadamard" else shape.schema.size
    shared = privacy.shares_noise and privacy.unit != "none"
    dtype = np.dtype("<u8" if shared or shape.bits == 64 else "<u4")
    audit = getattr(privacy, "audit", None)
    extra = 0 if audit is None else body_bytes("words", AUDIT_LENGTH + TAIL, np.dtype("<u8"))
    return attempts(document) * body_bytes("words", length + TAIL, dtype) + extra


def cohort(view: Opened) -> tuple[int, str]:
    """Return how many people a view shows, and what was counted: patients, or else rows."""
    return view.people, "patients" if view.by_patient else "rows"
