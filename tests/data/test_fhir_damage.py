"""Damaged files and invalid resources: each one's code and message, and no cell in any of them."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import DataError
from plasmid.data.fhir import reading
from plasmid.data.fhir.loading import TYPES
from plasmid.data.fhir.validating import Validator, model_of
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
)

CANARY = "CANARY-7731"
UCUM = {"system": "http://unitsofmeasure.org", "code": "g"}


def refused(folder: Path, *resources: Any, code: str) -> list[str]:
    """Return the lines of the error's message, which must have *code* and no canary anywhere."""
    with pytest.raises(DataError) as caught:
        opened(folder, *resources)
    error: BaseException | None = caught.value
    assert caught.value.code == code
    assert caught.value.hint
    assert CANARY not in str(caught.value)
    assert error is not None
    assert error.__context__ is None
    assert error.__cause__ is None
    return [line.strip() for line in caught.value.message.split("\n")[1:]]


DAMAGE: dict[str, tuple[str, bytes, str]] = {
    "cut off": ("a.ndjson", b'{"resourceType": "Patient", "id": "CANARY-7731',
                "no JSON: 1 (first at a.ndjson, line 2)"),
    "no json": ("a.ndjson", b"CANARY-7731", "no JSON: 1 (first at a.ndjson, line 2)"),
    "not utf-8": ("a.ndjson", '{"id": "CANARY-7731é"}'.encode("latin-1"),
                  "not UTF-8: 1 (first at a.ndjson, line 2)"),
    "utf-16": ("b.json", '{"id": "CANARY-7731"}'.encode("utf-16"), "not UTF-8: 1 (first at b.json)"),
    "repeated key": ("a.ndjson", b'{"resourceType": "Patient", "id": "1", "id": "CANARY-7731"}',
                     "an object with a repeated key: 1 (first at a.ndjson, line 2)"),
    "repeated key of a bundle": ("b.json", b'{"resourceType": "Bundle", "type": "x", "type": "y"}',
                                 "an object with a repeated key: 1 (first at b.json)"),
    "nan": ("a.ndjson", b'{"resourceType": "Patient", "id": NaN}', "no JSON: 1 (first at a.ndjson, line 2)"),
    "no object": ("a.ndjson", b'["CANARY-7731"]', "no JSON object: 1 (first at a.ndjson, line 2)"),
    "depth bomb": ("a.ndjson", b"[" * 10**6, "nested too deeply: 1 (first at a.ndjson, line 2)"),
    "depth bomb in a file": ("b.json", b'{"a":' * 10**6, "nested too deeply: 1 (first at b.json)"),
    "bomb among entries": ("b.json", b'{"resourceType": "Bundle", "entry": [{}, ' + b"[" * 10**6,
                           "nested too deeply: 1 (first at b.json, entry 2)"),
    "truncated bundle": ("b.json", json.dumps(bundle(patient("CANARY-7731"), condition())).encode()[:-60],
                         "no JSON: 1 (first at b.json, entry 2)"),
    "empty": ("b.json", b"", "an empty file: 1 (first at b.json)"),
    "empty export": ("c.ndjson", b"", "an empty file: 1 (first at c.ndjson)"),
    "damaged gzip": ("c.ndjson.gz", gzip.compress(lines(patient("CANARY-7731")).encode())[:-12],
                     "a gzip file that is cut off or damaged: 1 (first at c.ndjson.gz)"),
    "no gzip": ("c.json.gz", b"CANARY-7731",
                "a gzip file that is cut off or damaged: 1 (first at c.json.gz)"),
    "huge number": ("a.ndjson", b'{"resourceType": "Patient", "id": ' + b"1" * 5000 + b"}",
                    "no JSON: 1 (first at a.ndjson, line 2)"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    file, content, message = DAMAGE[name]
    (tmp_path / "a.ndjson").write_text(lines(patient()))
    with (tmp_path / file).open("ab") as opened_file:
        opened_file.write(content)
    assert refused(tmp_path, code="data.fhir_damaged") == [message]


def test_a_line_or_file_beyond_its_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 2**20)
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 2**20)
    (tmp_path / "a.ndjson").write_text(lines(patient(), {"id": CANARY * 200_000}, patient("p2")))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b" " * 2**22))
    assert refused(tmp_path, code="data.fhir_damaged") == [
        "a line of more than 1 MiB, which ends the reading of its file: 1 (first at a.ndjson, line 2)",
        "a .json file of more than 1 MiB (NDJSON has no such limit): 1 (first at b.json.gz)",
    ]


