"""What becomes of small resources: rows, versions, references and notices."""

from __future__ import annotations

import base64
from datetime import date as DAY
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import DataError
from plasmid.data.fhir.preset import fhir_tables
from plasmid.recipes.declared import TABLES
from support.hospital.fhir_data import (
    bundle,
    coded,
    condition,
    event,
    filled,
    lines,
    observation,
    opened,
    patient,
    rows,
    told,
)

UCUM = "http://unitsofmeasure.org"


def quantity(value: Any, unit: str = "mg/dL", **more: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": UCUM, "code": unit, **more}


def test_each_resource_becomes_rows_of_its_declared_table(tmp_path: Path) -> None:
    text = base64.b64encode("Feels well. äé".encode()).decode()
    source = opened(
        tmp_path,
        patient(deceasedDateTime="2024-06-01T23:30:00-08:00"),
        condition(),
        event("MedicationRequest", "m1", status="active", intent="order", authoredOn="2021-03-04",
              medicationCodeableConcept=coded("860975", "http://www.nlm.nih.gov/research/umls/rxnorm"),
              dispenseRequest={"validityPeriod": {"end": "2021-06-04"}}),
        event("MedicationStatement", "m2", status="active",
              effectivePeriod={"start": "2022", "end": "2022-05-01"},
              medicationReference={"reference": "#inside"},
              contained=[{"resourceType": "Medication", "id": "inside",
                          "code": coded("A10BA02", "http://www.whocc.no/atc")}]),
        event("MedicationAdministration", "m3", status="completed", effectiveDateTime="2022-02-02",
              medicationReference={"reference": "Medication/x"}),
        {"resourceType": "Medication", "id": "x", "code": coded("372687004")},
        event("Procedure", "r1", status="completed", code=coded("80146002"),
              performedPeriod={"start": "2023-01-01"}),
        event("Encounter", "e1", status="finished",
              period={"start": "2024-02-03T09:00:00Z", "end": "2024-02-04T09:00:00Z"},
              **{"class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"}}),
        observation(valueQuantity=quantity(5.5, "mmol/L")),
        observation("o2", code=coded("72166-2", "http://loinc.org"), valueCodeableConcept=coded("266919005")),
        event("DocumentReference", "d1", status="current", date="2024-02-05T00:30:00+02:00",
              type=coded("n", "urn:x", {"system": "http://loinc.org", "code": "11506-3"}),
              content=[{"attachment": {"contentType": "text/plain; charset=utf-8", "data": text}}]),
        event("DiagnosticReport", "g1", status="final", code=coded("58410-2", "http://loinc.org"),
              effectiveDateTime="2024-02-06", conclusion="Anaemia."),
    )  # fmt: skip
    assert set(filled(source)) == set(TABLES)
    person = {"person": "p1", "birth_date": DAY(1980, 5, 6), "sex": "female", "death_date": DAY(2024, 6, 1)}
    assert rows(source, "SELECT * EXCLUDE (resource) FROM person") == [person]
    assert rows(source, "SELECT date, code, system FROM condition") == [
        {"date": DAY(2020, 1, 2), "code": "E11.9", "system": "icd10"}
    ]
    assert [tuple(row.values()) for row in rows(source, "SELECT date, end_date, code, system FROM drug")] == [
        (DAY(2021, 3, 4), DAY(2021, 6, 4), "860975", "rxnorm"),
        (DAY(2022, 1, 1), DAY(2022, 5, 1), "A10BA02", "atc"),
        (DAY(2022, 2, 2), None, "372687004", "snomed"),
    ]
    assert rows(source, "SELECT date, code FROM procedure") == [{"date": DAY(2023, 1, 1), "code": "80146002"}]
    assert rows(source, "SELECT date, end_date, code FROM visit") == [
        {"date": DAY(2024, 2, 3), "end_date": DAY(2024, 2, 4), "code": "IMP"}
    ]
    assert rows(source, "SELECT code, value, unit FROM measurement") == [
        {"code": "2345-7", "value": 5.5, "unit": "mmol/L"}
    ]
    assert rows(source, "SELECT code, value FROM observation") == [{"code": "72166-2", "value": "266919005"}]
    assert [tuple(row.values()) for row in rows(source, "SELECT date, code, text FROM note")] == [
        (DAY(2024, 2, 5), "11506-3", "Feels well. äé"),
        (DAY(2024, 2, 6), "58410-2", "Anaemia."),
    ]
    assert source.locate("note", 1) == "resource 11 (all.ndjson, line 12)"
    partial = "MedicationStatement.effectivePeriod.start that is partial, taken from its first day: 1"
    assert told(source) == [f"{partial} (first at all.ndjson, line 4)"]
    source.close()
    source.close()


