"""One invented population of patients, as five hospitals would keep it: the same people, events and notes.

CSV exports with German names, dates and codes; typed Parquet; a relational schema with weights in grams
(PostgreSQL); OMOP CDM 5.4 (SQLite); FHIR R4 bulk export (NDJSON).
"""

from __future__ import annotations

import base64
import csv
import datetime as dt
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

START = dt.date(2018, 1, 1)
WORDS = (  # of notes
    "stable", "fever", "cough", "wound", "insulin", "dose", "oedema", "rest", "pain", "diet", "walks",
    "sleeps", "eats", "well", "worse", "better", "glucose", "pressure", "renal", "foot", "ulcer", "healed",
    "admitted", "discharged", "review", "advised",
)  # fmt: skip
CONDITIONS = {"E11.9": 201826, "E11.65": 443729, "I10": 320128, "J45.9": 317009}
HBA1C, WEIGHT = "4548-4", "29463-7"
MEASURES = {HBA1C: 3004410, WEIGHT: 3025315}
UNIT_CONCEPTS = {HBA1C: 8554, WEIGHT: 9529}
INPATIENT = {"local": "inpatient", "omop": "9201", "snomed": "32485007"}
OUTPATIENT = {"local": "outpatient", "omop": "9202", "snomed": "185347001"}

COHORT: dict[str, Any] = {
    "concepts": {
        "diabetes": {"codes": {"icd10": ["E11"], "omop": ["201826"]}, "descendants": True},
        "inpatient": {"codes": {name: [code] for name, code in INPATIENT.items()}, "descendants": False},
        "hba1c": {"codes": {"loinc": [HBA1C], "omop": ["3004410"]}, "descendants": False},
        "weight": {"codes": {"loinc": [WEIGHT], "omop": ["3025315"]}, "descendants": False},
    },
    "index": {"table": "visit", "concepts": "inpatient", "pick": "first"},
    "where": [
        {"event": {"table": "condition", "concepts": "diabetes", "within": {"days_before": "ever"}}},
        {"age": {"at_least": 18}},
    ],
    "columns": {
        "patient": {"take": "person"},
        "sex": {"take": "sex"},
        "age": {"take": "age"},
        "hba1c": {
            "take": "value",
            "table": "measurement",
            "concepts": "hba1c",
            "within": {"days_before": 365},
            "pick": "last",
        },
        "weight": {
            "take": "value",
            "table": "measurement",
            "concepts": "weight",
            "within": {"days_before": 365},
            "pick": "last",
        },
        "note": {"take": "text", "within": {"days_after": 1}, "pick": "last"},
        "label": {
            "take": "present",
            "table": "visit",
            "concepts": "inpatient",
            "within": {"days_before": -1, "days_after": 180},
            "values": ["yes", "no"],
        },
    },
}
COLUMNS: dict[str, Any] = {
    "patient": {"type": "identifier"},
    "sex": {"type": "category", "vocabulary": ["female", "male"]},
    "age": {"type": "number", "bounds": [18, 120], "integer": True},
    "hba1c": {"type": "number", "bounds": [3, 20], "unit": "%", "decimals": 1, "missing": "allowed"},
    "weight": {"type": "number", "bounds": [30, 250], "unit": "kg", "decimals": 1, "missing": "allowed"},
    "note": {"type": "text", "max_length": 32},
    "label": {"type": "label"},
}


@dataclass(frozen=True)
class Patient:
    """One person: events as (day, ...) with days as dates."""

    name: str
    born: dt.date
    female: bool
    conditions: list[tuple[dt.date, str]]
    measures: list[tuple[dt.date, str, float]]
    visits: list[tuple[dt.date, dt.date, bool]]
    notes: list[tuple[dt.date, str]]


