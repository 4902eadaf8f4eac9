"""Synthetic patients of carebundle, as bundles and as a bulk export: what is read and told, in numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from carebundle import PROFILES, generate_bundle, to_json, to_ndjson

from plasmid.core.errors import DataError
from support.hospital.fhir_data import filled, opened, rows, told

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
PROFILE_NAMES = (
    "allergyintolerance", "blood-pressure", "bmi", "body-height", "body-temperature", "body-weight",
    "condition-problems-health-concerns", "diagnosticreport-lab", "encounter", "heart-rate",
    "medicationrequest", "observation-lab", "patient", "practitioner", "pulse-oximetry", "respiratory-rate",
)  # fmt: skip
ACCEPTED = tuple(US_CORE + name for name in PROFILE_NAMES)
PEOPLE = 15


def bundles() -> list[object]:
    """Return three people of each of the five profiles; a person's identifier follows from seed and index."""
    return [
        generate_bundle(profile=profile, seed=seed, index=index)
        for seed, profile in enumerate(sorted(PROFILES))
        for index in range(3)
    ]


def test_bundles_and_a_bulk_export_of_the_same_people_have_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bulk").mkdir()
    made = bundles()
    for number, one in enumerate(made):
        (tmp_path / "bundles" / f"{number:02}.json").write_text(to_json(one))
    for kind, text in to_ndjson(made).items():
        (tmp_path / "bulk" / f"{kind}.ndjson").write_text(text)
    found = []
    for folder in ("bundles", "bulk"):
        source = opened(tmp_path / folder, profiles=ACCEPTED)
        sizes = filled(source)
        assert sizes == {"person": 15, "condition": 36, "drug": 23, "measurement": 540, "visit": 15}
        total = "SELECT code, unit, count(*) AS n, round(sum(value), 6) AS total FROM measurement"
        sums = rows(source, f"{total} GROUP BY ALL ORDER BY ALL")
        assert rows(source, "SELECT count(DISTINCT event) AS n FROM measurement") == [{"n": 525}]
        people = rows(source, "SELECT person, birth_date, sex FROM person ORDER BY person")
        found.append((sums, people, sorted(one.partition(" (")[0] for one in told(source))))
        source.close()
    assert found[0] == found[1]
    assert found[0][2] == [
        "AllergyIntolerance, which has no rows, left out: 1",
        "DiagnosticReport without a text that can be read, left out: 75",
        "Practitioner, which has no rows, left out: 15",
    ]
    assert len(found[0][0]) == 36
    both = opened(tmp_path, profiles=ACCEPTED)
    assert both.tables()["person"].rows == PEOPLE
    assert both.tables()["measurement"].rows == 540
    assert both.tables()["condition"].rows == 36
    both.close()


def test_every_number_of_a_bundle_is_in_the_table(tmp_path: Path) -> None:
    text = to_json(generate_bundle(profile="ckd_stage3", seed=4, index=0))
    (tmp_path / "one.json").write_text(text)
    expected = []
    for entry in json.loads(text)["entry"]:
        resource = entry["resource"]
        for part in (resource, *resource.get("component", ())):
            if "valueQuantity" in part:
                value = part["valueQuantity"]
                expected += [
                    (coding["code"], float(value["value"]), value["code"])
                    for coding in part["code"]["coding"]
                ]
    source = opened(tmp_path, profiles=ACCEPTED)
    read = [tuple(row.values()) for row in rows(source, "SELECT code, value, unit FROM measurement")]
    assert read == expected
    assert len(read) == 36
    assert source.locate("measurement", 0) == "resource 7 (one.json, entry 8)"
    source.close()


def test_profiles_that_the_owner_has_not_listed_are_refused_by_type_with_their_count(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(to_json(generate_bundle(profile="healthy", seed=1, index=0)))
    with pytest.raises(DataError) as caught:
        opened(tmp_path, profiles=tuple(one for one in ACCEPTED if not one.endswith(("patient", "lab"))))
    assert caught.value.code == "data.fhir_profile"
    assert caught.value.message.split("\n  ")[1:] == [
        f"Patient under {US_CORE}patient: 1 (first at one.json, entry 1)",
        f"Observation under {US_CORE}observation-lab: 26 (first at one.json, entry 5)",
        f"DiagnosticReport under {US_CORE}diagnosticreport-lab: 5 (first at one.json, entry 39)",
    ]
