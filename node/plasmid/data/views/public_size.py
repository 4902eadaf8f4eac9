"""A rounded number of privacy units in a table, for sites that are made from tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasmid.data.views.reading import read_table
from plasmid.recipes.documents import parse_document


def public_size(table: Path, document: Mapping[str, Any]) -> int:
    """Return the number of privacy units in a site's table, rounded down to two digits."""
    parsed: Any = parse_document(dict(document))
    rows = read_table(table, parsed.contract)
    patient = parsed.data.patient if parsed.privacy.unit == "patient" else None
    units: int = rows.rows if patient is None else len(set(rows.columns[patient]))
    step = int(10 ** max(0, len(str(units)) - 2))
    return max(1, units // step * step)