def patients(count: int, seed: int = 0) -> Iterator[Patient]:
    """Yield *count* people; about a quarter have diabetes before a stay in hospital."""
    random = Random(seed)

    def day(low: int = 0, high: int = 2000) -> dt.date:
        return START + dt.timedelta(days=random.randrange(low, high))

    for number in range(count):
        conditions = [(day(0, 900), code) for code in random.sample(list(CONDITIONS), random.randrange(3))]
        visits, notes = [], []
        for _ in range(random.randrange(1, 4)):
            begin, inside = day(600), random.random() < 0.6
            end = begin + dt.timedelta(days=random.randrange(1, 12) if inside else 0)
            visits.append((begin, end, inside))
            if inside:
                notes.append((begin, " ".join(random.choices(WORDS, k=10))))
        measures = [(day(), HBA1C, round(random.uniform(4.5, 12), 1)) for _ in range(random.randrange(3))]
        measures += [(day(), WEIGHT, round(random.uniform(45, 140), 1)) for _ in range(random.randrange(2))]
        born = dt.date(1930, 1, 1) + dt.timedelta(days=random.randrange(0, 29_000))
        yield Patient(str(number + 1), born, random.random() < 0.5, conditions, measures, visits, notes)


def write_csv(people: Iterable[Patient], folder: Path) -> dict[str, Any]:
    """Write exports of a hospital that speaks German; return the view."""
    folder.mkdir(parents=True)
    header = {
        "patienten": ["nr", "geburt", "geschlecht"],
        "diagnosen": ["nr", "datum", "icd"],
        "labor": ["nr", "datum", "loinc", "wert", "einheit"],
        "aufenthalte": ["nr", "von", "bis", "art"],
        "briefe": ["nr", "datum", "brief"],
    }
    files = {name: (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") for name in header}
    out = {name: csv.writer(file) for name, file in files.items()}
    for name, columns in header.items():
        out[name].writerow(columns)

    def day(date: dt.date) -> str:
        return date.strftime("%d.%m.%Y")

    for one in people:
        out["patienten"].writerow([one.name, day(one.born), "w" if one.female else "m"])
        out["diagnosen"].writerows([one.name, day(when), code] for when, code in one.conditions)
        for when, code, value in one.measures:
            out["labor"].writerow([one.name, day(when), code, value, "%" if code == HBA1C else "kg"])
        for begin, end, inside in one.visits:
            out["aufenthalte"].writerow(
                [one.name, day(begin), day(end), "stationär" if inside else "ambulant"]
            )
        out["briefe"].writerows([one.name, day(when), text] for when, text in one.notes)
    for file in files.values():
        file.close()

    def dated(column: str) -> dict[str, str]:
        return {"column": column, "date_format": "%d.%m.%Y"}

    return {
        "tables": {
            "person": {
                "table": "patienten",
                "columns": {
                    "person": "nr",
                    "birth_date": dated("geburt"),
                    "sex": {"column": "geschlecht", "codes": {"w": "female", "m": "male"}},
                },
            },
            "condition": {
                "table": "diagnosen",
                "system": "icd10",
                "columns": {"person": "nr", "date": dated("datum"), "code": "icd"},
            },
            "measurement": {
                "table": "labor",
                "system": "loinc",
                "columns": {
                    "person": "nr",
                    "date": dated("datum"),
                    "code": "loinc",
                    "value": "wert",
                    "unit": "einheit",
                },
            },
            "visit": {
                "table": "aufenthalte",
                "system": "local",
                "columns": {
                    "person": "nr",
                    "date": dated("von"),
                    "end_date": dated("bis"),
                    "code": {
                        "column": "art",
                        "codes": {"stationär": "inpatient", "ambulant": "outpatient"},
                    },
                },
            },
            "note": {
                "table": "briefe",
                "columns": {"person": "nr", "date": dated("datum"), "text": "brief"},
            },
        }
    }


def _rows(people: Iterable[Patient], *, grams: bool) -> dict[str, list[tuple[Any, ...]]]:
    rows: dict[str, list[tuple[Any, ...]]] = {
        name: [] for name in ("patient", "diagnosis", "lab", "stay", "letter")
    }
    for one in people:
        rows["patient"].append((one.name, one.born, "F" if one.female else "M"))
        rows["diagnosis"] += [(one.name, when, code) for when, code in one.conditions]
        for when, code, value in one.measures:
            in_grams = grams and code == WEIGHT
            unit = "%" if code == HBA1C else "g" if in_grams else "kg"
            rows["lab"].append((one.name, when, code, round(value * 1000) if in_grams else value, unit))
        kinds = (INPATIENT, OUTPATIENT)
        rows["stay"] += [(one.name, a, b, kinds[0 if inside else 1]["local"]) for a, b, inside in one.visits]
        rows["letter"] += [(one.name, when, text) for when, text in one.notes]
    return rows


_ENGLISH: dict[str, tuple[str, ...]] = {
    "patient": ("patient_id", "born", "sex"),
    "diagnosis": ("patient_id", "recorded", "icd10"),
    "lab": ("patient_id", "taken_on", "loinc", "result", "unit"),
    "stay": ("patient_id", "admitted", "discharged", "kind"),
    "letter": ("patient_id", "written", "content"),
}


def _english_view() -> dict[str, Any]:
    return {
        "tables": {
            "person": {
                "table": "patient",
                "columns": {
                    "person": "patient_id",
                    "birth_date": "born",
                    "sex": {"column": "sex", "codes": {"F": "female", "M": "male"}},
                },
            },
            "condition": {
                "table": "diagnosis",
                "system": "icd10",
                "columns": {"person": "patient_id", "date": "recorded", "code": "icd10"},
            },
            "measurement": {
                "table": "lab",
                "system": "loinc",
                "columns": {
                    "person": "patient_id",
                    "date": "taken_on",
                    "code": "loinc",
                    "value": "result",
                    "unit": "unit",
                },
            },
            "visit": {
                "table": "stay",
                "system": "local",
                "columns": {
                    "person": "patient_id",
                    "date": "admitted",
                    "end_date": "discharged",
                    "code": "kind",
                },
            },
            "note": {
                "table": "letter",
                "columns": {"person": "patient_id", "date": "written", "text": "content"},
            },
        }
    }


def write_parquet(people: Iterable[Patient], folder: Path) -> dict[str, Any]:
    """Write typed Parquet files; return the view."""
    folder.mkdir(parents=True)
    for name, rows in _rows(people, grams=False).items():
        columns = zip(*rows, strict=True) if rows else [()] * len(_ENGLISH[name])
        pq.write_table(
            pa.table(dict(zip(_ENGLISH[name], map(list, columns), strict=True))), folder / f"{name}.parquet"
        )
    return _english_view()


def write_postgres(people: Iterable[Patient], connection: Any) -> dict[str, Any]:
    """Write a relational schema, weights in grams, through a psycopg *connection*; return the view."""
    types = {
        "patient": "patient_id text, born date, sex char(1)",
        "diagnosis": "patient_id text, recorded timestamp, icd10 varchar(10)",
        "lab": "patient_id text, taken_on date, loinc text, result numeric(10,1), unit text",
        "stay": "patient_id text, admitted timestamp, discharged timestamp, kind text",
        "letter": "patient_id text, written date, content text",
    }
    with connection.cursor() as cursor:
        for name, rows in _rows(people, grams=True).items():
            cursor.execute(f"CREATE TABLE {name} ({types[name]})")
            with cursor.copy(f"COPY {name} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
    connection.commit()
    view = _english_view()
    view["tables"]["measurement"]["units"] = {"g": "g"}
    return view


_OMOP = {
    "person": "person_id INTEGER, gender_concept_id INTEGER, year_of_birth INTEGER, birth_datetime TEXT, "
    "person_source_value TEXT",
    "condition_occurrence": "condition_occurrence_id INTEGER, person_id INTEGER, "
    "condition_concept_id INTEGER, condition_start_date TEXT, condition_source_value TEXT",
    "measurement": "measurement_id INTEGER, person_id INTEGER, measurement_concept_id INTEGER, "
    "measurement_date TEXT, value_as_number REAL, unit_concept_id INTEGER",
    "visit_occurrence": "visit_occurrence_id INTEGER, person_id INTEGER, visit_concept_id INTEGER, "
    "visit_start_date TEXT, visit_end_date TEXT",
    "note": "note_id INTEGER, person_id INTEGER, note_date TEXT, note_type_concept_id INTEGER, "
    "note_text TEXT",
    "concept_ancestor": "ancestor_concept_id INTEGER, descendant_concept_id INTEGER",
}


def write_omop(people: Iterable[Patient], path: Path) -> dict[str, Any]:
    """Write an OMOP CDM in SQLite; return the view. The person is found by its source value."""
    database = sqlite3.connect(path)
    for name, columns in _OMOP.items():
        database.execute(f"CREATE TABLE {name} ({columns})")
    numbers = iter(range(1, 10**9))
    for number, one in enumerate(people, 1):
        sex = 8532 if one.female else 8507
        born = f"{one.born.isoformat()} 00:00:00"
        person = (number, sex, one.born.year, born, one.name)
        database.execute("INSERT INTO person VALUES (?,?,?,?,?)", person)
        database.executemany(
            "INSERT INTO condition_occurrence VALUES (?,?,?,?,?)",
            [
                (next(numbers), number, CONDITIONS[code], when.isoformat(), code)
                for when, code in one.conditions
            ],
        )
        database.executemany(
            "INSERT INTO measurement VALUES (?,?,?,?,?,?)",
            [
                (next(numbers), number, MEASURES[code], when.isoformat(), value, UNIT_CONCEPTS[code])
                for when, code, value in one.measures
            ],
        )
        database.executemany(
            "INSERT INTO visit_occurrence VALUES (?,?,?,?,?)",
            [
                (next(numbers), number, 9201 if inside else 9202, begin.isoformat(), end.isoformat())
                for begin, end, inside in one.visits
            ],
        )
        database.executemany(
            "INSERT INTO note VALUES (?,?,?,?,?)",
            [(next(numbers), number, when.isoformat(), 44814645, text) for when, text in one.notes],
        )
    pairs = [(concept, concept) for concept in CONDITIONS.values()] + [(201826, 443729)]
    database.executemany("INSERT INTO concept_ancestor VALUES (?,?)", pairs)
    for table in ("condition_occurrence", "measurement", "visit_occurrence", "note"):
        database.execute(f"CREATE INDEX {table}_person ON {table} (person_id)")
    database.commit()
    database.close()
    return {"model": "omop-5.4"}


def write_fhir(people: Iterable[Patient], folder: Path) -> dict[str, Any]:
    """Write a bulk export; return the view."""
    folder.mkdir(parents=True)
    names = ("Patient", "Condition", "Observation", "Encounter", "DocumentReference")
    files = {name: (folder / f"{name}.ndjson").open("w", encoding="utf-8") for name in names}
    numbers = iter(range(10**9))

    def put(kind: str, **fields: Any) -> None:
        fields = {"resourceType": kind, **fields}
        fields.setdefault("id", f"{kind[0].lower()}{next(numbers)}")
        files[kind].write(json.dumps(fields) + "\n")

    def coded(system: str, code: str) -> dict[str, Any]:
        return {"coding": [{"system": system, "code": code}]}

    for one in people:
        subject = {"reference": f"Patient/{one.name}"}
        put("Patient", id=one.name, gender="female" if one.female else "male", birthDate=str(one.born))
        for when, code in one.conditions:
            put(
                "Condition",
                subject=subject,
                code=coded("http://hl7.org/fhir/sid/icd-10", code),
                onsetDateTime=str(when),
            )
        for when, code, value in one.measures:
            unit = "%" if code == HBA1C else "kg"
            put(
                "Observation",
                status="final",
                subject=subject,
                code=coded("http://loinc.org", code),
                effectiveDateTime=str(when),
                valueQuantity={
                    "value": value,
                    "unit": unit,
                    "system": "http://unitsofmeasure.org",
                    "code": unit,
                },
            )
        for begin, end, inside in one.visits:
            put(
                "Encounter",
                status="finished",
                subject=subject,
                type=[coded("http://snomed.info/sct", (INPATIENT if inside else OUTPATIENT)["snomed"])],
                period={"start": str(begin), "end": str(end)},
                **{
                    "class": {
                        "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
                        "code": "IMP" if inside else "AMB",
                    }
                },
            )
        for when, text in one.notes:
            attachment = {"contentType": "text/plain", "data": base64.b64encode(text.encode()).decode()}
            put(
                "DocumentReference",
                status="current",
                subject=subject,
                date=f"{when}T12:00:00Z",
                content=[{"attachment": attachment}],
            )
    for file in files.values():
        file.close()
    return {"model": "fhir-r4"}
