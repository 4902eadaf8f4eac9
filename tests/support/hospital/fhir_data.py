"""Small FHIR resources, folders of them, and what a connection shows of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp

from plasmid.data.settings import FhirConnection
from plasmid.data.sources.fhir import FhirSource, open_fhir

Resource = dict[str, Any]


def patient(name: str = "p1", /, **more: Any) -> Resource:
    """Return a Patient."""
    return {"resourceType": "Patient", "id": name, "gender": "female", "birthDate": "1980-05-06", **more}


def coded(code: str, system: str = "http://snomed.info/sct", *others: dict[str, str]) -> dict[str, Any]:
    """Return a CodeableConcept."""
    return {"coding": [{"system": system, "code": code}, *others]}


def event(kind: str, name: str, **more: Any) -> Resource:
    """Return a resource of *kind* about the person ``p1``; None leaves an element out."""
    made = {"resourceType": kind, "id": name, "subject": {"reference": "Patient/p1"}, **more}
    return {key: value for key, value in made.items() if value is not None}


def observation(name: str = "o1", **more: Any) -> Resource:
    """Return a final Observation of glucose."""
    given = {
        "status": "final",
        "code": coded("2345-7", "http://loinc.org"),
        "effectiveDateTime": "2024-02-03",
    }
    return event("Observation", name, **{**given, **more})


def condition(name: str = "c1", **more: Any) -> Resource:
    """Return a Condition."""
    given = {"code": coded("E11.9", "http://hl7.org/fhir/sid/icd-10-cm"), "onsetDateTime": "2020-01-02"}
    return event("Condition", name, **{**given, **more})


def lines(*resources: Any) -> str:
    """Return NDJSON."""
    return "".join(json.dumps(one) + "\n" for one in resources)


def bundle(*resources: Resource, kind: str = "collection", **more: Any) -> Resource:
    """Return a Bundle whose entries have no fullUrl."""
    return {"resourceType": "Bundle", "type": kind, "entry": [{"resource": one} for one in resources], **more}


def opened(
    folder: Path, *resources: Resource, profiles: tuple[str, ...] = (), leaves_out: bool = False
) -> FhirSource:
    """Open *folder*, after *resources* have been written to it if there are any."""
    if resources:
        (folder / "all.ndjson").write_text(lines(*resources))
    connection = FhirConnection(kind="fhir", path=".", profiles=list(profiles))
    return open_fhir(connection, folder, limit_s=60, leaves_out=leaves_out)


def rows(source: FhirSource, query: str) -> list[dict[str, Any]]:
    """Return the rows of *query*."""
    parsed = sqlglot.parse_one(query, dialect="duckdb")
    assert isinstance(parsed, exp.Select)
    return [row for batch in source.select(parsed) for row in batch.to_pylist()]


def filled(source: FhirSource) -> dict[str, int | None]:
    """Return the number of rows of those tables that have some."""
    return {name: one.rows for name, one in source.tables().items() if one.rows}


def told(source: FhirSource) -> list[str]:
    """Return the sentences of the source's notices."""
    return [one.sentence for one in source.troubles()]
