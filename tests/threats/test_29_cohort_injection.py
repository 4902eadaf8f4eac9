"""Row 29. Attack: a cohort that smuggles SQL, a file read or an ATTACH into a site's source.

Must hold: a typed spec compiles to one read-only SELECT over declared tables; 100,000 generated specs.
"""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort import dialects
from plasmid.data.cohort import query_check as verify
from plasmid.data.cohort.compile import compile_cohort
from plasmid.data.cohort.dialects import DIALECTS
from plasmid.data.cohort.query_check import UnsafeQueryError
from plasmid.data.settings import TableMap
from plasmid.recipes.cohort import Cohort
from plasmid.recipes.cohort_checks import cohort_problems
from plasmid.recipes.columns import Column
from support.hospital.hostile_cohorts import HOSTILE, Maker

TODAY = date(2025, 1, 1)
CANARY = "canary-7f3a"
FUNCTIONS = (exp.Count, exp.Min, exp.Max, exp.RowNumber, exp.Coalesce, exp.Nullif, exp.Case, exp.If, exp.And,
             exp.Or, exp.Cast, exp.TryCast, exp.Convert, exp.Trim, exp.Replace, exp.Translate, exp.Substring,
             exp.Length, exp.Upper, exp.RegexpLike, exp.Typeof, exp.Collate)  # fmt: skip
ADAPTER: TypeAdapter[Any] = TypeAdapter(Column)


def tried(maker: Maker, dialect: str) -> str:
    """Compile one generated spec, look whether it is one SELECT, and return what became of it."""
    spec, contract = maker.spec()
    document = maker.mapping()
    try:
        cohort = Cohort.model_validate(spec)
        columns = {name: ADAPTER.validate_python(column) for name, column in contract.items()}
        tables = {name: TableMap.model_validate(mapping) for name, mapping in document.items()}
    except ValidationError:
        return "refused by the schema"
    if any(True for _ in cohort_problems(cohort, columns)):
        return "refused by the schema"
    try:
        compiled = compile_cohort(cohort, columns, tables, dialect, TODAY)
    except DataError as error:
        return error.code
    local = {mapping.table for mapping in tables.values()}
    assert_one_select(compiled.select.sql(dialect), dialect, local)
    if maker.source.random() < 0.1:
        assert_one_select(maker.source.choice(compiled.checks).query.sql(dialect), dialect, local)
    return "compiled"


def assert_one_select(written: str, dialect: str, local: set[str]) -> None:
    """Look again, by other means than the compiler's own look."""
    (statement,) = sqlglot.parse(written, dialect=dialect)
    assert isinstance(statement, exp.Select)
    own = {part.alias for part in statement.find_all(exp.CTE)}
    assert not own & local
    read = {table.name for table in statement.find_all(exp.Table)} - own
    assert read <= local
    assert not list(statement.find_all(exp.Command, exp.DML, exp.DDL, exp.Into, exp.Union, exp.Parameter))
    for function in statement.find_all(exp.Func):
        assert isinstance(function, FUNCTIONS) or function.sql_name() == "ANONYMOUS", function


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_hostile_cohort_is_refused_or_is_one_select(dialect: str, seed: int) -> None:
    tried(Maker(random.Random(seed), share=0.6), dialect)


def rows_table() -> TableMap:
    return TableMap.model_validate(
        {
            "table": "diagnoses",
            "columns": {"person": "id", "date": "day", "code": "code"},
            "system": "local",
        }
    )


def loaded(folder: Path) -> tuple[duckdb.DuckDBPyConnection, Path]:
    """Return a hospital of two people, and a file beside it that no query may read."""
    secret = folder / "secret.csv"
    secret.write_text(f"word\n{CANARY}\n", encoding="utf-8")
    connection = duckdb.connect()
    connection.execute("CREATE TABLE people (id TEXT)")
    connection.execute("INSERT INTO people VALUES ('1'), ('2')")
    connection.execute("CREATE TABLE diagnoses (id TEXT, day TEXT, code TEXT)")
    connection.execute("INSERT INTO diagnoses VALUES ('1', '2024-01-02', 'E11')")
    return connection, secret


def asking(code: str) -> tuple[Cohort, dict[str, Any], dict[str, TableMap]]:
    """Return the smallest cohort that asks for *code*, its contract, and the mapping."""
    cohort = Cohort.model_validate(
        {
            "concepts": {"wanted": {"codes": {"local": [code]}, "descendants": False}},
            "index": {"table": "condition", "concepts": "wanted", "pick": "first"},
            "columns": {"who": {"take": "person"}},
        }
    )
    columns = {"who": ADAPTER.validate_python({"type": "identifier"})}
    person = TableMap.model_validate({"table": "people", "columns": {"person": "id"}})
    return cohort, columns, {"person": person, "condition": rows_table()}


def test_control_pasted_text_lets_the_file_out_and_the_compiler_does_not(tmp_path: Path) -> None:
    connection, secret = loaded(tmp_path)
    code = f"E11') UNION SELECT word FROM read_csv('{secret}') --"
    if len(code) > 100:  # a code's own limit would be what refuses it
        (short := Path("/tmp") / f"c{tmp_path.stat().st_ino}.csv").symlink_to(secret)
        code = f"E11') UNION SELECT word FROM read_csv('{short}') --"
    else:
        short = secret
    try:
        pasted = f"SELECT id FROM diagnoses WHERE code IN ('{code}')"
        assert sorted(connection.execute(pasted).fetchall()) == [("1",), (CANARY,)]
        cohort, columns, tables = asking(code)
        compiled = compile_cohort(cohort, columns, tables, "duckdb", TODAY)
        assert connection.execute(compiled.select.sql("duckdb")).fetchall() == []
        for check in compiled.checks:
            assert connection.execute(check.query.sql("duckdb")).fetchall() == [(0,)]
        # control: the same cohort finds what is there
        cohort, columns, tables = asking("E11")
        compiled = compile_cohort(cohort, columns, tables, "duckdb", TODAY)
        assert connection.execute(compiled.select.sql("duckdb")).fetchall() == [("1",)]
    finally:
        if short != secret:
            short.unlink()


