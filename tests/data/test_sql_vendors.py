"""What is known of databases that no test can start: types, names and errors by their manuals."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from plasmid.data.sources.sql_dialect import Dialect
from plasmid.data.sources.sql_errors import Problem, problem_of
from plasmid.data.sources.sql_query import rendered
from plasmid.data.sources.sql_vendors import Oracle, Snowflake, SqlServer


def column(kind: object, precision: int | None = None, scale: int | None = None) -> tuple[Any, ...]:
    return ("name", kind, None, None, precision, scale, True)


def oracle(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=f"DB_TYPE_{name}")


@pytest.mark.parametrize(
    ("dialect", "described", "kind"),
    [
        (SqlServer(), column(int), "int"),
        (SqlServer(), column(Decimal, 18, 4), "decimal"),
        (SqlServer(), column(Decimal, 9, 0), "int"),
        (SqlServer(), column(dt.datetime), "time"),
        (SqlServer(), column(bytearray), "bytes"),
        (SqlServer(), column(str), "text"),
        (Oracle(), column(oracle("NUMBER"), 10, 0), "int"),
        (Oracle(), column(oracle("NUMBER"), 38, 0), "decimal"),
        (Oracle(), column(oracle("NUMBER"), 0, -127), "decimal"),
        (Oracle(), column(oracle("DATE")), "time"),
        (Oracle(), column(oracle("BLOB")), "bytes"),
        (Oracle(), column(oracle("VARCHAR")), "text"),
        (Snowflake(), column(0, 38, 0), "int"),
        (Snowflake(), column(0, 38, 2), "decimal"),
        (Snowflake(), column(3), "date"),
        (Snowflake(), column(2), "text"),
    ],
)
def test_kinds(dialect: Dialect, described: tuple[Any, ...], kind: str) -> None:
    assert dialect.kind(described) == kind


class Raised(Exception):
    """An exception as a driver's: arguments, and attributes."""

    def __init__(self, *arguments: object, **attributes: object) -> None:
        super().__init__(*arguments)
        self.__dict__.update(attributes)


def ora(code: str) -> Raised:
    return Raised(SimpleNamespace(full_code=code))


@pytest.mark.parametrize(
    ("backend", "error", "problem"),
    [
        ("mssql", Raised("28000", "Login failed"), Problem.login),
        ("mssql", Raised("42S02", "Invalid object"), Problem.missing),
        ("mssql", Raised("HYT00", "Query timeout expired"), Problem.timeout),
        ("mssql", Raised("42000", "The SELECT permission was denied on the object"), Problem.denied),
        ("mssql", Raised("42000", "Snapshot isolation transaction failed"), Problem.snapshot),
        ("mssql", Raised("08S01", "Communication link failure"), Problem.lost),
        ("oracle", ora("ORA-01017"), Problem.login),
        ("oracle", ora("ORA-00942"), Problem.missing),
        ("oracle", ora("DPY-4024"), Problem.timeout),
        ("oracle", ora("ORA-01555"), Problem.snapshot),
        ("snowflake", Raised("no", errno=2003), Problem.missing),
        ("snowflake", Raised("no", errno=604), Problem.timeout),
        ("snowflake", Raised("no", errno=None), Problem.other),
    ],
)
def test_errors(backend: str, error: Raised, problem: Problem) -> None:
    assert problem_of(backend, error, connecting=False) == problem


def test_names_in_lower_case_are_upper_case_in_oracle() -> None:
    query = sqlglot.parse_one(
        'WITH "w" AS (SELECT "Id", "date" FROM "visit") SELECT "date" AS "day" FROM "w"'
    )
    assert isinstance(query, exp.Select)
    assert rendered(query, "cdm", Oracle()) == (
        'WITH "W" AS (SELECT "Id", "DATE" FROM "CDM"."VISIT") SELECT "DATE" AS "DAY" FROM "W"'
    )
    assert "FROM [cdm].[visit])" in rendered(query, "cdm", SqlServer())