def test_an_event_with_two_codings_is_one_event_and_a_component_is_one_of_its_own(tmp_path: Path) -> None:
    parts = [
        {"code": coded("8480-6", "http://loinc.org"), "valueQuantity": quantity(139, "mm[Hg]")},
        {"code": coded("8462-4", "http://loinc.org"), "valueQuantity": quantity(84, "mm[Hg]")},
    ]
    two = coded(
        "E11.9", "http://hl7.org/fhir/sid/icd-10", {"system": "http://snomed.info/sct", "code": "44054006"}
    )
    source = opened(tmp_path, patient(), condition(code=two), observation(component=parts))
    assert rows(source, "SELECT code, system, event FROM condition") == [
        {"code": "E11.9", "system": "icd10", "event": 0},
        {"code": "44054006", "system": "snomed", "event": 0},
    ]
    assert rows(source, "SELECT code, value, event FROM measurement") == [
        {"code": "8480-6", "value": 139.0, "event": 1},
        {"code": "8462-4", "value": 84.0, "event": 2},
    ]
    assert "observation" not in filled(source)
    source.close()


def test_the_newest_version_counts_even_if_it_takes_the_resource_back(tmp_path: Path) -> None:
    def version(name: str, when: str, **more: Any) -> dict[str, Any]:
        return observation(name, meta={"lastUpdated": f"2024-0{when}-01T00:00:00Z"}, **more)

    history = bundle(patient(), kind="history")
    gone = {
        "request": {"method": "DELETE", "url": "Observation/o3"},
        "response": {"lastModified": "2024-09-01T00:00:00Z", "status": "204"},
    }
    history["entry"].append(gone)
    (tmp_path / "a.json").write_text(lines(history))
    source = opened(
        tmp_path,
        version("o1", "5", valueQuantity=quantity(2)),
        version("o1", "3", valueQuantity=quantity(1)),
        version("o2", "3", valueQuantity=quantity(3)),
        version("o2", "4", status="entered-in-error", valueQuantity=quantity(3)),
        version("o3", "8", valueQuantity=quantity(4)),
        observation("o4", valueQuantity=quantity(6)),
        observation("o4", valueQuantity=quantity(7)),
    )
    assert [row["value"] for row in rows(source, "SELECT value FROM measurement")] == [2.0, 7.0]
    assert told(source) == [
        "entries that delete a resource: 1 (first at a.json, entry 2)",
        "Observation with status entered-in-error, left out: 1 (first at all.ndjson, line 4)",
        "older or repeated versions of a resource, left out: 4 (first at all.ndjson, line 2)",
    ]
    source.close()


def test_references_of_every_form_find_their_person_and_others_are_counted(tmp_path: Path) -> None:
    urn = "urn:uuid:0B2466168-1e7d-5f62-9f38-2fae19fd57e7"
    unnamed = {"resourceType": "Patient", "gender": "male"}
    transaction = {
        "resourceType": "Bundle",
        "entry": [
            {"fullUrl": urn, "resource": unnamed},
            {"fullUrl": "https://ehr.example/fhir/Patient/p1", "resource": patient()},
            *({"resource": condition(f"c{place}", subject={"reference": one})} for place, one in enumerate([
                urn, urn.lower(), "Patient/p1", "https://ehr.example/fhir/Patient/p1/_history/2",
                "https://other.example/fhir/Patient/p1", "Patient/nobody", "#inside", "Group/g",
            ])),
            {"resource": condition("c9", subject={"display": "someone"})},
        ],
        "type": "transaction",
    }  # fmt: skip
    (tmp_path / "b.json").write_text(lines(transaction))
    source = opened(tmp_path)
    uuid = urn.lower().removeprefix("urn:uuid:")
    assert [row["person"] for row in rows(source, "SELECT person FROM condition")] == [uuid, uuid, "p1", "p1"]
    assert rows(source, "SELECT person, sex FROM person") == [
        {"person": uuid, "sex": "male"},
        {"person": "p1", "sex": "female"},
    ]
    assert told(source) == [
        "events of nobody: their subject is no Patient here, left out: 5 (first at b.json, entry 7)"
    ]
    source.close()


def test_a_replaced_patient_record_is_the_person_who_replaced_it(tmp_path: Path) -> None:
    source = opened(
        tmp_path,
        patient("old", link=[{"other": {"reference": "Patient/middle"}, "type": "replaced-by"}]),
        patient("middle"),
        patient("new", link=[{"other": {"reference": "Patient/middle"}, "type": "replaces"}]),
        condition("c1", subject={"reference": "Patient/old"}),
        condition("c2", subject={"reference": "Patient/new"}),
    )
    assert rows(source, "SELECT person FROM person") == [{"person": "new"}]
    assert rows(source, "SELECT DISTINCT person FROM condition") == [{"person": "new"}]
    assert told(source) == ["Patient records replaced by another of the same person: 2"]
    source.close()