@pytest.mark.parametrize("code", [text for text in HOSTILE if text == text.strip()])
def test_a_hostile_code_finds_the_row_that_has_it_and_no_other(tmp_path: Path, code: str) -> None:
    connection, _ = loaded(tmp_path)
    connection.execute("INSERT INTO diagnoses VALUES ('2', '2024-01-03', ?)", [code])
    cohort, columns, tables = asking(code)
    compiled = compile_cohort(cohort, columns, tables, "duckdb", TODAY)
    assert connection.execute(compiled.select.sql("duckdb")).fetchall() == [("2",)]
    assert connection.execute("SELECT count(*) FROM diagnoses").fetchall() == [(2,)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM read_text('{secret}')",
        "ATTACH '{secret}.db' AS other",
        "COPY people TO '{secret}.out'",
        "COPY people FROM '{secret}'",
        "EXPORT DATABASE '{secret}.d'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
    ],
)
def test_a_locked_duckdb_refuses_what_got_through_all_the_same(tmp_path: Path, statement: str) -> None:
    connection, secret = loaded(tmp_path)
    if "read_" in statement:  # control
        assert CANARY in str(connection.execute(statement.format(secret=secret)).fetchall())
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    with pytest.raises(duckdb.Error) as caught:
        connection.execute(statement.format(secret=secret))
    assert CANARY not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.csv"]


def broken(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take out the quoting of values, or put something into each query."""
    if how == "pasted values":
        monkeypatch.setattr(
            dialects.exp.Literal,
            "string",
            classmethod(lambda _, value: exp.Literal(this=value, is_string=False)),
        )
    elif how == "a function":
        monkeypatch.setattr(
            dialects.exp, "Trim", lambda this: exp.Anonymous(this="pg_read_file", expressions=[this])
        )
    elif how == "a file":
        monkeypatch.setattr(
            dialects,
            "name",
            lambda given: exp.Identifier(this=given.replace("people", "/etc/passwd"), quoted=True),
        )


@pytest.mark.parametrize("how", ["pasted values", "a function", "a file"])
@pytest.mark.parametrize("dialect", ["duckdb", "postgres"])
def test_the_last_look_refuses_what_a_broken_compiler_writes(
    how: str, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, columns, tables = asking("E11') UNION SELECT 1 --")
    compile_cohort(cohort, columns, tables, dialect, TODAY)  # control
    broken(how, monkeypatch)
    with pytest.raises(UnsafeQueryError):
        compile_cohort(cohort, columns, tables, dialect, TODAY)


@pytest.mark.parametrize(
    "written",
    [
        'SELECT 1 AS "x"; DROP TABLE "people"',
        'DELETE FROM "people"',
        'SELECT "p"."id" AS "x" INTO "copy" FROM "people" AS "p"',
        'SELECT "p"."id" FROM "people" AS "p" UNION SELECT 1',
        'SELECT "p"."id" FROM "other"."people" AS "p"',
        'SELECT "p"."id" FROM "users" AS "p"',
        'SELECT "p"."id" FROM people AS "p"',
        "SELECT * FROM read_csv('/etc/passwd')",
        'SELECT CURRENT_USER FROM "people"',
        'SELECT SUM("p"."id") FROM "people" AS "p"',
        'WITH "people" AS (SELECT 1) SELECT * FROM "people"',
        "COPY (SELECT 1) TO '/tmp/x'",
    ],
)
def test_the_last_look_refuses_any_other_statement(written: str) -> None:
    tree = sqlglot.parse(written, dialect="duckdb")

    class Written:
        def sql(self, _: str) -> str:
            return written

        def dfs(self) -> Any:
            return (node for statement in tree if statement for node in statement.dfs())

    with pytest.raises(UnsafeQueryError):
        verify.verify(Written(), "duckdb", {"people"})  # type: ignore[arg-type]


@pytest.fixture
def rare_collections() -> Iterator[None]:
    """Collect garbage rarely: else half of the time goes into looking through trees of queries."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 1000)
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.usefixtures("rare_collections")
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("quarter", range(4))  # with --dist load they run beside one another
def test_a_hundred_thousand_generated_cohorts(quarter: int, capsys: pytest.CaptureFixture[str]) -> None:
    source, outcomes, began = random.Random(2900 + quarter), Counter[str](), time.monotonic()
    for number in range(25_000):
        maker = Maker(source, share=(0.05, 0.3, 0.6)[number % 3])
        outcomes[tried(maker, DIALECTS[number % len(DIALECTS)])] += 1
    elapsed = time.monotonic() - began
    with capsys.disabled():
        print(f"\n25,000 specs in {elapsed:.0f} s, {25_000 / elapsed:.0f} specs/s: {dict(outcomes)}")
    assert outcomes["compiled"] > 10_000
    assert outcomes["refused by the schema"] > 1_000
