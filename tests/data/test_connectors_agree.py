"""The same people through every connector are the same snapshot, to the last byte of every row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from plasmid.data.table import Table
from plasmid.data.views.reading import Figures
from plasmid.recipes.columns import Contract
from plasmid.recipes.schema import Data
from support.hospital.hospital_world import (
    COHORT,
    COLUMNS,
    Patient,
    patients,
    write_csv,
    write_fhir,
    write_omop,
    write_parquet,
    write_postgres,
)
from support.hospital.snapshots import snapshot_of_view
from support.servers.postgres_server import Postgres

DATA = Data.model_validate(
    {"input": "note", "label": "label", "patient": "patient", "columns": COLUMNS, "cohort": COHORT}
)
DOCUMENT = SimpleNamespace(name="stays", data=DATA, contract=Contract(DATA.columns, ("no", "yes")))
COUNT = 400


def opened(folder: Path, connection: dict[str, Any], view: dict[str, Any]) -> tuple[Table, Figures]:
    """Return the rows of a snapshot of the view, and its figures."""
    return snapshot_of_view(DOCUMENT, folder, connection, view)


@pytest.fixture(scope="module")
def people() -> list[Patient]:
    return list(patients(COUNT))


def plainly(people: list[Patient]) -> dict[str, tuple[Any, ...]]:
    """Return what the cohort is, worked out person by person."""
    found = {}
    for one in people:
        stays = sorted(begin for begin, _, inside in one.visits if inside)
        if not stays:
            continue
        index = stays[0]
        age = index.year - one.born.year - ((index.month, index.day) < (one.born.month, one.born.day))
        diabetes = any(code.startswith("E11") and when <= index for when, code in one.conditions)
        if age < 18 or not diabetes:
            continue
        again = any(1 <= (begin - index).days <= 180 for begin in stays)
        found[one.name] = ("female" if one.female else "male", float(age), "yes" if again else "no")
    return found


@pytest.fixture(scope="module")
def expected(people: list[Patient], tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, Figures]:
    folder = tmp_path_factory.mktemp("parquet")
    return opened(folder, {"kind": "files", "path": "tables"}, write_parquet(people, folder / "tables"))


def test_the_cohort_is_what_it_says(people: list[Patient], expected: tuple[Table, Figures]) -> None:
    table, figures = expected
    rows = zip(*(table.columns[name] for name in ("patient", "sex", "age", "label")), strict=True)
    assert {str(name): tuple(rest) for name, *rest in rows} == plainly(people)
    assert figures.rows == figures.people == len(plainly(people)) > 50


def csv(people: list[Patient], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"kind": "files", "path": "exports"}, write_csv(people, folder / "exports")


def omop(people: list[Patient], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    view = write_omop(people, folder / "cdm.db")
    return {"kind": "sql", "url": f"sqlite:///{folder / 'cdm.db'}"}, view


def fhir(people: list[Patient], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"kind": "fhir", "path": "bulk"}, write_fhir(people, folder / "bulk")


@pytest.mark.parametrize("write", [csv, omop, fhir], ids=lambda one: one.__name__)
def test_every_connector_gives_the_same_snapshot(
    people: list[Patient],
    expected: tuple[Table, Figures],
    tmp_path: Path,
    write: Callable[..., tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    table, figures = opened(tmp_path, *write(people, tmp_path))
    assert figures.digest == expected[1].digest
    assert table.columns == expected[0].columns


def test_postgresql_gives_it_too_with_weights_in_grams(
    people: list[Patient], expected: tuple[Table, Figures], tmp_path: Path, postgres: Postgres
) -> None:
    postgres.database("hospital")
    with psycopg.connect(dbname="hospital", user="postgres", host=postgres.socket) as connection:
        view = write_postgres(people, connection)
    postgres.run("CREATE ROLE agreeing LOGIN", "GRANT pg_read_all_data TO agreeing", database="hospital")
    table, figures = opened(tmp_path, {"kind": "sql", "url": postgres.url("hospital", "agreeing")}, view)
    assert figures.digest == expected[1].digest
    assert table.columns == expected[0].columns


def test_another_value_or_one_person_less_is_another_snapshot(
    people: list[Patient], expected: tuple[Table, Figures], tmp_path: Path
) -> None:
    member = next(iter(plainly(people)))
    others = [one for one in people if one.name != member]
    _, figures = opened(tmp_path, *csv(others, tmp_path))
    assert figures.rows == expected[1].rows - 1
    assert figures.digest != expected[1].digest
