"""Dates and numbers in SQL: each engine reads a text as what it is, or as nothing."""

from __future__ import annotations

import sqlite3
from datetime import date
from typing import Any

import duckdb
import psycopg
import pytest
from pydantic import TypeAdapter

from plasmid.data.cohort.compile import compile_cohort
from plasmid.data.settings import TableMap
from plasmid.recipes.cohort import Cohort
from plasmid.recipes.columns import AnyColumn, Column
from support.hospital.cohort_hospital import TODAY
from support.servers.postgres_server import Postgres

ADAPTER: TypeAdapter[AnyColumn] = TypeAdapter(Column)
COLUMNS: dict[str, AnyColumn] = {
    "person": ADAPTER.validate_python({"type": "identifier"}),
    "found": ADAPTER.validate_python({"type": "number", "bounds": [0, 1], "missing": "allowed"}),
}
EVER = {"days_before": "ever", "days_after": "ever"}
NUMBERS: dict[str, str] = {}


def asking(take: str, table: str, pick: str) -> Cohort:
    """Return the cohort of everybody, whose column ``found`` is so taken."""
    found = {"take": take, "table": table, "pick": pick, "within": EVER}
    columns = {"person": {"take": "person"}, "found": found}
    return Cohort.model_validate({"index": {"date": "1970-01-01"}, "columns": columns})


def test_every_day_from_year_1_to_9999_has_its_number_and_no_other_text_has_one() -> None:
    days = [date.fromordinal(ordinal) for ordinal in range(1, date.max.toordinal(), 997)]
    days += [
        date(year, month, day)
        for year in (1600, 1900, 2000, 2023, 2024)
        for month, day in ((2, 28), (3, 1), (12, 31), (1, 1))
    ]
    days += [date(2000, 2, 29), date(2024, 2, 29), date.min, date.max]
    none = [
        "2023-02-29",
        "1900-02-29",
        "2022-04-31",
        "2022-13-01",
        "2022-00-10",
        "2022-01-00",
        "0000-01-01",
        "2022-1-1",
        "2022/01/01",
        "22-01-01",
        "2022-01-01x",
        "2022-01",
        "20220101",
        "heute",
        "\u0662022-01-01",
        "-2022-01-01",
    ]
    texts = [day.isoformat() for day in days] + none
    people = [(str(place), text) for place, text in enumerate(texts)]
    tables = {"person": TableMap(table="p", columns={"person": "id", "death_date": "d"})}
    parsed = asking("days", "death", "first")
    for dialect, connection in (("duckdb", duckdb.connect()), ("sqlite", sqlite3.connect(":memory:"))):
        connection.execute("CREATE TABLE p (id TEXT, d TEXT)")
        connection.executemany("INSERT INTO p VALUES (?, ?)", people)
        query = compile_cohort(parsed, COLUMNS, tables, dialect, date.max)
        found = dict(connection.execute(query.select.sql(dialect)).fetchall())
        epoch = date(1970, 1, 1).toordinal()
        assert [found[str(place)] for place in range(len(days))] == [day.toordinal() - epoch for day in days]
        assert [found[str(place)] for place in range(len(days), len(texts))] == [None] * len(none)
        unreadable = next(check for check in query.checks if check.code == "data.date_unreadable")
        assert connection.execute(unreadable.query.sql(dialect)).fetchall() == [(len(none),)]
        connection.close()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7.0),
        ("-7.5", -7.5),
        ("+.5", 0.5),
        ("5.", 5.0),
        (" 6.25 ", 6.25),
        ("0.1", 0.1),
        ("", None),
        ("7,5", None),
        ("1e", None),
        ("NaN", None),
        ("inf", None),
        ("0x1F", None),
        (".", None),
        ("-", None),
        ("--1", None),
        ("1-", None),
        ("1 2", None),
        ("12 mg", None),
        ("1_000", None),
        ("\u0663", None),
        ("9" * 39, 1e39),
    ],
)
def test_a_number_is_the_same_number_in_each_engine(
    text: str, value: float | None, postgres: Postgres
) -> None:
    if "numbers" not in NUMBERS:
        NUMBERS["numbers"] = postgres.database("numbers").replace("+psycopg", "")
    tables = {
        "person": TableMap(table="p", columns={"person": "id"}),
        "measurement": TableMap(table="p", columns={"person": "id", "date": "d", "code": "id", "value": "v"}),
    }
    parsed = asking("value", "measurement", "max")
    with psycopg.connect(NUMBERS["numbers"]) as server:
        for dialect, connection in (
            ("duckdb", duckdb.connect()),
            ("sqlite", sqlite3.connect(":memory:")),
            ("postgres", server),
        ):
            run: Any = connection.execute
            run("CREATE TABLE p (id TEXT, d TEXT, v TEXT)")
            quoted = text.replace("'", "''")
            run(f"INSERT INTO p VALUES ('1', '2023-01-01', '{quoted}')")
            query = compile_cohort(parsed, COLUMNS, tables, dialect, TODAY)
            assert run(query.select.sql(dialect)).fetchall() == [("1", value)], dialect
        server.rollback()
