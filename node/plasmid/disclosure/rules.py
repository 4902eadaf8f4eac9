"""The owner's rules against disclosure, for what leaves without a privacy unit.

They are in force unless the owner turns one off by null: for ``mean``, ``counts`` and ``evaluate``, whose
numbers are cells, before anything is encoded (:mod:`plasmid.disclosure.suppression`). What a recipe's own
Python returns has no cells that a node could know, and a record of ``trees`` is in one cell of every column
at once: of those two only the number of values per person is looked at, at admission. Fine-tuning without a
unit is not a statistic: ``require: unit`` is the owner's line there.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from plasmid.computations import api

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


def people_key(data_key: bytes) -> bytes:
    """Return the key under which a worker hashes people: 32 bytes that tell nothing of the site's own."""
    return hmac.digest(data_key, _LABEL, hashlib.sha256)


def layout_of(document: Any) -> api.Layout | None:
    """Return where the document's cells are, None if the rules for cells say nothing about it."""
    return api.layout(api.load(document.computation), document)
