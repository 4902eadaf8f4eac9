"""A cohort gives the rows that plain Python finds in DuckDB, SQLite and PostgreSQL; one SELECT everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import sqlglot
from pydantic import TypeAdapter
from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort.compile import Compiled, compile_cohort, compile_rows
from plasmid.data.cohort.dialects import DIALECTS
from plasmid.data.settings import ColumnMap, TableMap
from plasmid.recipes.cohort import Cohort
from plasmid.recipes.columns import AnyColumn, Column
from support.hospital.cohort_hospital import (
    TODAY,
    Event,
    Hospital,
    hospital,
    in_duckdb,
    in_sqlite,
    mappings,
    statements,
)
from support.hospital.cohort_in_python import Evaluated
from support.servers.postgres_server import Postgres

Rows = list[tuple[Any, ...]]
Run = Callable[[exp.Select], Rows]
COLUMNS: dict[str, dict[str, Any]] = {
    "person": {"type": "identifier"},
    "sex": {"type": "category", "vocabulary": ["F", "M", "other"], "missing": "allowed"},
    "age": {"type": "number", "bounds": [0, 120], "missing": "allowed"},
    "hba1c": {"type": "number", "bounds": [0, 200], "unit": "%", "missing": "allowed"},
    "raw": {"type": "number", "bounds": [0, 200], "missing": "allowed"},
    "outcome": {"type": "label"},
    "visits": {"type": "number", "bounds": [0, 99]},
    "letter": {"type": "text", "max_length": 64},
    "diagnosis": {"type": "category", "vocabulary": ["E11"], "missing": "allowed"},
    "survival": {"type": "number", "bounds": [0, 9999], "missing": "allowed"},
    "year": {"type": "number", "bounds": [1900, 2100]},
    "month": {"type": "number", "bounds": [1, 12]},
}
CONCEPTS = {
    "diabetes": {"codes": {"icd10": ["E11", "e10"], "snomed": ["44054006"]}, "descendants": True},
    "type2": {"codes": {"icd10": ["E11"]}, "descendants": False},
    "inpatient": {"codes": {"local": ["IP"]}, "descendants": False},
    "hba1c": {"codes": {"loinc": ["4548-4"]}, "descendants": False},
    "metformin": {"codes": {"omop": ["1503297"], "rxnorm": ["6809"]}, "descendants": True},
}
YEAR = {"days_before": 365}
NEXT = {"days_before": -1, "days_after": 30}
TAKE: dict[str, dict[str, Any]] = {
    "person": {"take": "person"},
    "sex": {"take": "sex", "values": {"female": "F", "male": "M"}},
    "age": {"take": "age"},
    "hba1c": {"take": "value", "table": "measurement", "concepts": "hba1c", "within": YEAR, "pick": "last"},
    "raw": {"take": "value", "table": "measurement", "within": {"days_before": "ever"}, "pick": "max"},
    "outcome": {
        "take": "present",
        "table": "visit",
        "concepts": "inpatient",
        "within": NEXT,
        "values": ["yes", "no"],
    },
    "visits": {"take": "count", "table": "visit", "within": YEAR},
    "letter": {"take": "text", "within": {"days_before": "ever", "days_after": "ever"}, "pick": "first"},
    "diagnosis": {
        "take": "code",
        "table": "condition",
        "within": {"days_before": 400, "days_after": 400},
        "pick": "last",
    },
    "survival": {"take": "days", "table": "death", "within": {"days_after": "ever"}, "pick": "first"},
    "year": {"take": "index", "part": "year"},
    "month": {"take": "index", "part": "month"},
}
SPECS: dict[str, dict[str, Any]] = {
    "first diabetes, looked back": {
        "index": {"table": "condition", "concepts": "diabetes", "pick": "first"},
        "where": [{"observed_days": 60}, {"age": {"at_least": 18, "at_most": 88}}],
    },
    "every stay, nested": {
        "index": {"table": "visit", "concepts": "inpatient", "pick": "every"},
        "where": [
            {
                "any": [
                    {"sex": ["female"]},
                    {"all": [{"age": {"at_least": 60}}, {"none": [{"sex": ["other"]}]}]},
                ]
            },
            {"event": {"table": "condition", "concepts": "type2", "within": {"days_before": "ever"}}},
        ],
    },
    "a fixed day, by value": {
        "index": {"date": "2022-12-31"},
        "where": [
            {
                "event": {
                    "table": "measurement",
                    "concepts": "hba1c",
                    "within": {"since": "2022-01-01", "until": "2023-06-30"},
                    "value": {"at_least": 6.5, "at_most": 60.0, "unit": "%"},
                    "at_least": 2,
                }
            },
            {"none": [{"event": {"table": "death", "within": {"days_before": "ever"}}}]},
        ],
    },
    "last drug of a hierarchy": {
        "index": {
            "table": "drug",
            "concepts": "metformin",
            "pick": "last",
            "between": {"since": "2022-03-01"},
        },
        "where": [{"none": [{"age": {"at_most": 17}}, {"sex": ["male", "unknown"]}]}],
    },
}


def contract(*names: str) -> dict[str, AnyColumn]:
    adapter: TypeAdapter[AnyColumn] = TypeAdapter(Column)
    return {name: adapter.validate_python(COLUMNS[name]) for name in names or COLUMNS}


def cohort(spec: Mapping[str, Any], *names: str) -> Cohort:
    definitions = {name: TAKE[name] for name in names or COLUMNS}
    return Cohort.model_validate({"concepts": CONCEPTS, "columns": definitions, **spec})


def compiled(spec: Mapping[str, Any], dialect: str, *names: str, tables: Any = None) -> Compiled:
    return compile_cohort(cohort(spec, *names), contract(*names), tables or mappings(), dialect, TODAY)


def in_postgres(running: Postgres, given: Hospital, name: str) -> Run:
    running.database(name)
    url = running.url(name).replace("+psycopg", "")
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for statement, rows in statements(given):
            cursor.execute(statement) if not rows else cursor.executemany(statement.replace("?", "%s"), rows)

    def run(select: exp.Select) -> Rows:
        with psycopg.connect(url) as connection:
            return connection.execute(select.sql("postgres").encode()).fetchall()

    return run


@pytest.fixture(scope="module")
def given() -> Hospital:
    return hospital()


@pytest.fixture(scope="module")
def engines(given: Hospital, postgres: Postgres) -> Iterator[dict[str, Run]]:
    duck, lite = in_duckdb(given), in_sqlite(given)
    yield {
        "duckdb": lambda select: duck.execute(select.sql("duckdb")).fetchall(),
        "sqlite": lambda select: lite.execute(select.sql("sqlite")).fetchall(),
        "postgres": in_postgres(postgres, given, "cohorts"),
    }
    duck.close()
    lite.close()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_engines_and_plain_python_give_the_same_rows_in_the_same_order(
    spec: dict[str, Any], given: Hospital, engines: dict[str, Run]
) -> None:
    wanted = Evaluated(cohort(spec), given, {"hba1c": "%"}).rows(list(COLUMNS))
    assert 15 < len(wanted) < 1500
    for dialect, run in engines.items():
        query = compiled(spec, dialect)
        assert query.select.named_selects == list(COLUMNS)
        assert [check.code for check in query.checks if run(check.query) != [(0,)]] == []
        assert run(query.select) == wanted, dialect


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("spec", list(SPECS.values())[1:3], ids=list(SPECS)[1:3])
def test_every_dialect_gets_one_select_that_reads_back(spec: dict[str, Any], dialect: str) -> None:
    query = compiled(spec, dialect)
    for select in (query.select, query.checks[0].query):
        (read,) = sqlglot.parse(select.sql(dialect), dialect=dialect)
        assert isinstance(read, exp.Select)
    assert query.select.named_selects == list(COLUMNS)
    local = {mapping.table for mapping in mappings().values()}
    own = {part.alias for part in query.select.find_all(exp.CTE)}
    assert {table.name for table in query.select.find_all(exp.Table)} <= local | own


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("postgres", 'TRIM(CAST("b"."ID" AS TEXT)) COLLATE "C"'),
        ("mysql", "TRIM(CAST(`b`.`ID` AS CHAR CHARACTER SET utf8mb4)) COLLATE utf8mb4_bin"),
        ("tsql", "TRIM(CONVERT(NVARCHAR(4000), [b].[ID], 23)) COLLATE Latin1_General_BIN2"),
        ("oracle", 'TRIM(CAST("b"."ID" AS VARCHAR2(4000)))'),
    ],
)
def test_text_is_compared_by_code_points_whatever_the_collation(dialect: str, text: str) -> None:
    assert text in compiled(SPECS["a fixed day, by value"], dialect).select.sql(dialect)


def test_letters_beyond_ascii_are_national_where_they_must_be() -> None:
    spec = {
        "concepts": {"stay": {"codes": {"local": ["Stationär"]}, "descendants": False}},
        "index": {"table": "visit", "concepts": "stay", "pick": "first"},
    }
    written = {dialect: compiled(spec, dialect, "person").select.sql(dialect) for dialect in DIALECTS}
    assert [dialect for dialect in DIALECTS if "N'Stationär'" in written[dialect]] == ["tsql", "oracle"]


def altered(table: str, **change: Any) -> dict[str, TableMap]:
    tables = mappings()
    document = tables[table].model_dump()
    document["columns"] = {**document["columns"], **change.pop("columns", {})}
    found = TableMap.model_validate({**document, **change})
    gone = {name: how for name, how in found.columns.items() if how != "-"}
    return {**tables, table: found.model_copy(update={"columns": gone})}


FIRST = SPECS["first diabetes, looked back"]


@pytest.mark.parametrize(
    ("tables", "code", "told"),
    [
        ({k: v for k, v in mappings().items() if k != "measurement"}, "data.table_unmapped", "measurement"),
        (altered("person", columns={"sex": "-"}), "data.column_unmapped", "person.sex"),
        (altered("condition", system="snomed"), "data.hierarchy_missing", "diabetes"),
        (altered("condition", system="atc"), "data.code_system_unmapped", "coded in atc"),
        (altered("measurement", columns={"unit": "-"}), "data.unit_unmapped", "measurement.value in %"),
        (
            altered("measurement", columns={"unit": "-", "value": {"column": "val", "unit": "kg"}}),
            "data.unit_unconvertible",
            "'kg'",
        ),
        (
            altered("visit", columns={"date": {"column": "Datum", "date_format": "%d. %B %Y"}}),
            "data.date_format",
            "%d. %B %Y",
        ),
    ],
)
def test_what_a_mapping_lacks_is_told_before_anything_is_read(
    tables: dict[str, TableMap], code: str, told: str
) -> None:
    with pytest.raises(DataError) as caught:
        compiled(FIRST, "duckdb", tables=tables)
    assert caught.value.code == code
    assert told in caught.value.message
    assert caught.value.hint


def test_what_would_be_passed_over_in_silence_is_counted(given: Hospital) -> None:
    events = dict(given.events)
    name = next(iter(given.people))
    events["measurement"] = [
        *events["measurement"],
        *(Event(name, 19_000, "4548-4", 7.0, unit) for unit in ("mg/dl", "mg/dl", None)),
    ]
    connection = in_duckdb(replace(given, events=events))
    connection.execute("UPDATE t_visit SET \"Datum\" = '30.02.2022' WHERE rowid < 3")
    connection.execute("UPDATE t_condition SET \"Datum\" = '2025-01-02' WHERE rowid < 2")
    connection.execute('UPDATE "Patienten" SET "Geschlecht" = \'W\' WHERE rowid < 4')
    connection.execute('UPDATE "Patienten" SET "ID" = \' x\' WHERE rowid > 290 AND rowid < 296')
    connection.execute("UPDATE t_measurement SET val = '7,5' WHERE \"Code\" = '4548-4' AND rowid < 30")
    commas = connection.execute("SELECT count(*) FROM t_measurement WHERE val = '7,5'").fetchone()
    assert commas is not None
    tables = altered(
        "measurement",
        units={"%": "%", "pct": "%", "Promille": "[ppth]", "mmol/mol": "mmol/mol", "mg/dl": "mg/dL"},
    )
    query = compiled(FIRST, "duckdb", "person", "sex", "hba1c", "visits", tables=tables)
    counts = {
        (check.code, check.table, check.column): connection.execute(check.query.sql("duckdb")).fetchone()
        for check in query.checks
    }
    wrong = {key: found[0] for key, found in counts.items() if found and found[0]}
    assert wrong == {
        ("data.date_unreadable", "visit", "date"): 3,
        ("data.date_future", "condition", "date"): 2,
        ("data.code_unmapped", "person", "sex"): 4,
        ("data.person_twice", "person", "person"): 4,
        ("data.not_a_number", "measurement", "value"): commas[0],
        ("data.unit_unmapped", "measurement", "unit"): 1,
        ("data.unit_unconvertible", "measurement", "unit"): 2,
    }
    assert {key[0] for key, found in counts.items() if found == (0,)} >= {
        "data.date_future",
        "data.date_unreadable",
    }


def test_dates_and_numbers_of_their_own_types_are_read_as_their_texts_are(
    given: Hospital, engines: dict[str, Run], postgres: Postgres
) -> None:
    spec = SPECS["every stay, nested"]
    native = [
        'ALTER TABLE "t_condition" ALTER COLUMN "Datum" TYPE DATE USING CAST("Datum" AS DATE)',
        'ALTER TABLE "t_measurement" ALTER COLUMN "Datum" TYPE TIMESTAMP USING CAST("Datum" AS TIMESTAMP)',
        'ALTER TABLE "t_measurement" ALTER COLUMN "val" TYPE DOUBLE PRECISION USING "val"::DOUBLE PRECISION',
    ]
    wanted = engines["duckdb"](compiled(spec, "duckdb").select)
    duck = in_duckdb(given)
    for statement in native:
        duck.execute(statement)
    assert duck.execute(compiled(spec, "duckdb").select.sql("duckdb")).fetchall() == wanted
    run = in_postgres(postgres, given, "typed")
    postgres.run(*native, database="typed")
    assert run(compiled(spec, "postgres").select) == wanted


def test_rows_are_a_projection_of_what_is_mapped() -> None:
    columns = contract("person", "sex", "hba1c", "month")
    columns["month"] = columns["month"].model_copy(update={"required": False})
    tables = TableMap.model_validate(
        {"table": 'my "rows"', "columns": {"sex": {"column": "g", "codes": {"w": "F"}}, "hba1c": "a1c"}}
    )
    query = compile_rows(columns, tables, "duckdb", {"person", "g", "a1c", "other"})
    written = (
        'SELECT "s"."person" AS "person", "s"."g" AS "sex", "s"."a1c" AS "hba1c" FROM "my ""rows""" AS "s"'
    )
    assert query.select.sql("duckdb") == written
    assert query.conversions == {"sex": ColumnMap(column="g", codes={"w": "F"})}
    assert query.checks == ()
    with pytest.raises(DataError, match=r"person, sex \(g\)") as caught:
        compile_rows(columns, tables, "duckdb", {"a1c"})
    assert caught.value.code == "data.column_missing"


@pytest.mark.parametrize(
    ("dialect", "name"), [("postgres", "n" * 64), ("oracle", 'a"b'), ("tsql", "ä" * 65), ("mysql", "n" * 65)]
)
def test_a_name_that_an_engine_would_cut_is_refused(dialect: str, name: str) -> None:
    columns = {name: contract("person")["person"]}
    with pytest.raises(DataError) as caught:
        compile_rows(columns, TableMap(table="t"), dialect, {name})
    assert caught.value.code == "data.name_unusable"
    compile_rows(columns, TableMap(table="t"), "duckdb", {name})  # control


def renamed(name: str) -> dict[str, TableMap]:
    tables = mappings()
    return {**tables, "visit": tables["visit"].model_copy(update={"table": name})}


def test_a_local_name_that_means_something_else_is_refused() -> None:
    for dialect, name in (("tsql", "#scratch"), ("oracle", 'a"b')):
        with pytest.raises(DataError) as caught:
            compiled(FIRST, dialect, tables=renamed(name))
        assert caught.value.code == "data.name_unusable"
        compiled(FIRST, "duckdb", tables=renamed(name))  # control
