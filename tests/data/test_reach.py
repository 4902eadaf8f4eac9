"""How far a reader reaches for each kind of source; what its owner hears where the host cannot deny more."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plasmid.core.settings import dump_settings
from plasmid.data.reach import Reach, reach_of
from plasmid.gateway import open_view as opening
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.open_view import open_view
from plasmid.gateway.views import slice_of
from plasmid.recipes.counts import CountsDocument
from support.servers.fhir_server import FhirServer, serving
from support.servers.postgres_server import Postgres

DOCUMENT = CountsDocument.model_validate(
    {
        "computation": "counts",
        "name": "by-sex",
        "axes": [{"type": "category", "column": "sex", "vocabulary": ["female", "male"]}],
        "patient": "who",
    }
)
WITHOUT_LANDLOCK = """
import sys
sys.path[:0] = {path!r}
import plasmid.data.reader
from plasmid.isolation import own_process as itself
itself.abi = lambda: {abi}
plasmid.data.reader.main()
"""


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    made = SiteHome(tmp_path / "site")
    (made.folder / "data").mkdir(parents=True)
    (made.folder / "views").mkdir()
    made.write_config(SiteConfig(name="alpha", organisation="Alpha"))
    (made.folder / "data" / "people.csv").write_text("who,sex\np1,female\n")
    return made


def reach(home: SiteHome, connection: dict[str, Any], **view: Any) -> Reach:
    return reach_of(
        {
            "folder": str(home.folder),
            "view": {"source": "there", **view},
            "connections": {"connections": {"there": connection}},
            "path": None,
        }
    )


@pytest.mark.parametrize(
    ("connection", "ports"),
    [
        ({"kind": "sql", "url": "postgresql://ada@db.example/people"}, (5432,)),
        ({"kind": "sql", "url": "postgresql+psycopg://ada@db.example:6543/people"}, (6543,)),
        ({"kind": "sql", "url": "postgresql://ada@/people?host=a:5433&host=b:5434"}, (5433, 5434)),
        ({"kind": "sql", "url": "postgresql://ada@/people?host=/run/postgresql&port=5439"}, (5439,)),
        ({"kind": "sql", "url": "mariadb://ada@[::1]/people"}, (3306,)),
        ({"kind": "sql", "url": "mysql+pymysql://ada@[::1]:3307/people"}, (3307,)),
        ({"kind": "sql", "url": "snowflake://ada@account/people"}, (443, 80)),
        ({"kind": "fhir", "url": "https://fhir.example/r4"}, (443,)),
        ({"kind": "fhir", "url": "http://127.0.0.1:8080/r4"}, (8080,)),
        ({"kind": "sql", "url": "nothing-known://ada@db.example/people"}, ()),
        ({"kind": "sql", "url": "sqlite:///data/people.db"}, None),
        ({"kind": "files", "path": "data"}, None),
        ({"kind": "fhir", "path": "data"}, None),
    ],
)
def test_a_server_is_its_port_and_a_file_none(
    home: SiteHome, connection: dict[str, Any], ports: tuple[int, ...] | None
) -> None:
    assert reach(home, connection).ports == ports


def test_secrets_and_lists_that_the_owner_names_are_within_reach_and_nothing_beside(home: SiteHome) -> None:
    for name in ("token", "password", "optout.txt", "keys.json", "names.txt"):
        (home.folder / name).write_text("x")
    found = reach(
        home,
        {"kind": "fhir", "url": "https://fhir.example/r4", "token_file": "token"},
        transforms=[
            {"opt_out": {"file": "optout.txt"}},
            {"deidentify": {"columns": ["note"], "names_file": "names.txt"}},
            {"opt_out": {"file": "../outside.txt", "column": "keys.json"}},
        ],
    )
    own = {one.name for one in found.files if one.is_relative_to(home.folder)}
    assert own == {"token", "optout.txt", "names.txt"}
    assert reach(home, {"kind": "files", "path": "data"}).files[-1] == home.folder / "data"


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("writer", ["closed", "open"])
def test_sqlite_s_own_files_are_shared(home: SiteHome, mode: str, writer: str) -> None:
    database = sqlite3.connect(home.folder / "people.db")
    database.execute(f"PRAGMA journal_mode={mode}")
    database.execute("CREATE TABLE people(who TEXT, sex TEXT)")
    database.execute("INSERT INTO people VALUES ('p', 'male')")
    database.commit()
    if writer == "closed":
        database.close()
    connection = {"kind": "sql", "url": "sqlite:///people.db"}
    home.connections.write_bytes(dump_settings({"connections": {"there": connection}}))
    (home.views / "by-sex.yaml").write_bytes(dump_settings({"source": "there"}))
    found = open_view(home, slice_of(home, DOCUMENT), DOCUMENT)
    found.close()
    database.close()
    assert (found.rows, found.notices) == (1, ())
    assert len(reach(home, connection).shared) == (2 if mode == "wal" else 0)


@pytest.mark.parametrize(("abi", "told"), [(0, 1), (4, 0)])
def test_what_the_kernel_cannot_deny_is_told(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch, abi: int, told: int
) -> None:
    code = WITHOUT_LANDLOCK.format(path=sys.path, abi=abi)

    def start(_: list[str], **how: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-P", "-c", code], **how)

    fake = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(opening, "subprocess", fake)
    found = open_view(home, slice_of(home, DOCUMENT), DOCUMENT)
    found.close()
    sentence = "the reader may open any file of its user: the kernel has Landlock ABI 0."
    assert found.notices == (sentence,) * told


def test_a_database_is_read_from_inside(home: SiteHome, postgres: Postgres) -> None:
    people = "SELECT 'p' || n AS who, 'male' AS sex FROM generate_series(1, 500) AS n"
    url = postgres.database("reach", f"CREATE TABLE people AS {people}", "CREATE ROLE looks LOGIN")
    postgres.run("GRANT SELECT ON people TO looks", database="reach")
    connection = {"kind": "sql", "url": url.replace("postgres@", "looks@")}
    home.connections.write_bytes(dump_settings({"connections": {"there": connection}}))
    view = {"source": "there", "tables": {"rows": {"table": "people"}}}
    (home.views / "by-sex.yaml").write_bytes(dump_settings(view))
    found = open_view(home, slice_of(home, DOCUMENT), DOCUMENT)
    found.close()
    assert (found.rows, found.people, found.notices) == (500, 500, ())


def test_a_server_of_fhir_is_read_from_inside(home: SiteHome) -> None:
    people = [{"resourceType": "Patient", "id": f"p{n}", "gender": "male"} for n in range(25)]
    with serving(FhirServer(people)) as url:
        connection = {"kind": "fhir", "url": url, "token_file": "token"}
        (home.folder / "token").write_text("secret\n")
        (home.folder / "token").chmod(0o600)
        home.connections.write_bytes(dump_settings({"connections": {"there": connection}}))
        table = {"table": "person", "columns": {"who": "person"}}
        (home.views / "by-sex.yaml").write_bytes(
            dump_settings({"source": "there", "tables": {"rows": table}})
        )
        found = open_view(home, slice_of(home, DOCUMENT), DOCUMENT)
        found.close()
    assert (found.rows, found.people) == (25, 25)
