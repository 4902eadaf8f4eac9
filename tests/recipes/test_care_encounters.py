"""The script that makes the tables of care-encounters, and that the shipped files are what it makes."""

from __future__ import annotations

import csv
import importlib.util
import re
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from plasmid.recipes import catalogue

DATA = catalogue.ROOT / "care-encounters" / "data"


@pytest.fixture(scope="module")
def flatten() -> ModuleType:
    spec = importlib.util.spec_from_file_location("care_encounters_flatten", DATA.with_name("flatten.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def coded(kind: str, code: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": kind, "code": {"coding": [{"code": code}]}, **more}


def result(code: str, value: str) -> dict[str, Any]:
    return coded("Observation", code, valueQuantity={"value": value})


def medicine(text: str) -> dict[str, Any]:
    return {"resourceType": "MedicationRequest", "medicationCodeableConcept": {"text": text}}


RESOURCES = [
    {"resourceType": "Patient"},
    coded("Condition", "I10"),
    coded("Condition", "N18.31"),
    result("2160-0", "1.41"),
    result("98979-8", "52"),
    result("2951-2", "140"),
    result("718-7", "13.5"),
    result("4548-4", "5.6"),
    result("9318-7", "29"),
    coded(
        "Observation",
        "85354-9",
        component=[
            {"code": {"coding": [{"code": "8480-6"}]}, "valueQuantity": {"value": "139"}},
            {"code": {"coding": [{"code": "8462-4"}]}, "valueQuantity": {"value": "90"}},
        ],
    ),
    medicine("losartan potassium 50 MG Oral Tablet"),
    medicine("metformin hydrochloride 500 MG Oral Tablet"),
    medicine("metformin hydrochloride 1000 MG Oral Tablet"),
]


def test_the_label_is_the_first_that_a_diagnosis_supports(flatten: ModuleType) -> None:
    assert flatten.label(RESOURCES) == "kidney disease"
    assert flatten.label([*RESOURCES, coded("Condition", "E11.22")]) == "diabetes"
    assert flatten.label(RESOURCES[:2]) == "hypertension"
    assert flatten.label([coded("Condition", "E66.9")]) == "none of these"
    assert flatten.label([]) == "none of these"


def test_a_part_tells_what_lies_outside_its_interval_in_the_words_of_the_site(flatten: ModuleType) -> None:
    general, diabetes = (flatten.parts(RESOURCES, site.style) for site in flatten.SITES[:2])
    assert general == {
        "chemistry": "creatinine 1.41 high, eGFR 52 low",
        "blood count": "",
        "metabolism": "HbA1c 5.6",
        "urine": "",
        "vital signs": "BP 139, diastolic BP 90 high",
        "medicines": "Takes losartan potassium, metformin",
    }
    assert diabetes["chemistry"] == "creatinine 1.41 H, eGFR 52 L"
    assert diabetes["metabolism"] == "A1c 5.6"
    assert flatten.parts([], flatten.SITES[0].style)["medicines"] == "No medicines"


def test_a_note_says_what_was_normal_and_holds_nothing_else(flatten: ModuleType) -> None:
    style = flatten.SITES[0].style
    written = flatten.parts(RESOURCES, style)
    note = flatten.note(written, ("blood count", "metabolism", "urine"), style)
    assert note == "HbA1c 5.6. Blood count, urine normal"


def test_a_bundle_becomes_different_notes_of_one_patient(flatten: ModuleType) -> None:
    who = "urn:uuid:0a1b2c3d-0000-5000-8000-000000000000"
    entries = [{"fullUrl": who, "resource": resource} for resource in RESOURCES]
    rows = flatten.rows({"entry": entries}, flatten.SITES[0].style, np.random.RandomState(0))
    assert [row[0] for row in rows] == ["0a1b2c3d"] * flatten.NOTES
    assert {row[2] for row in rows} == {"kidney disease"}
    assert len({row[1] for row in rows}) == flatten.NOTES
    again = flatten.rows({"entry": entries}, flatten.SITES[0].style, np.random.RandomState(0))
    assert rows == again


def test_the_shipped_files(flatten: ModuleType) -> None:
    tables = {
        path.stem: list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for path in sorted(DATA.glob("*.csv"))
    }
    assert sum(path.stat().st_size for path in DATA.glob("*.csv")) < 1_000_000
    assert set(tables) == {*(site.name for site in flatten.SITES), "test"}
    patients = {name: Counter(row["patient"] for row in rows) for name, rows in tables.items()}
    assert {len(found) for name, found in patients.items() if name != "test"} == {flatten.PATIENTS}
    assert len(patients["test"]) == flatten.TEST_PATIENTS * len(flatten.SITES)
    assert {count for found in patients.values() for count in found.values()} == {flatten.NOTES}
    assert len({who for found in patients.values() for who in found}) == sum(map(len, patients.values()))
    shares = {
        name: max(Counter(row["condition"] for row in rows).values()) / len(rows)
        for name, rows in tables.items()
    }
    assert shares.pop("test") < 0.27
    assert max(shares.values()) < 0.7
    every = [row for rows in tables.values() for row in rows]
    assert {row["condition"] for row in every} == {*flatten.LABELS, flatten.NO_LABEL}
    told = re.compile("diabetes|kidney|ana?emia|hypertension|N18|E11", re.IGNORECASE)
    assert not [row["note"] for row in every if told.search(row["note"])]


@pytest.mark.slow
def test_carebundle_makes_the_shipped_files_again_byte_for_byte(flatten: ModuleType) -> None:
    made = flatten.files()
    assert sorted(made) == sorted(path.name for path in DATA.glob("*.csv"))
    assert [name for name, content in made.items() if (DATA / name).read_bytes() != content] == []
