"""The declared tables: what recipes may ask about, whatever a site calls its own.

Rules
-----
1. A contract without a cohort is about one table, ``rows``, whose columns are the contract's own.
2. A cohort is about people and dated events. The columns are few on purpose: what OMOP CDM 5.4 and FHIR R4
   both have, and what a site with neither can map.
3. ``person`` of every table is the same identifier. ``date`` and ``end_date`` are days. ``code`` is a code of
   one code system: the mapping names it for the table, or ``system`` says it row by row.
"""

from __future__ import annotations

from typing import Literal

DeclaredTable = Literal[
    "person", "condition", "drug", "procedure", "measurement", "observation", "visit", "note"
]

PERSON: dict[str, bool] = {"person": True, "birth_date": False, "sex": False, "death_date": False}
_EVENT = {"person": True, "date": True, "code": True, "system": False}

TABLES: dict[str, dict[str, bool]] = {
    "person": PERSON,
    "condition": dict(_EVENT),
    "drug": {**_EVENT, "end_date": False},
    "procedure": dict(_EVENT),
    "measurement": {**_EVENT, "value": False, "unit": False},
    "observation": {**_EVENT, "value": False},
    "visit": {**_EVENT, "end_date": False},
    "note": {"person": True, "date": True, "code": False, "system": False, "text": True},
}
"""Declared table -> column -> whether a mapping must give it."""

ANCESTORS = {"ancestor": True, "descendant": True}
"""Columns of the optional declared table ``ancestor``: which code has which descendants, itself included."""

SYSTEMS = ("omop", "icd10", "icd9", "snomed", "loinc", "atc", "rxnorm", "cpt", "local")
"""Code systems by their short names; codes of ``icd10``, ``icd9`` and ``atc`` are hierarchical by prefix."""