def test_a_byte_order_mark_blank_lines_and_members_in_any_order_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"\xef\xbb\xbf" + lines(patient()).encode() + b"\n  \n")
    late = {"entry": bundle(condition())["entry"], "type": "collection", "resourceType": "Bundle"}
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps(late).encode()))
    (tmp_path / "single.json").write_text(json.dumps(observation()))
    (tmp_path / "log.txt").write_text(CANARY)
    source = opened(tmp_path)
    assert filled(source) == {
        "person": 1,
        "condition": 1,
        "observation": 1,
    }
    assert source.troubles()[0].sentence.endswith("left out: 1")
    source.close()


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "no type": ({"id": CANARY}, "a resource without resourceType"),
    "type no word": ({"resourceType": 5}, "a resource without resourceType"),
    "missing": (observation(status=None), "Observation.status: missing"),
    "unknown element": (patient(**{CANARY: 1}), "Patient.?: an element that FHIR does not have"),
    "unknown element within": (observation(code={CANARY: 1}),
                               "Observation.code.?: an element that FHIR does not have"),
    "no list": (patient(name={"family": CANARY}), "Patient.name: not a list"),
    "identifier": (patient(f"{CANARY} !"), "Patient.id: invalid (string_pattern_mismatch)"),
    "number as code": (observation(code={"coding": [{"code": 7731}]}),
                       "Observation.code.coding.code: invalid (string_type)"),
    "number as string": (observation(valueQuantity={"value": "7731", **UCUM}),
                         "Observation.valueQuantity.value: not a JSON number"),
    "infinite": (observation(valueQuantity={"value": float("1e308") * 10, **UCUM}), "no JSON"),
    "no such day": (observation(effectiveDateTime="2024-02-30"),
                    "Observation.effectiveDateTime: invalid (datetime_from_date_parsing)"),
    "year as number": (observation(effectiveDateTime=2019), "Observation.effective: not a date"),
    "birth month": (patient(birthDate="1980-13-01"), "Patient.birthDate: invalid (value_error)"),
    "two values": (observation(valueInteger=1, valueString=CANARY), "Observation: invalid (value_error)"),
    "status": (observation(status=CANARY), "Observation.status: not one of R4's codes"),
    "sex": (patient(gender=CANARY), "Patient.gender: not one of R4's codes"),
    "contained": (patient(contained=[{"resourceType": CANARY}]),
                  "Patient: not readable as this type, or an unknown contained resource"),
    "nameless": ({"resourceType": "Patient", "gender": "male"}, "Patient with neither id nor fullUrl"),
    "text": (event("DocumentReference", "d", status="current",
                   content=[{"attachment": {"contentType": "text/plain", "data": "/w=="}}]),
             "DocumentReference: an attachment of text/plain that is not UTF-8 in base64"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_resource_is_told_by_type_and_path(tmp_path: Path, name: str) -> None:
    resource, message = INVALID[name]
    code = "data.fhir_damaged" if message == "no JSON" else "data.fhir_invalid"
    found = refused(tmp_path, patient(), resource, resource, code=code)
    assert found == [f"{message}: 2 (first at all.ndjson, line 2)"]


def test_what_is_told_of_a_resource_does_not_depend_on_those_before_it() -> None:
    quantity = {"value": 1.5, **UCUM}
    before = [
        patient(meta={"lastUpdated": "2024-01-01T00:00:00Z"}),
        condition(),
        observation(valueQuantity=quantity),
        observation(component=[{"code": coded("1")}], valueInteger=1),
        event("Encounter", "e", status="finished", type=[coded("1")], **{"class": {"code": "IMP"}}),
    ]
    worse: list[Any] = [None, [], [None], [{}], {}, "", "2024-02-30", 7731, -1.5, True, "a b", quantity]
    worse += [coded("2"), [coded("2")], {"reference": 1}, {"extension": []}]
    used = Validator(())
    for one in before * 2:
        assert used(one, lambda *_: None)
    assert used._shapes == {(one["resourceType"], *one) for one in before}
    verdicts = {True: 0, False: 0}
    for one in before:
        for element in list(one)[1:]:
            for name, value in itertools.product((element, f"_{element}"), worse):
                told: list[tuple[str, str]] = []
                fresh: list[tuple[str, str]] = []
                changed = {**one, name: value}
                verdict = used(changed, lambda *what: told.append(what))  # noqa: B023
                assert Validator(())(changed, lambda *what: fresh.append(what)) == verdict  # noqa: B023
                assert sorted(told) == sorted(fresh)
                verdicts[verdict] += 1
    assert verdicts[True] > 80
    assert verdicts[False] > 400


def test_elements_of_every_type_that_has_rows_can_be_validated_one_by_one() -> None:
    assert [kind for kind in TYPES if not (model := model_of(kind)) or not model.parts] == []


def test_a_resource_nested_deeper_than_its_model_can_follow_is_invalid(tmp_path: Path) -> None:
    deep = last = patient("p2")
    for _ in range(300):
        last["extension"] = [{"url": "http://x"}]
        last = last["extension"][0]
    assert refused(tmp_path, patient(), deep, code="data.fhir_invalid") == [
        "Patient: nested too deeply: 1 (first at all.ndjson, line 2)"
    ]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    profile = "http://example.org/fhir/StructureDefinition/ward-patient"
    (tmp_path / "b.json").write_text(json.dumps(bundle(kind="batch-response")))
    (tmp_path / "c.json").write_text(json.dumps(bundle(bundle(patient()))))
    found = refused(
        tmp_path,
        patient(meta={"profile": [f"{profile}|1.0", "http://hl7.org/fhir/StructureDefinition/Patient"]}),
        condition(code=coded("1"), meta={"profile": [f"http://x/{CANARY}?{CANARY}"]}),
        bundle(patient()),
        patient(gender=CANARY),
        code="data.fhir_profile",
    )
    assert found == [
        f"Patient under {profile}: 1 (first at all.ndjson, line 1)",
        "Condition under a profile (its URL is not of the usual form): 1 (first at all.ndjson, line 2)",
        "a bundle within NDJSON: 1 (first at all.ndjson, line 3)",
        "Patient.gender: not one of R4's codes: 1 (first at all.ndjson, line 4)",
        "a bundle that holds answers or messages (batch-response, message, ...): 1 (first at b.json)",
        "a bundle within a bundle: 1 (first at c.json, entry 1)",
    ]
    (tmp_path / "b.json").unlink()
    (tmp_path / "c.json").unlink()
    source = opened(tmp_path, patient(meta={"profile": [f"{profile}|1.0"]}), profiles=(profile,))
    assert source.tables()["person"].rows == 1
    source.close()


def test_resources_of_two_servers_or_without_a_patient_are_refused(tmp_path: Path) -> None:
    both = bundle(patient(), patient())
    for entry, host in zip(both["entry"], "ab", strict=True):
        entry["fullUrl"] = f"https://{host}.example/fhir/Patient/p1"
    (tmp_path / "b.json").write_text(json.dumps(both))
    assert refused(tmp_path, code="data.fhir_identity") == [
        "resources of another server: 1 (first at b.json, entry 2)"
    ]
    (tmp_path / "b.json").write_text(json.dumps(bundle(condition())))
    assert refused(tmp_path, code="data.fhir_empty") == ["no Patient among the resources, whose number is: 1"]


@pytest.mark.parametrize("first", [True, False])
def test_under_a_unit_what_is_wrong_with_a_resource_leaves_it_out(tmp_path: Path, first: bool) -> None:
    """A damaged line, an invalid resource, one of another server: the others stay as they are."""
    sound = lines(patient(), condition()).encode()
    wrong = (
        b'{"resourceType": "Patient", "id": NaN}\n' + lines(patient("p2", birthDate="CANARY-7731")).encode()
    )
    (tmp_path / ("a.ndjson" if first else "z.ndjson")).write_bytes(wrong)
    (tmp_path / "m.ndjson").write_bytes(sound)
    other = bundle(condition(), patient("p3"))
    other["entry"][1]["fullUrl"] = "https://b.example/fhir/Patient/p3"
    (tmp_path / ("b.json" if first else "y.json")).write_text(json.dumps(other))
    source = opened(tmp_path, leaves_out=True)
    told = " ".join(one.sentence for one in source.troubles())
    people = {row["person"] for row in rows(source, "SELECT person FROM person")}
    assert {"p1", "p3"} <= people <= {"p1", "p2", "p3"}
    assert filled(source)["condition"] == 1
    assert "no JSON: 1" in told
    assert CANARY not in told
    source.close()
    (empty := tmp_path / "empty").mkdir()
    nobody = opened(empty, condition(), leaves_out=True)
    assert filled(nobody) == {}
    assert "no Patient among the resources" in " ".join(one.sentence for one in nobody.troubles())
    nobody.close()


def test_a_path_that_shows_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no file ending in \.json") as caught:
        opened(tmp_path)
    assert caught.value.code == "data.source_down"
    with pytest.raises(DataError, match="No such file") as caught:
        opened(tmp_path / "absent")
    assert caught.value.code == "data.source_down"
    assert caught.value.__context__ is None


def test_a_bundle_whose_type_is_no_word_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text(lines(patient()))
    (tmp_path / "b.json").write_text(json.dumps({"resourceType": "Bundle", "type": [CANARY]}))
    (told,) = refused(tmp_path, code="data.fhir_bundle")
    assert told.startswith("a bundle that holds answers or messages")
