"""The mapping of a view over a FHIR connection: its tables already are the declared ones."""

from __future__ import annotations

from collections.abc import Collection

from plasmid.data.settings import TableMap
from plasmid.recipes.declared import TABLES


def fhir_tables(present: Collection[str]) -> dict[str, TableMap]:
    """Return the identity mapping of those declared tables that are *present* in the source."""
    return {
        name: TableMap(table=name, columns={column: column for column in columns})
        for name, columns in TABLES.items()
        if name in present
    }
