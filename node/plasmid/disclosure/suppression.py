"""The rules against disclosure, applied to a vector of cells before it is encoded.

Rules
-----
1. The figures come from the site's own worker, by this release's own code. Without them nothing in cells
   leaves.
2. What is suppressed is logged in numbers of cells, never which.
3. Which people the released cells are about is kept before they leave (:mod:`plasmid.disclosure.overlap`).
4. A site's process imports this with the first run that has cells, and not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.disclosure.cells import CellRules, release
from plasmid.disclosure.contributors import Evidence
from plasmid.disclosure.overlap import Overlap, with_margins
from plasmid.disclosure.rules import Disclosure


def controlled(
    layout: api.Layout,
    vector: NDArray[Any],
    evidence: Evidence | None,
    *,
    disclosure: Disclosure,
    min_cohort: int | None,
    folder: Path,
    run: str,
    digest: str,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return what may leave of *vector*, and the numbers for the log.

    Parameters
    ----------
    folder
        Where the sets of people are kept, of this population alone.
    digest
        Of the document.

    Raises
    ------
    ProtocolError
        ``protocol.evidence``: the worker said nothing about the cells.
    PolicyRefused
        ``policy.overlap``.
    StorageError
        What was asked before can't be read, or this can't be kept.
    """
    if evidence is None:
        raise ProtocolError("protocol.evidence", "the worker said nothing about the people in the cells.")
    cells = evidence.cells(vector, layout.shape, counted=layout.counted)
    found = release(cells, rules(disclosure, min_cohort))
    if disclosure.overlap:
        kept = with_margins(evidence.keys, evidence.where, layout.shape, found.suppressed)
        Overlap(folder).claim(run, digest, kept, disclosure.min_cell or 2)
    told = np.concatenate([found.values.ravel(), found.suppressed.ravel()]).astype(vector.dtype)
    return told, {
        "cells": layout.cells,
        "cells_suppressed": int(found.suppressed.sum()),
        "cells_why": [f"{rule}: {number}" for rule, number in sorted(found.why.items())],
    }


def rules(disclosure: Disclosure, min_cohort: int | None) -> CellRules:
    """Return the rules for a table; a table that is smaller than a cell may be is suppressed, too."""
    return CellRules(
        min_cohort=max(min_cohort or 0, disclosure.min_cell or 0) or None,
        min_cell=disclosure.min_cell,
        dominance=disclosure.dominance,
        max_parameters_share=disclosure.max_parameters_share,
        rounding=disclosure.rounding,
        zeros=disclosure.zeros,
    )
