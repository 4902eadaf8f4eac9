"""The preset of the OMOP CDM 5.4 on a small database with the official names."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort.compile import compile_cohort
from plasmid.data.cohort.omop import UNITS, missing_tables, omop_tables, with_own
from plasmid.data.settings import ColumnMap, SqlConnection, TableMap
from plasmid.data.source import LocalTable
from plasmid.data.sources.sql import open_sql
from plasmid.recipes.cohort import SEXES, Cohort
from plasmid.recipes.columns import Column
from plasmid.recipes.declared import SYSTEMS, TABLES

# Names and types of the OMOP CDM 5.4 data definition, columns that the preset does not read among them.
CDM = {
    "person": """person_id INTEGER, gender_concept_id INTEGER, year_of_birth INTEGER, month_of_birth INTEGER,
        day_of_birth INTEGER, birth_datetime TIMESTAMP, race_concept_id INTEGER, ethnicity_concept_id INTEGER,
        location_id INTEGER, provider_id INTEGER, care_site_id INTEGER, person_source_value VARCHAR(50),
        gender_source_value VARCHAR(50), gender_source_concept_id INTEGER""",
    "condition_occurrence": """condition_occurrence_id INTEGER, person_id INTEGER,
        condition_concept_id INTEGER, condition_start_date DATE, condition_start_datetime TIMESTAMP,
        condition_end_date DATE, condition_type_concept_id INTEGER, condition_source_value VARCHAR(50)""",
    "drug_exposure": """drug_exposure_id INTEGER, person_id INTEGER, drug_concept_id INTEGER,
        drug_exposure_start_date DATE, drug_exposure_end_date DATE, quantity NUMERIC, days_supply INTEGER""",
    "procedure_occurrence": """procedure_occurrence_id INTEGER, person_id INTEGER,
        procedure_concept_id INTEGER, procedure_date DATE, procedure_source_value VARCHAR(50)""",
    "measurement": """measurement_id INTEGER, person_id INTEGER, measurement_concept_id INTEGER,
        measurement_date DATE, operator_concept_id INTEGER, value_as_number NUMERIC,
        value_as_concept_id INTEGER, unit_concept_id INTEGER, range_low NUMERIC, range_high NUMERIC,
        unit_source_value VARCHAR(50)""",
    "observation": """observation_id INTEGER, person_id INTEGER, observation_concept_id INTEGER,
        observation_date DATE, value_as_number NUMERIC, value_as_string VARCHAR(60)""",
    "visit_occurrence": """visit_occurrence_id INTEGER, person_id INTEGER, visit_concept_id INTEGER,
        visit_start_date DATE, visit_end_date DATE, visit_type_concept_id INTEGER""",
    "note": """note_id INTEGER, person_id INTEGER, note_date DATE, note_type_concept_id INTEGER,
        note_class_concept_id INTEGER, note_title VARCHAR(250), note_text TEXT""",
    "death": "person_id INTEGER, death_date DATE, death_datetime TIMESTAMP, cause_concept_id INTEGER",
    "concept_ancestor": """ancestor_concept_id INTEGER, descendant_concept_id INTEGER,
        min_levels_of_separation INTEGER, max_levels_of_separation INTEGER""",
}


@pytest.fixture
def present(tmp_path: Path) -> dict[str, LocalTable]:
    """The local tables of a CDM in SQLite, which the test may read as well."""
    database = sqlite3.connect(tmp_path / "cdm.db")
    for table, columns in CDM.items():
        database.execute(f"CREATE TABLE {table} ({columns})")
    database.execute(
        "INSERT INTO person (person_id, gender_concept_id, birth_datetime) VALUES "
        "(1, 8532, '1980-02-29 00:00:00'), (2, 8507, '1950-01-01 00:00:00')"
    )
    database.execute(
        "INSERT INTO condition_occurrence (person_id, condition_concept_id, condition_start_date) "
        "VALUES (1, 443238, '2020-06-01'), (2, 4329847, '2020-06-01')"
    )
    database.execute(
        "INSERT INTO concept_ancestor (ancestor_concept_id, descendant_concept_id) "
        "VALUES (201820, 201820), (201820, 443238)"
    )
    database.execute(
        "INSERT INTO measurement (person_id, measurement_concept_id, measurement_date, value_as_number, "
        "unit_concept_id) VALUES (1, 3004410, '2020-05-06', 6.5, 8554), (1, 3004410, '2020-05-07', 7, 8554)"
    )
    database.commit()
    database.close()
    source = open_sql(SqlConnection(kind="sql", url="sqlite:///cdm.db"), tmp_path, limit_s=10)
    tables = dict(source.tables())
    source.close()
    return tables


def test_every_declared_table_is_mapped_to_columns_that_are_there(present: dict[str, LocalTable]) -> None:
    maps = omop_tables(present)
    assert set(maps) == {*TABLES, "death", "ancestor"}
    assert missing_tables(present) == ()
    for declared, one in maps.items():
        assert {one.column(name).column for name in one.columns} <= set(present[one.table].columns)  # type: ignore[union-attr]
        if declared in TABLES:
            needed = {name for name, must in TABLES[declared].items() if must}
            assert needed <= set(one.columns) <= set(TABLES[declared])
    assert {one.system for name, one in maps.items() if name not in ("person", "death")} == {"omop"}
    assert "omop" in SYSTEMS
    sex = maps["person"].column("sex")
    assert sex is not None
    assert sex.codes is not None
    assert (sex.column, sex.codes["8507"], sex.codes["8532"]) == ("gender_concept_id", "male", "female")
    assert set(sex.codes.values()) == set(SEXES)
    assert maps["measurement"].units["8840"] == "mg/dL"
    assert maps["drug"].column("end_date") == ColumnMap(column="drug_exposure_end_date")


def test_a_plain_query_by_the_preset_reads_the_rows(present: dict[str, LocalTable], tmp_path: Path) -> None:
    source = open_sql(SqlConnection(kind="sql", url="sqlite:///cdm.db"), tmp_path, limit_s=10)
    one = omop_tables(present)["measurement"]
    asked = exp.select(*(exp.alias_(exp.column(one.column(name).column), name) for name in one.columns))  # type: ignore[union-attr]
    rows = [row for batch in source.select(asked.from_(one.table)) for row in batch.to_pylist()]
    source.close()
    assert rows == [
        {"person": 1, "date": "2020-05-06", "code": 3004410, "value": 6.5, "unit": 8554},
        {"person": 1, "date": "2020-05-07", "code": 3004410, "value": 7.0, "unit": 8554},
    ]
    assert one.units[str(rows[0]["unit"])] == "%"


def test_a_cohort_by_the_preset_gives_its_rows(present: dict[str, LocalTable], tmp_path: Path) -> None:
    columns: dict[str, dict[str, object]] = {
        "age": {"type": "number", "bounds": [0, 120]},
        "sex": {"type": "category", "vocabulary": ["female", "male"]},
        "hba1c": {"type": "number", "bounds": [0, 1], "unit": "1"},
    }
    recent = {"table": "measurement", "concepts": "hba1c", "within": {"days_before": 365}}
    cohort = Cohort.model_validate(
        {
            "concepts": {
                "diabetes": {"codes": {"omop": ["201820"]}, "descendants": True},
                "hba1c": {"codes": {"omop": ["3004410"]}, "descendants": False},
            },
            "index": {"table": "condition", "concepts": "diabetes", "pick": "first"},
            "columns": {
                "age": {"take": "age"},
                "sex": {"take": "sex"},
                "hba1c": {"take": "value", "pick": "min", **recent},
            },
        }
    )
    contract = TypeAdapter(dict[str, Column]).validate_python(columns)
    compiled = compile_cohort(cohort, contract, omop_tables(present), "sqlite", date(2024, 1, 1))
    source = open_sql(SqlConnection(kind="sql", url="sqlite:///cdm.db"), tmp_path, limit_s=10)
    rows = [row for batch in source.select(compiled.select) for row in batch.to_pylist()]
    source.close()
    assert rows == [{"age": 40, "sex": "female", "hba1c": pytest.approx(0.065)}]


def test_names_in_another_case_are_found(present: dict[str, LocalTable]) -> None:
    loud = {
        name.upper(): LocalTable({column.upper(): kind for column, kind in table.columns.items()})
        for name, table in present.items()
    }
    person = omop_tables(loud)["person"]
    assert (person.table, person.column("person")) == ("PERSON", ColumnMap(column="PERSON_ID"))


def test_tables_that_are_missing_are_told_and_not_mapped(present: dict[str, LocalTable]) -> None:
    some = {name: table for name, table in present.items() if name not in ("note", "concept_ancestor")}
    assert missing_tables(some) == ("note", "concept_ancestor")
    assert set(omop_tables(some)) == {*TABLES, "death"} - {"note"}
    old = {**present, "person": LocalTable({"person_id": "INTEGER", "gender_concept_id": "INTEGER"})}
    assert set(omop_tables(old)["person"].columns) == {"person", "sex"}


def test_all_that_is_needed_and_missing_is_told_at_once(present: dict[str, LocalTable]) -> None:
    some = {name: table for name, table in present.items() if name != "person"}
    some["note"] = LocalTable({"person_id": "INTEGER", "note_text": "TEXT"})
    with pytest.raises(DataError) as error:
        omop_tables(some)
    assert error.value.code == "data.omop_incomplete"
    assert "lacks the table person, the column note.note_date." in error.value.message
    assert "schema_name" in error.value.hint


def test_an_owner_chooses_source_values_and_keeps_the_rest(present: dict[str, LocalTable]) -> None:
    own = {
        "condition": TableMap(
            table="condition_occurrence", system="icd10", columns={"code": "condition_source_value"}
        ),
        "measurement": TableMap(table="measurement", units={"4118323": "g/dL"}),
        "note": TableMap(table="letters", columns={"person": "id", "date": "day", "text": "body"}),
    }
    preset = omop_tables(present)
    maps = with_own(preset, own)
    assert maps["condition"] == TableMap(
        table="condition_occurrence",
        system="icd10",
        columns={"person": "person_id", "date": "condition_start_date", "code": "condition_source_value"},
    )
    assert maps["measurement"].units == {**UNITS, "4118323": "g/dL"}
    assert maps["measurement"].columns == preset["measurement"].columns
    assert maps["note"] == own["note"]
    assert maps["drug"] is preset["drug"]


def test_every_unit_is_a_ucum_unit() -> None:
    registry = pytest.importorskip("ucumvert").PintUcumRegistry()
    for concept, unit in UNITS.items():
        assert concept.isdigit()
        registry.from_ucum(unit)
    assert registry.from_ucum(UNITS["8840"]).to("g/L").magnitude == pytest.approx(0.01)