def test_what_did_not_happen_or_is_modified_makes_no_row_and_is_counted(tmp_path: Path) -> None:
    drug = {"intent": "order", "medicationCodeableConcept": coded("1")}
    modifier = [{"url": "http://x", "valueCode": "y"}]
    refuted = coded("refuted", "http://terminology.hl7.org/CodeSystem/condition-ver-status")
    source = opened(
        tmp_path,
        patient(),
        condition("c1", verificationStatus=refuted),
        observation("o1", status="cancelled"),
        observation("o2", component=[{"code": coded("1"), "modifierExtension": modifier}]),
        event("MedicationRequest", "m1", status="active", **{**drug, "intent": "proposal"}),
        event("MedicationRequest", "m2", status="active", doNotPerform=True, **drug),
        event("Procedure", "r1", status="not-done", code=coded("1")),
        {"resourceType": "SubstanceSpecification"},
        {"resourceType": "Practitioner"},
    )  # fmt: skip
    assert filled(source) == {"person": 1}
    assert [one.partition(" (")[0] for one in told(source)] == [
        "Condition with verificationStatus refuted, left out: 1",
        "Observation with status cancelled, left out: 1",
        "Observation with a modifier extension or implicit rules, left out: 1",
        "MedicationRequest with intent proposal, left out: 1",
        "MedicationRequest with doNotPerform, left out: 1",
        "Procedure with status not-done, left out: 1",
        "resources of a type that R4B does not have, left out: 1",
        "Practitioner, which has no rows, left out: 1",
    ]
    source.close()


def test_values_that_rows_cannot_tell_are_counted_and_not_guessed(tmp_path: Path) -> None:
    source = opened(
        tmp_path,
        patient(birthDate="1980", deceasedBoolean=True),
        observation("o1", valueQuantity=quantity(5, comparator="<")),
        observation("o2", valueQuantity={"value": 7, "unit": "drops"}),
        observation("o3", valueRatio={"numerator": {"value": 1}}),
        observation("o4", valueInteger=3, effectiveDateTime=None),
        condition(onsetDateTime=None, onsetAge=quantity(30, "a"), recordedDate="2021-02"),
        condition("c2", code={"text": "a cold"}),
    )
    assert rows(source, "SELECT birth_date FROM person") == [{"birth_date": DAY(1980, 1, 1)}]
    assert [tuple(row.values()) for row in rows(source, "SELECT date, value, unit FROM measurement")] == [
        (DAY(2024, 2, 3), None, "mg/dL"),
        (DAY(2024, 2, 3), 7.0, "drops"),
        (None, 3.0, "1"),
    ]
    assert rows(source, "SELECT value FROM observation") == [{"value": None}]
    assert rows(source, "SELECT date, code FROM condition") == [
        {"date": DAY(2021, 2, 1), "code": "E11.9"},
        {"date": DAY(2020, 1, 2), "code": None},
    ]
    assert [one.partition(" (")[0] for one in told(source)] == [
        "Patient who died, on a day that is not told: 1",
        "Patient.birthDate that is partial, taken from its first day: 1",
        "Observation.valueQuantity with a comparator, kept without its value: 1",
        "Observation.valueQuantity without a UCUM code: 1",
        "Observation with a value of another type, kept without its value: 1",
        "Observation without a day: 1",
        "Condition.onset that is neither a day nor a period: 1",
        "Condition.recordedDate that is partial, taken from its first day: 1",
        "Condition without a code: 1",
    ]
    source.close()


def test_the_store_is_locked_and_gone_after_closing(tmp_path: Path) -> None:
    (tmp_path / "outside.csv").write_text("a\nCANARY\n")
    source = opened(tmp_path, patient())
    folder = source._store._folder
    assert folder.stat().st_mode & 0o077 == 0
    for query, code in (
        (f"SELECT * FROM read_csv('{tmp_path}/outside.csv')", "data.source_down"),
        ("SELECT nothing FROM person", "data.source_table"),
        ("SELECT * FROM elsewhere", "data.source_table"),
        ("SELECT cast(sex AS INT) FROM person", "data.source_down"),
    ):
        with pytest.raises(DataError) as caught:
            rows(source, query)
        assert caught.value.code == code
        assert caught.value.__context__ is None
        assert "female" not in str(caught.value)
    with pytest.raises(Exception, match="locked"):
        source._store.database.execute("SET enable_external_access = true")
    with pytest.raises(Exception, match="read-only"):
        source._store.database.execute("DROP TABLE person")
    source.close()
    assert not folder.exists()


def test_a_query_ends_at_its_limit(tmp_path: Path) -> None:
    source = opened(tmp_path, patient())
    source._limit_s = 0.2
    with pytest.raises(DataError) as caught:
        rows(
            source, "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"
        )
    assert caught.value.code == "data.source_timeout"
    source.close()


def test_the_preset_maps_every_declared_column_to_itself(tmp_path: Path) -> None:
    source = opened(tmp_path, patient(), condition())
    preset = fhir_tables(source.tables())
    assert set(preset) == set(TABLES)
    for name, mapped in preset.items():
        assert set(mapped.columns) == set(TABLES[name]) <= set(source.tables()[name].columns)
    source.close()
