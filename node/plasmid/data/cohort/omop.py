"""The preset ``omop-5.4``: the declared tables in the OMOP Common Data Model 5.4 (OHDSI).

Rules
-----
1. Codes are standard concept identifiers, system ``omop``. An owner who wants source values says so by a map
   of the same table: ``condition: {table: condition_occurrence, system: icd10, columns: {code:
   condition_source_value}}``; what that does not name stays the preset's (:func:`with_own`).
2. Tables and columns are found whatever their case. A table that is missing is not mapped; a column that is
   missing is left out, unless the declared table needs it.
3. ``birth_datetime`` is the birth date; CDM 5.4 lets it be empty where only a year is known.
4. Deaths are a table of their own in the CDM: ``death``, beside the declared ones: ``person`` and ``date``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plasmid.core.errors import DataError
from plasmid.data.settings import ColumnMap, Local, TableMap
from plasmid.data.source import LocalTable
from plasmid.recipes.declared import ANCESTORS, TABLES

SEX = {"8507": "male", "8532": "female", "8521": "other", "8570": "other", "8551": "unknown", "0": "unknown"}
"""``gender_concept_id`` -> declared sex. 8521 is OTHER, 8570 AMBIGUOUS, 8551 UNKNOWN."""

UNITS = {
    # mass and amount in a volume
    "8840": "mg/dL", "8713": "g/dL", "8636": "g/L", "8751": "mg/L", "8837": "ug/dL", "8748": "ug/L",
    "8859": "ug/mL", "8842": "ng/mL", "8725": "ng/L", "8845": "pg/mL", "8753": "mmol/L", "8749": "umol/L",
    "8729": "pmol/L", "9557": "meq/L", "8645": "U/L", "8923": "[iU]/L", "8985": "[iU]/mL", "8723": "mg/g",
    # counts
    "8848": "10*3/uL", "8815": "10*6/uL", "9444": "10*9/L", "8647": "/uL", "8541": "/min",
    # body and vessels
    "9529": "kg", "8504": "g", "8576": "mg", "8582": "cm", "8588": "mm", "9531": "kg/m2", "8876": "mm[Hg]",
    "586323": "Cel", "8653": "Cel", "8587": "mL", "8583": "fL", "8564": "pg", "8795": "mL/min",
    "720870": "mL/min/{1.73_m2}", "9117": "mL/min/{1.73_m2}", "8752": "mm/h", "8554": "%",
    # time
    "8555": "s", "8505": "h", "8512": "d", "8511": "wk", "9580": "mo", "9448": "a",
}  # fmt: skip
"""``unit_concept_id`` -> UCUM: common units of vocabulary UCUM in OHDSI Athena, and the retired concepts 8653
and 9117 that many sites still write. A view adds others under ``units``."""


@dataclass(frozen=True)
class _Cdm:
    """A table of the CDM and its columns by declared name."""

    table: str
    columns: Mapping[str, str]
    codes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    system: str | None = None
    units: Mapping[str, str] = field(default_factory=dict)


def _event(table: str, date: str, code: str, **more: str) -> _Cdm:
    return _Cdm(table, {"person": "person_id", "date": date, "code": code, **more}, system="omop")


_CDM = {
    "person": _Cdm(
        "person",
        {"person": "person_id", "birth_date": "birth_datetime", "sex": "gender_concept_id"},
        codes={"sex": SEX},
    ),
    "condition": _event("condition_occurrence", "condition_start_date", "condition_concept_id"),
    "drug": _event(
        "drug_exposure", "drug_exposure_start_date", "drug_concept_id", end_date="drug_exposure_end_date"
    ),
    "procedure": _event("procedure_occurrence", "procedure_date", "procedure_concept_id"),
    "measurement": _Cdm(
        "measurement",
        {
            "person": "person_id",
            "date": "measurement_date",
            "code": "measurement_concept_id",
            "value": "value_as_number",
            "unit": "unit_concept_id",
        },
        system="omop",
        units=UNITS,
    ),
    "observation": _event(
        "observation", "observation_date", "observation_concept_id", value="value_as_number"
    ),
    "visit": _event("visit_occurrence", "visit_start_date", "visit_concept_id", end_date="visit_end_date"),
    "note": _event("note", "note_date", "note_class_concept_id", text="note_text"),
    "death": _Cdm("death", {"person": "person_id", "date": "death_date"}),
    "ancestor": _Cdm(
        "concept_ancestor",
        {"ancestor": "ancestor_concept_id", "descendant": "descendant_concept_id"},
        system="omop",
    ),
}
_NEEDED = {
    **{table: {name for name, needed in columns.items() if needed} for table, columns in TABLES.items()},
    "death": {"person", "date"},
    "ancestor": set(ANCESTORS),
}


def omop_tables(present: Mapping[str, LocalTable]) -> dict[str, TableMap]:
    """Return the maps of those declared tables that the database has, by declared name.

    Parameters
    ----------
    present
        The local tables.

    Raises
    ------
    DataError
        ``data.omop_incomplete``: there is no table ``person``, or a table lacks a column that is needed; all
        of them are told.
    """
    tables = {name.casefold(): name for name in reversed(list(present))}
    maps: dict[str, TableMap] = {}
    lacking = [] if "person" in tables else ["the table person"]
    for declared, cdm in _CDM.items():
        table = tables.get(cdm.table)
        if table is None:
            continue
        local = {name.casefold(): name for name in present[table].columns}
        columns: dict[str, Local | ColumnMap] = {}
        for name, column in cdm.columns.items():
            if column not in local:
                if name in _NEEDED[declared]:
                    lacking.append(f"the column {cdm.table}.{column}")
                continue
            codes = cdm.codes.get(name)
            found = local[column]
            columns[name] = ColumnMap(column=found, codes=dict(codes)) if codes else found
        maps[declared] = TableMap(table=table, columns=columns, system=cdm.system, units=dict(cdm.units))
    if lacking:
        raise DataError(
            "data.omop_incomplete",
            f"this is no complete OMOP CDM 5.4: it lacks {', '.join(lacking)}.",
            "Name the CDM's schema in the connection (schema_name), or leave out model and map the tables.",
        )
    return maps


def missing_tables(present: Mapping[str, LocalTable]) -> tuple[str, ...]:
    """Return the tables that the preset knows and the database lacks, by their names in the CDM."""
    tables = {name.casefold() for name in present}
    return tuple(cdm.table for cdm in _CDM.values() if cdm.table not in tables)


def with_own(preset: Mapping[str, TableMap], own: Mapping[str, TableMap]) -> dict[str, TableMap]:
    """Return *preset* under what the owner wrote.

    A map of the same local table replaces column by column; of another local table it replaces the whole.
    """
    maps = dict(preset)
    for declared, mine in own.items():
        given = maps.get(declared)
        if given is not None and given.table.casefold() == mine.table.casefold():
            mine = TableMap(
                table=given.table,
                columns={**given.columns, **mine.columns},
                system=mine.system or given.system,
                units={**given.units, **mine.units},
            )
        maps[declared] = mine
    return maps
