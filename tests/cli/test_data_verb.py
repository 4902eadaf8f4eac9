"""`plasmid data`: connect, map, check, ls; `plasmid site purge`, `derived`; no cell in any of their words."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from plasmid.cli.verbs.site import app as site_app
from plasmid.core.settings import read_settings
from plasmid.data.people import person_key
from plasmid.data.settings import Connections, ViewFile
from plasmid.gateway.participation import Derived
from plasmid.gateway.retention import lineage_of
from plasmid.log.audit_log import AuditLog
from support.hospital.data_site import CANARY, RECEPTORS, STAYS, DataSite, receptor_rows
from support.hospital.fhir_data import bundle, patient
from support.hospital.hospital_world import patients, write_fhir, write_omop

HEADER = ["cdr3", "sex", "weight", "label"]


@pytest.fixture
def site(tmp_path: Path) -> DataSite:
    return DataSite.made(tmp_path)


# -- connect -------------------------------------------------------------------------------------------


def test_a_folder_is_connected_and_its_tables_are_listed(site: DataSite) -> None:
    site.csv(HEADER, [[CANARY, *row[1:]] for row in receptor_rows()])
    site.csv(["a"] * 13, [], "wide.csv")
    (site.home.folder / "data" / "notes.json").write_text("{}")  # no FHIR: there are tables
    answer = site.json("connect", "exports", str(site.home.folder / "data"))
    assert (answer["data"]["connection"], answer["data"]["kind"]) == ("exports", "files")
    assert answer["data"]["tables"]["export"] == {"columns": dict.fromkeys(HEADER, "text"), "rows": None}
    kept = read_settings(site.home.connections, Connections)
    assert kept.model_dump()["connections"] == {"exports": {"kind": "files", "path": "data"}}
    said = site.run("connect", "exports", str(site.home.folder / "data")).stdout
    assert "export: cdr3, sex, weight, label" in said
    assert "plasmid data map RECIPE --source exports" in said


def test_a_database_and_a_folder_of_fhir_are_known_by_what_they_are(site: DataSite, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "cdm.db") as database:
        database.execute(f"CREATE TABLE person (pid TEXT DEFAULT '{CANARY}')")
    database.close()
    answer = site.json("connect", "cdm", f"sqlite:///{tmp_path / 'cdm.db'}", "--allow-writable-role")
    assert (answer["data"]["kind"], list(answer["data"]["tables"])) == ("sql", ["person"])
    (tmp_path / "bulk").mkdir()
    (tmp_path / "bulk" / "all.json").write_text(json.dumps(bundle(patient())))
    answer = site.json("connect", "bulk", str(tmp_path / "bulk"))
    assert (answer["data"]["kind"], answer["data"]["tables"]["person"]["rows"]) == ("fhir", 1)
    known = read_settings(site.home.connections, Connections).connections
    assert {name: one.kind for name, one in known.items()} == {"cdm": "sql", "bulk": "fhir"}
    listed = site.json("ls")["data"]
    assert list(listed["connections"]) == ["cdm", "bulk"]
    assert listed["views"] == []


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("data.source_down", ("here", "nothing-there")),
        ("data.source_empty", ("here", ".")),
        ("data.source_down", ("here", "sqlite:///nothing.db")),
        ("data.connection_url", ("here", f"postgresql://ann:{CANARY}@localhost/x")),
        ("usage.option", ("here", ".", "--schema", "cdm")),
        ("usage.option", ("here", ".", "--profile", "http://x")),
        ("usage.option", ("here", "sqlite:///x.db", "--token-file", "t")),
        ("usage.option", ("here", "https://127.0.0.1:9/fhir", "--allow-writable-role")),
        ("usage.name", ("../here", ".")),
        ("usage.name", ("Here", ".", "--ask-password")),
    ],
)
def test_what_cannot_be_connected_is_not_kept(
    site: DataSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr("getpass.getpass", lambda _: pytest.fail("a password was asked for"))
    site.refused(code, "connect", *arguments)
    assert not site.home.connections.exists()
    assert not (site.home.folder / "secrets").exists()


def test_a_password_that_is_asked_for_is_kept_for_the_site_alone(
    site: DataSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getpass", lambda _: CANARY)
    site.refused("data.source_down", "connect", "pg", "postgresql://ann@127.0.0.1:9/x", "--ask-password")
    secret = site.home.folder / "secrets" / "pg"
    assert secret.read_text() == CANARY + "\n"
    assert secret.stat().st_mode & 0o777 == 0o600


# -- map -----------------------------------------------------------------------------------------------


def strange(site: DataSite) -> str:
    """Write an export with its own names, codes and units, and return the recipe."""
    rows = receptor_rows()
    rows = [
        [row[0], {"F": "w", "M": "m"}[row[1]], row[2] + "000", {"no": "n", "yes": "ja"}[row[3]]]
        for row in rows
    ]
    for row in range(5):
        rows[row][1] = f"{CANARY}{row}"  # on one row each: not to be shown
    site.csv(["CDR3 AA", "Geschlecht", "weight_g", "Label"], rows)
    return site.recipe(RECEPTORS)


def test_a_proposal_for_a_table_with_other_names_and_codes(site: DataSite) -> None:
    recipe = strange(site)
    said = site.run("map", recipe).stdout
    text = (site.home.views / "receptors.yaml").read_text()
    assert [line for line in said.splitlines() if line.strip()][:-1] == [
        line for line in text.splitlines() if line.strip()
    ]
    assert text.splitlines()[2:] == [
        "tables:",
        "  rows:",
        "    table: export",
        "    columns:",
        '      cdr3: "CDR3 AA"    # check',
        "      sex:",
        "        column: Geschlecht",
        "        codes:",
        "          m: M",
        "          w: F",
        "          F: F",
        "          M: M",
        "        # 5 values on fewer than 11 rows each, and none of the contract's    # check",
        "      weight:    # check",
        "        column: weight_g",
        "        # unit: kg    # say your unit (UCUM) if it is another one",
        "      label:",
        "        column: Label",
        "        codes:",
        '          ja: "yes"',
        '          "n": "no"',
        '          "no": "no"',
        '          "yes": "yes"',
        "# population: default       # whose data these are, if not site.yaml's",
        "# public_size: 1000         # how many people, rounded; public from now on",
        "# transforms:",
        "#   - opt_out: {file: optout.txt}",
    ]
    assert "3 lines to look at" in said
    view = read_settings(site.home.views / "receptors.yaml", ViewFile)
    assert view.tables["rows"].column("label").codes == {"n": "no", "ja": "yes", "no": "no", "yes": "yes"}  # type: ignore[union-attr]
    site.refused("usage.view_exists", "map", recipe)
    assert site.json("map", recipe, "--force")["data"]["doubtful"] == 3


def test_a_proposal_that_the_owner_completes_is_ready(site: DataSite) -> None:
    recipe = strange(site)
    site.run("map", recipe)
    path = site.home.views / "receptors.yaml"
    error = site.refused("data.code_unmapped", "check", recipe)["error"]
    assert (
        "column 'sex': 5 values that the view's mapping does not list (first at line 2)" in error["message"]
    )
    text = path.read_text().replace(
        "        codes:\n          m: M", "        other: other\n        codes:\n          m: M"
    )
    path.write_text(text.replace("# unit: kg ", "unit: g #"))
    checked = site.json("check", recipe)["data"]
    assert checked["verdict"] == "ready with notices"
    assert checked["columns"]["weight"]["findings"] == {}


def test_values_that_only_look_alike_are_not_taken_for_one_another(site: DataSite) -> None:
    """V20-1 and V2*01 have the same letters and digits, in the same order."""
    columns = {
        **RECEPTORS["data"]["columns"],
        "sex": {"type": "category", "vocabulary": ["V2*01", "V20-1*01"]},
    }
    site.csv(HEADER, [[row[0], "V20-1", *row[2:]] for row in receptor_rows()])
    site.run("map", site.recipe(RECEPTORS, columns=columns))
    text = (site.home.views / "receptors.yaml").read_text()
    assert "# V20-1: ...    # missing: no value of the contract is like it" in text
    assert read_settings(site.home.views / "receptors.yaml", ViewFile).tables["rows"].column("sex").codes == {  # type: ignore[union-attr]
        "V2*01": "V2*01",
        "V20-1*01": "V20-1*01",
    }


@pytest.mark.parametrize(("write", "model"), [(write_omop, "omop-5.4"), (write_fhir, "fhir-r4")])
def test_a_proposal_for_data_in_a_common_model_names_it_and_is_ready(
    site: DataSite, write: Any, model: str
) -> None:
    recipe = site.recipe(STAYS)
    where = site.home.folder / ("cdm.db" if model == "omop-5.4" else "bulk")
    write(list(patients(400)), where)
    target = f"sqlite:///{where}" if model == "omop-5.4" else str(where)
    site.run("connect", "hospital", target, *(["--allow-writable-role"] if model == "omop-5.4" else []))
    assert site.json("map", recipe, "--source", "hospital")["data"]["doubtful"] == 0
    view = read_settings(site.home.views / "stays.yaml", ViewFile)
    assert (view.source, view.model, view.tables) == ("hospital", model, {})
    checked = site.json("check", recipe)["data"]
    assert checked["verdict"].startswith("ready")
    assert checked["people"] == checked["rows"] > 50


def test_an_unknown_connection_or_table_is_told(site: DataSite) -> None:
    recipe = strange(site)
    assert (
        "there are none"
        in site.refused("data.connection_unknown", "map", recipe, "--source", "x")["error"]["message"]
    )
    error = site.refused("data.source_table", "map", recipe, "--table", "people")["error"]
    assert "there are 'export'" in error["message"]
    assert not site.home.views.exists()


# -- check ---------------------------------------------------------------------------------------------


def test_a_view_that_is_ready_is_told_so_with_status_0(site: DataSite) -> None:
    site.csv(HEADER, receptor_rows())
    recipe = site.recipe(RECEPTORS)
    result = site.run("check", recipe)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "Ready."
    assert "60 rows" in result.stdout
    data = site.json("check", recipe)["data"]
    assert (data["verdict"], data["rows"], data["labels"]) == ("ready", 60, {"no": 30, "yes": 30})
    assert (data["population"], data["public_size"], data["transforms"]) == ("default", 100, [])
    assert len(data["view"]) == 64


def test_a_view_that_is_not_ready_is_told_why_with_status_1_and_no_cell(site: DataSite) -> None:
    rows = receptor_rows()
    rows[3][0], rows[4][0], rows[5][3] = f"{CANARY}", f"{CANARY}X", CANARY
    rows[6][2] = CANARY
    site.csv(HEADER, rows)
    recipe = site.recipe(RECEPTORS)
    result = site.run("check", recipe)
    assert result.exit_code == 1
    assert "Not ready." in result.stdout
    assert "error [data.residue_invalid]" in result.stderr
    answer = site.refused("data.residue_invalid", "check", recipe)
    assert answer["data"]["verdict"] == "not ready"
    assert [line.strip() for line in answer["error"]["message"].splitlines()[1:]] == [
        "column 'cdr3': 2 values with a letter that is not one of the 20 amino acids (first at line 5)",
        "column 'label': 1 value not one of the task's labels (first at line 7)",
        "column 'weight': 1 value not a number (first at line 8)",
    ]


def test_what_no_row_is_to_blame_for_makes_a_view_not_ready_too(site: DataSite) -> None:
    """A value that nothing maps is missing where the contract allows that; a run refuses it all the same."""
    site.csv(["cdr3", "gender", "label"], [[row[0], row[1], row[3]] for row in receptor_rows()])
    codes = {"sex": {"column": "gender", "codes": {"F": "F"}}}
    site.view("receptors", tables={"rows": {"table": "export", "columns": codes}})
    answer = site.refused("data.code_unmapped", "check", site.recipe(RECEPTORS))
    assert answer["data"]["verdict"] == "not ready"
    site.view("receptors", tables={"rows": {"table": "export"}})
    answer = site.refused("data.column_missing", "check", site.recipe(RECEPTORS))
    assert answer["data"]["verdict"] == "not ready"
    assert "Ready." not in site.run("check", site.recipe(RECEPTORS)).stdout


def test_too_few_rows_are_not_ready(site: DataSite) -> None:
    site.csv(HEADER, receptor_rows(8))
    answer = site.refused("data.not_ready", "check", site.recipe(RECEPTORS))
    assert answer["data"]["reasons"][0] == "there are rows of <11 people"


def test_what_transforms_did_is_told(site: DataSite) -> None:
    site.csv(HEADER, [*receptor_rows(), *receptor_rows(20)])
    site.view("receptors", tables={"rows": {"table": "export"}}, transforms=[{"deduplicate": {}}])
    (step,) = site.json("check", site.recipe(RECEPTORS))["data"]["transforms"]
    assert 20 in step["counts"].values()


# -- what is kept of runs --------------------------------------------------------------------------------


def of_site(site: DataSite, *arguments: str, typed: str | None = None) -> tuple[int, dict[str, Any], str]:
    how = [*arguments, "--home", str(site.home.folder), "--format", "json"]
    result = CliRunner().invoke(site_app, how, input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout.splitlines()[-1]), result.output


@pytest.fixture
def ran(site: DataSite) -> DataSite:
    """Two runs that a person was in, and one without a patient column."""
    key = site.home.data_key()
    people = np.sort(np.array([person_key(one.encode(), key) for one in ("p1", CANARY)], np.uint64)).tobytes()
    for number in (1, 2, 3):
        derived = Derived(
            run=f"run-{number}", document="stays", digest="a" * 64, project="trial", requester="ada",
            view="b" * 64, population="default", snapshot="c" * 64, by_patient=number < 3,
            admitted=f"2026-01-0{number}T00:00:00Z",
        )  # fmt: skip
        lineage_of(site.home).record(derived, people if number < 3 else b"")
    return site


def test_the_runs_of_a_person_are_listed(ran: DataSite, monkeypatch: pytest.MonkeyPatch) -> None:
    status, answer, output = of_site(ran, "derived", "--person", CANARY)
    assert status == 0
    assert [one["run"] for one in answer["data"]["runs"]] == ["run-1", "run-2"]
    assert (answer["data"]["looked_at"], answer["data"]["by_row_only"]) == (3, ["run-3"])
    assert CANARY not in output
    monkeypatch.setattr("getpass.getpass", lambda _: "nobody")
    assert of_site(ran, "derived")[1]["data"]["runs"] == []
    text = (
        CliRunner().invoke(site_app, ["derived", "--person", CANARY, "--home", str(ran.home.folder)]).stdout
    )
    assert "2 of 3 runs had rows of this person." in text
    assert "run-1  stays  project trial, for ada" in text


def test_a_run_is_purged_by_hand_and_logged(ran: DataSite) -> None:
    status, answer, _ = of_site(ran, "purge", "run-1", "--by", "ann")
    assert (status, answer["data"]) == (0, {"run": "run-1", "purged": True})
    assert of_site(ran, "purge", "run-1", "--by", "ann")[1]["data"]["purged"] is False
    (entry,) = [one for one in AuditLog(ran.home.audit).entries() if one["action"] == "purged"]
    assert (entry["actor"], entry["run"]) == ("person:ann", "run-1")
    assert [one["run"] for one in of_site(ran, "derived", "--person", "p1")[1]["data"]["runs"]] == ["run-2"]
    status, answer, _ = of_site(ran, "purge", "../keys", "--by", "ann")
    assert (status, answer["error"]["code"]) == (1, "usage.run")
