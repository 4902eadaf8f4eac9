"""Every way in which an owner's data may be wrong, through `plasmid data check`: what is told, and to whom.

The owner is told table, column and count; whoever else asked gets a constant sentence; nobody gets a cell.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from plasmid.core.clock import now
from plasmid.core.errors import from_dict
from plasmid.gateway.sentences import SENTENCES
from support.hospital.data_site import CANARY, RECEPTORS, STAYS, DataSite, leaves, receptor_rows
from support.hospital.hospital_world import patients, write_fhir, write_parquet, write_postgres
from support.servers.postgres_server import Postgres

HEADER = ["cdr3", "sex", "weight", "label"]
PEOPLE = list(patients(120))


@pytest.fixture
def site(tmp_path: Path) -> DataSite:
    return DataSite.made(tmp_path)


def told(site: DataSite, recipe: str, code: str, *words: str, public: str = "data.invalid") -> dict[str, Any]:
    """The owner is told *code* with *words*; what leaves is *public* with its constant sentence."""
    answer = site.refused(code, "check", recipe)
    for word in words:
        assert word in answer["error"]["message"], answer["error"]["message"]
    assert answer["error"]["hint"]
    assert leaves(from_dict(answer["error"])) == (public, SENTENCES[public])
    return answer


# -- the source ----------------------------------------------------------------------------------------


def database(site: DataSite, *statements: str) -> Path:
    path = site.home.folder / "warehouse.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE export (cdr3 TEXT, sex TEXT, weight REAL, label TEXT)")
        connection.executemany("INSERT INTO export VALUES (?, ?, ?, ?)", receptor_rows())
        for statement in statements:
            connection.execute(statement)
    connection.close()
    site.connection(kind="sql", url=f"sqlite:///{path}", writable_role="allow")
    return path


def test_a_database_file_that_is_gone(site: DataSite) -> None:
    path = database(site)
    site.view("receptors", source="here", tables={"rows": {"table": "export"}})
    recipe = site.recipe(RECEPTORS)
    assert site.json("check", recipe)["data"]["verdict"] == "ready"
    path.unlink()
    told(site, recipe, "data.source_down", public="data.source_down")


def test_a_server_that_nobody_answers_for(site: DataSite) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    site.connection(kind="sql", url=f"postgresql://reader@127.0.0.1:{port}/hospital")
    site.view("receptors", source="here", tables={"rows": {"table": "export"}})
    told(site, site.recipe(RECEPTORS), "data.source_down", public="data.source_down")


ENDLESS = (
    "CREATE VIEW slow AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    "SELECT 'CASS' AS cdr3, 'F' AS sex, 1 AS weight, 'no' AS label FROM n WHERE i < 0"
)


def test_a_query_that_takes_longer_than_the_view_allows(site: DataSite) -> None:
    database(site, ENDLESS)
    site.view("receptors", source="here", tables={"rows": {"table": "slow"}}, limit_s=0.5)
    begin = time.monotonic()
    told(site, site.recipe(RECEPTORS), "data.source_timeout", public="data.source_timeout")
    assert time.monotonic() - begin < 10


def test_a_slow_server(site: DataSite, postgres: Postgres) -> None:
    url = postgres.database(
        "slow",
        "CREATE TABLE export (cdr3 text, sex text, weight float8, label text)",
        f"INSERT INTO export VALUES ('CASS', 'F', 1, '{CANARY}')",
        "CREATE VIEW asleep AS SELECT export.*, pg_sleep(30)::text AS s FROM export",
        "CREATE ROLE sleeper LOGIN",
        "GRANT SELECT ON asleep TO sleeper",
    )
    site.connection(kind="sql", url=url.replace("postgres@", "sleeper@"))
    rows = {"table": "asleep", "columns": {"sex": "s"}}
    site.view("receptors", source="here", tables={"rows": rows}, limit_s=1.0)
    told(site, site.recipe(RECEPTORS), "data.source_timeout", public="data.source_timeout")


def test_a_view_that_returns_nothing(site: DataSite) -> None:
    database(site, "CREATE VIEW none AS SELECT * FROM export WHERE sex = 'X'")
    site.view("receptors", source="here", tables={"rows": {"table": "none"}})
    answer = told(site, site.recipe(RECEPTORS), "data.empty", "the view of here has no rows")
    assert answer["data"]["reasons"][0] == "there are no rows"
    assert answer["data"]["verdict"] == "not ready"


def test_a_table_or_a_connection_that_is_not_there(site: DataSite) -> None:
    database(site)
    recipe = site.recipe(RECEPTORS)
    site.view("receptors", source="here", tables={"rows": {"table": "exports"}})
    told(site, recipe, "data.source_table", "'exports'", "is it 'export'?")
    site.view("receptors", source="there", tables={"rows": {"table": "export"}})
    told(site, recipe, "data.connection_unknown", "'there'")


# -- files ---------------------------------------------------------------------------------------------


def test_an_encoding_that_is_not_utf_8(site: DataSite) -> None:
    path = site.csv(HEADER, receptor_rows())
    with path.open("ab") as file:
        file.write(f"CASS,F,1,no\nCASS,{CANARY}é,1,no\n".encode("latin-1"))
    told(site, site.recipe(RECEPTORS), "data.not_utf8", "export.csv", "line")
    path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16"))
    told(site, site.recipe(RECEPTORS), "data.not_utf8", "export.csv")


def test_a_fasta_with_a_stray_line(site: DataSite) -> None:
    columns = {"sequence": {"type": "protein", "max_length": 40}, "label": {"type": "label"}}
    records = "".join(
        f">r{row} label={('no', 'yes')[row % 2]}\n{cells[0]}\n" for row, cells in enumerate(receptor_rows())
    )
    path = site.home.folder / "data" / "chains.fasta"
    recipe = site.recipe(RECEPTORS, input="sequence", columns=columns)
    path.write_text(records)
    assert site.json("check", recipe)["data"]["rows"] == 60
    path.write_text(f"{CANARY}\n{records}")
    told(site, recipe, "data.not_fasta", "chains.fasta", "line 1")


def test_cells_that_the_contract_refuses_are_counted_by_column(site: DataSite) -> None:
    rows = receptor_rows()
    for row in (10, 11, 12):
        rows[row][0] = f"{CANARY}*"
    rows[20][2], rows[21][2], rows[22][3], rows[23][0] = "1e9", CANARY, f"{CANARY}!", ""
    site.csv(HEADER, rows)
    told(
        site,
        site.recipe(RECEPTORS),
        "data.residue_invalid",
        "(5 problems)",
        "column 'cdr3': 3 values with a letter that is not one of the 20 amino acids (first at line 12)",
        "column 'weight': 1 value outside 1 to 300 (first at line 22)",
        "column 'weight': 1 value not a number (first at line 23)",
        "column 'label': 1 value not one of the task's labels (first at line 24)",
        "column 'cdr3': 1 value missing (first at line 25)",
    )


def test_a_unit_that_does_not_convert(site: DataSite) -> None:
    site.csv(HEADER, receptor_rows())
    rows = {"table": "export", "columns": {"weight": {"column": "weight", "unit": "mmol/L"}}}
    site.view("receptors", tables={"rows": rows})
    told(site, site.recipe(RECEPTORS), "data.unit_unconvertible", "'mmol/L'", "'kg'")


# -- dated events ----------------------------------------------------------------------------------------


@pytest.fixture
def hospital(site: DataSite) -> tuple[DataSite, dict[str, Any]]:
    """A site whose events are Parquet files, and its view."""
    view = {"source": "here", **write_parquet(PEOPLE, site.home.folder / "tables")}
    site.connection(kind="files", path="tables")
    site.view("stays", **view)
    return site, view


def changed(view: dict[str, Any], table: str, **settings: Any) -> dict[str, Any]:
    return {**view, "tables": {**view["tables"], table: {**view["tables"][table], **settings}}}


def test_a_code_system_that_is_not_mapped(hospital: tuple[DataSite, dict[str, Any]]) -> None:
    site, view = hospital
    recipe = site.recipe(STAYS)
    assert site.json("check", recipe)["data"]["verdict"].startswith("ready")
    site.view("stays", **changed(view, "condition", system="snomed"))
    told(site, recipe, "data.code_system_unmapped", "table condition", "in snomed")


def test_a_measurement_in_a_unit_that_does_not_convert(hospital: tuple[DataSite, dict[str, Any]]) -> None:
    site, view = hospital
    site.view("stays", **changed(view, "measurement", units={"kg": "mmol/L", "%": "%"}))
    told(site, site.recipe(STAYS), "data.unit_unconvertible", "lab")


def test_a_date_in_the_future(site: DataSite, postgres: Postgres) -> None:
    future = (now() + timedelta(days=400)).date().isoformat()
    postgres.database("future")
    with psycopg.connect(dbname="future", user="postgres", host=postgres.socket) as connection:
        view = write_postgres(PEOPLE, connection)
        for name in (f"{CANARY}-1", f"{CANARY}-2"):
            connection.execute(
                "INSERT INTO diagnosis (patient_id, recorded, icd10) VALUES (%s, %s, 'E11.9')", (name, future)
            )
    postgres.run("CREATE ROLE looker LOGIN", "GRANT pg_read_all_data TO looker", database="future")
    site.connection(kind="sql", url=postgres.url("future", "looker"))
    site.view("stays", source="here", **view)
    told(site, site.recipe(STAYS), "data.date_future", "table 'diagnosis', column 'recorded': 2 rows")


def test_a_fhir_bundle_with_an_unknown_profile(site: DataSite) -> None:
    view = write_fhir(PEOPLE, site.home.folder / "bulk")
    path = next((site.home.folder / "bulk").glob("*Patient*"))
    first, _, rest = path.read_text().partition("\n")
    resource = {**json.loads(first), "meta": {"profile": [f"https://hospital.test/{CANARY}"]}}
    path.write_text(json.dumps(resource) + "\n" + rest)
    site.connection(kind="fhir", path="bulk")
    site.view("stays", source="here", **view)
    told(site, site.recipe(STAYS), "data.fhir_profile", "1")
