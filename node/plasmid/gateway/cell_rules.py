"""The owner's rules against disclosure, and their application to what leaves without a privacy unit.

Rules
-----
1. They are in force unless the owner turns one off by null: for ``mean``, ``counts`` and ``evaluate``, whose
   numbers are cells, before anything is encoded. What a recipe's own Python returns has no cells that a node
   could know, and a record of ``trees`` is in one cell of every column at once: of those two only the number
   of values per person is looked at, at admission. Fine-tuning without a unit is not a statistic:
   ``require: unit`` is the owner's line there.
2. The figures come from the site's own worker, by this release's own code. Without them nothing in cells
   leaves.
3. What is suppressed is logged in numbers of cells, never which.
4. Which people the released cells are about is kept before they leave (:mod:`plasmid.gateway.overlap`).
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.gateway.overlap import Overlap, with_margins
from plasmid.privacy.cells import CellRules, release
from plasmid.privacy.evidence import Evidence

_LABEL = b"plasmid: people in cells"


class Disclosure(BaseModel):
    """The ``disclosure`` section of ``require``; null turns a line off.

    Attributes
    ----------
    min_cell
        Fewest people in a cell that is shown, and fewest by whom two answered queries may differ.
    dominance
        [n, k]: the n largest contributors may have at most the share k of a cell's sum of absolute values.
    max_parameters_share
        Most numbers that leave, per person.
    rounding
        Sums are told as multiples of it, in records.
    zeros
        Whether cells of nobody are shown.
    overlap
        Whether a query is refused that differs from an answered one by fewer than ``min_cell`` people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    min_cell: int | None = Field(default=11, ge=2)
    dominance: (
        Annotated[
            tuple[Annotated[int, Field(ge=1, le=2)], Annotated[float, Field(gt=0, lt=1)]], Field(strict=False)
        ]
        | None
    ) = (2, 0.9)
    max_parameters_share: float | None = Field(default=0.33, gt=0)
    rounding: int | None = Field(default=5, ge=2)
    zeros: Literal["shown", "suppressed"] = "shown"
    overlap: bool = True

    def rules(self, min_cohort: int | None) -> CellRules:
        """Return the rules for a table; a table that is smaller than a cell may be is suppressed, too."""
        return CellRules(
            min_cohort=max(min_cohort or 0, self.min_cell or 0) or None,
            min_cell=self.min_cell,
            dominance=self.dominance,
            max_parameters_share=self.max_parameters_share,
            rounding=self.rounding,
            zeros=self.zeros,
        )


def people_key(data_key: bytes) -> bytes:
    """Return the key under which a worker hashes people: 32 bytes that tell nothing of the site's own."""
    return hmac.digest(data_key, _LABEL, hashlib.sha256)


def layout_of(document: Any) -> api.Layout | None:
    """Return where the document's cells are, None if the rules for cells say nothing about it."""
    return api.layout(api.load(document.computation), document)


def controlled(
    document: Any,
    vector: NDArray[Any],
    evidence: Evidence | None,
    *,
    disclosure: Disclosure,
    min_cohort: int | None,
    folder: Path,
    run: str,
    digest: str,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return what may leave of *vector*, and the numbers for the log: empty if the rules don't concern it.

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
    layout = layout_of(document)
    if layout is None:
        return vector, {}
    if evidence is None:
        raise ProtocolError("protocol.evidence", "the worker said nothing about the people in the cells.")
    cells = evidence.cells(vector, layout.shape, counted=layout.counted)
    found = release(cells, disclosure.rules(min_cohort))
    if disclosure.overlap:
        kept = with_margins(evidence.keys, evidence.where, layout.shape, found.suppressed)
        Overlap(folder).claim(run, digest, kept, disclosure.min_cell or 2)
    told = np.concatenate([found.values.ravel(), found.suppressed.ravel()]).astype(vector.dtype)
    return told, {
        "cells": layout.cells,
        "cells_suppressed": int(found.suppressed.sum()),
        "cells_why": [f"{rule}: {number}" for rule, number in sorted(found.why.items())],
    }
