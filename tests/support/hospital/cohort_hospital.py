"""An invented hospital as its owner has it, loaded into several engines."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import duckdb

from plasmid.data.settings import TableMap

TODAY = date(2025, 1, 1)
EPOCH = date(1970, 1, 1)
CODES = {
    "condition": ["E11", "E11.9", "e11.65", "E10", "I21.0", "I50.9", "J18.9", "N18.3"],
    "visit": ["IP", "op", "ER", "Ip"],
    "measurement": ["4548-4", "2160-0"],
    "drug": ["1503297", "1503298", "40164929"],
    "note": ["letter", "Ward"],
}
WORDS = (
    "stable",
    "Änderung",
    "übel",
    "zebra",
    "Ärztin",
    "apple",
    "Zeta",
    "-",
    "\U0001f600 fine",
    "e\u0301clat",
)
UNITS = {"%": "%", "pct": "%", "mmol/mol": "mmol/mol", "Promille": "[ppth]"}
ANCESTORS = [("1503297", code) for code in ("1503297", "40164929")] + [("1503298", "1503298")]


@dataclass(frozen=True)
class Event:
    """One row of a declared table; *day* counts from 1970."""

    person: str
    day: int
    code: str | None = None
    value: float | None = None
    unit: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Person:
    sex: str | None
    birth: date | None
    death: date | None


@dataclass(frozen=True)
class Hospital:
    people: dict[str, Person]
    events: dict[str, list[Event]]


def hospital(people: int = 300, seed: int = 0) -> Hospital:
    """Return a hospital whose rows tie, repeat, lack cells, and sort unlike any locale."""
    source = random.Random(seed)
    found: dict[str, Person] = {}
    events: dict[str, list[Event]] = {table: [] for table in CODES}
    for number in range(people):
        name = source.choice(("p", "P", "ä", "z-", "")) + str(number)
        birth = date(1930, 1, 1) + timedelta(days=source.randrange(29_000))
        if source.random() < 0.05:
            birth = date(source.choice((1940, 1960, 2000)), 2, 29)
        death = date(2023, 6, 1) + timedelta(days=source.randrange(300)) if source.random() < 0.15 else None
        sex = source.choice(("female", "male", "other", None))
        found[name] = Person(sex, birth if source.random() < 0.95 else None, death)
        for table, codes in CODES.items():
            for _ in range(source.randrange(6)):
                day = (date(2021, 12, 20) + timedelta(days=source.randrange(700)) - EPOCH).days
                event = Event(name, day, source.choice(codes))
                if table == "measurement":
                    unit = source.choice(tuple(UNITS))
                    value = round(source.uniform(4, 130), 1) if source.random() < 0.9 else None
                    event = Event(name, day, event.code, value, unit)
                if table == "note":
                    words = " ".join(source.choice(WORDS) for _ in range(2))
                    event = Event(name, day, event.code, text=words if source.random() < 0.9 else None)
                # the same day again, once or more: ties, and rows that are there twice
                events[table] += [event] * source.choice((1, 1, 1, 2))
                if source.random() < 0.3:
                    events[table].append(
                        Event(name, day, source.choice(codes), event.value, event.unit, "other")
                    )
    return Hospital(found, events)


def local_tables(given: Hospital) -> dict[str, tuple[list[str], list[tuple[str | None, ...]]]]:
    """Return the hospital as its owner has it: local names, formats and codes, all as text."""

    def iso(day: int) -> str:
        return (EPOCH + timedelta(days=day)).isoformat()

    def german(day: int) -> str:
        return (EPOCH + timedelta(days=day)).strftime("%d.%m.%Y")

    sexes = {"female": "w", "male": "M", "other": "d", None: ""}
    people = [
        (
            f" {name} ",
            sexes[person.sex],
            person.birth.isoformat() if person.birth else None,
            f"{person.death.isoformat()}T08:30:00" if person.death else "",
        )
        for name, person in given.people.items()
    ]
    tables: dict[str, tuple[list[str], list[tuple[str | None, ...]]]] = {
        "Patienten": (["ID", "Geschlecht", "geb", "gest"], people),
        "concept_ancestor": (["above", "below"], list(ANCESTORS)),
    }
    for table, events in given.events.items():
        rows: list[tuple[str | None, ...]] = []
        for event in events:
            row = [event.person, german(event.day) if table == "visit" else iso(event.day), event.code]
            if table == "measurement":
                row += [None if event.value is None else repr(event.value), event.unit]
            if table == "note":
                row += [event.text]
            rows.append(tuple(row))
        extra = {"measurement": ["val", "Einheit"], "note": ["Text; 'frei'"]}.get(table, [])
        tables[f"t_{table}"] = (["ID", "Datum", "Code", *extra], rows)
    return tables


def mappings() -> dict[str, TableMap]:
    """Return the view's mapping of :func:`local_tables`."""
    event = {"person": "ID", "date": "Datum", "code": "Code"}
    given: dict[str, dict[str, Any]] = {
        "person": {
            "table": "Patienten",
            "columns": {
                "person": "ID",
                "sex": {"column": "Geschlecht", "codes": {"w": "female", "M": "male", "d": "other"}},
                "birth_date": "geb",
                "death_date": "gest",
            },
        },
        "condition": {"table": "t_condition", "columns": event, "system": "icd10"},
        "drug": {"table": "t_drug", "columns": event, "system": "omop"},
        "visit": {
            "table": "t_visit",
            "columns": {**event, "date": {"column": "Datum", "date_format": "%d.%m.%Y"}},
            "system": "local",
        },
        "measurement": {
            "table": "t_measurement",
            "columns": {**event, "value": "val", "unit": "Einheit"},
            "system": "loinc",
            "units": UNITS,
        },
        "note": {"table": "t_note", "columns": {**event, "text": "Text; 'frei'"}, "system": "local"},
        "ancestor": {
            "table": "concept_ancestor",
            "columns": {"ancestor": "above", "descendant": "below"},
            "system": "omop",
        },
    }
    return {table: TableMap.model_validate(mapping) for table, mapping in given.items()}


def statements(given: Hospital, collation: str = "") -> list[tuple[str, list[tuple[str | None, ...]]]]:
    """Return ``(CREATE TABLE, [])`` and ``(INSERT with ? for values, rows)`` of each table."""
    found: list[tuple[str, list[tuple[str | None, ...]]]] = []
    for table, (columns, rows) in local_tables(given).items():
        quoted = [column.replace('"', '""') for column in columns]
        typed = ", ".join(f'"{column}" TEXT {collation}' for column in quoted)
        found.append((f'CREATE TABLE "{table}" ({typed})', []))
        found.append((f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(columns))})', rows))
    return found


def in_duckdb(given: Hospital) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for statement, rows in statements(given):
        connection.execute(statement) if not rows else connection.executemany(statement, rows)
    return connection


def in_sqlite(given: Hospital) -> sqlite3.Connection:
    """Load into SQLite, whose columns here compare without regard to case."""
    connection = sqlite3.connect(":memory:")
    for statement, rows in statements(given, "COLLATE NOCASE"):
        connection.execute(statement) if not rows else connection.executemany(statement, rows)
    return connection
