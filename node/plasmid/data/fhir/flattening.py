"""One resource becomes rows of the declared tables. Pure.

Rules
-----
1. Patient -> person; Condition -> condition; MedicationRequest, MedicationAdministration,
   MedicationStatement -> drug; Procedure -> procedure; Encounter -> visit; Observation with a number ->
   measurement, any other -> observation; plain text of DocumentReference and DiagnosticReport -> note.
2. An event has one row a coding; ``event`` is the same number in all of them. A component of an Observation
   is an event of its own; a panel with components and no value of its own makes no other row. A note has one
   row, with its LOINC code, or else its first.
3. A day is the one written, in the zone it is written in. A partial one (``2019``, ``2019-03``) counts from
   its first day, and is counted. An event without a day or code keeps its row, and is counted.
4. ``<5`` is not 5: a quantity with a comparator has no value. A unit is its UCUM code, or else what is
   written.
5. Other things that rows cannot tell (an onset as an age, a death without a date, a PDF) are counted, not
   guessed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import date
from itertools import count
from typing import Any, NamedTuple

from plasmid.data.fhir.names import name_of
from plasmid.data.fhir.statuses import happened
from plasmid.data.fhir.tally import Tell

SYSTEMS = {
    "http://snomed.info/sct": "snomed",
    "http://loinc.org": "loinc",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "rxnorm",
    "http://www.whocc.no/atc": "atc",
    "http://www.ama-assn.org/go/cpt": "cpt",
    "http://hl7.org/fhir/sid/icd-10": "icd10",
    "http://hl7.org/fhir/sid/icd-10-cm": "icd10",
    "http://hl7.org/fhir/sid/icd-10-de": "icd10",
    "http://fhir.de/CodeSystem/bfarm/icd-10-gm": "icd10",
    "http://fhir.de/CodeSystem/dimdi/icd-10-gm": "icd10",
    "http://hl7.org/fhir/sid/icd-9-cm": "icd9",
}
"""FHIR's system -> the short name of :data:`plasmid.recipes.declared.SYSTEMS`; others stay as they are."""
UCUM = "http://unitsofmeasure.org"
Codings = list[tuple[str | None, str | None]]
"""(code, system) pairs."""
_SEXES = frozenset({"male", "female", "other", "unknown"})
_NOTICE = "notice.fhir_partial"
_INVALID = "data.fhir_invalid"


class Row(NamedTuple):
    """A row of ``table``; ``subject`` (at ``base``) and ``medication`` are names, still to be resolved."""

    base: str | None
    table: str
    event: int
    subject: str | None
    start: date | None
    end: date | None
    code: str | None
    system: str | None
    number: float | None
    word: str | None
    unit: str | None
    text: str | None
    medication: str | None


class Person(NamedTuple):
    """A row of ``person``, without its identifier."""

    birth_date: date | None
    sex: str | None
    death_date: date | None


class Flattener:
    """Makes rows; events are numbered from 0 in the order in which they are met."""

    def __init__(self) -> None:
        self._event = count()

    def person(self, resource: Mapping[str, Any], tell: Tell) -> Person:
        """Return the row of a Patient."""
        sex = resource.get("gender")
        if sex is not None and sex not in _SEXES:
            tell(_INVALID, "Patient.gender: not one of R4's codes")
        death = resource.get("deceasedDateTime")
        if death is None and resource.get("deceasedBoolean") not in (None, False):
            tell(_NOTICE, "Patient who died, on a day that is not told")
        born = _day(resource.get("birthDate"), "Patient.birthDate", tell)
        return Person(born, sex, _day(death, "Patient.deceasedDateTime", tell))

    def events(self, kind: str, resource: Mapping[str, Any], tell: Tell) -> list[Row]:
        """Return the rows of a *resource* of another type; none if what it tells did not happen."""
        if not happened(kind, resource, tell):
            return []
        if kind == "Observation":
            return self._observation(resource, tell)
        if kind in ("DocumentReference", "DiagnosticReport"):
            return self._notes(kind, resource, tell)
        if kind == "Condition":
            start, _ = _when(kind, resource, tell, "onset", "recordedDate")
            return self._rows("condition", kind, resource, _codings(resource.get("code")), start, tell)
        if kind == "Procedure":
            start, _ = _when(kind, resource, tell, "performed")
            return self._rows("procedure", kind, resource, _codings(resource.get("code")), start, tell)
        if kind == "Encounter":
            start, end = _period(kind, "period", resource.get("period"), tell)
            codings = _codings({"coding": [resource["class"]]})
            codings += [coding for concept in resource.get("type") or () for coding in _codings(concept)]
            return self._rows("visit", kind, resource, codings, start, tell, end=end)
        return self._drug(kind, resource, tell)

    def _drug(self, kind: str, resource: Mapping[str, Any], tell: Tell) -> list[Row]:
        if kind == "MedicationRequest":
            start, _ = _when(kind, resource, tell, "", "authoredOn")
            supply = (resource.get("dispenseRequest") or {}).get("validityPeriod")
            _, end = _period(kind, "dispenseRequest.validityPeriod", supply, tell)
        else:
            start, end = _when(kind, resource, tell, "effective", "dateAsserted")
        concept, reference = resource.get("medicationCodeableConcept"), None
        if concept is None:
            reference = (resource.get("medicationReference") or {}).get("reference")
            if reference and reference.startswith("#"):
                inside = [one for one in resource.get("contained") or () if one.get("id") == reference[1:]]
                concept, reference = (inside[0].get("code") if inside else None), None
        medication = name_of(reference).local if reference else None
        codings = _codings(concept)
        return self._rows("drug", kind, resource, codings, start, tell, end=end, medication=medication)

    def _observation(self, resource: Mapping[str, Any], tell: Tell) -> list[Row]:
        start, _ = _when("Observation", resource, tell, "effective")
        components = resource.get("component") or ()
        whole = not components or any(name.startswith("value") for name in resource)
        rows: list[Row] = []
        for part in (resource, *components) if whole else components:
            path = "Observation" if part is resource else "Observation.component"
            table, number, unit, word = _value(path, part, tell)
            codings = _codings(part.get("code"))
            rows += self._rows(
                table, path, resource, codings, start, tell, number=number, word=word, unit=unit
            )
        return rows

    def _notes(self, kind: str, resource: Mapping[str, Any], tell: Tell) -> list[Row]:
        if kind == "DiagnosticReport":
            texts = [resource["conclusion"]] if resource.get("conclusion") else []
            attachments, concept = resource.get("presentedForm") or (), resource.get("code")
        else:
            texts = []
            attachments, concept = (
                [one["attachment"] or {} for one in resource["content"]],
                resource.get("type"),
            )
        texts += [text for one in attachments if (text := _text(kind, one, tell)) is not None]
        if not texts:
            tell(_NOTICE, f"{kind} without a text that can be read, left out")
            return []
        if kind == "DiagnosticReport":
            start, _ = _when(kind, resource, tell, "effective", "issued")
        else:
            start = _day(resource.get("date"), f"{kind}.date", tell)
        codings = _codings(concept)
        best = ([one for one in codings if one[1] == "loinc"] or codings)[:1]
        return [
            row for text in texts for row in self._rows("note", kind, resource, best, start, tell, text=text)
        ]

    def _rows(
        self, table: str, path: str, resource: Mapping[str, Any], codings: Codings, start: date | None,
        tell: Tell, *, end: date | None = None, number: float | None = None, word: str | None = None,
        unit: str | None = None, text: str | None = None, medication: str | None = None,
    ) -> list[Row]:  # fmt: skip
        """Return the rows of one event."""
        if start is None:
            tell(_NOTICE, f"{path} without a day")
        if not codings and medication is None:
            tell(_NOTICE, f"{path} without a code")
        event = next(self._event)
        reference = (resource.get("subject") or {}).get("reference")
        subject, base = name_of(reference) if reference else (None, None)
        return [
            Row(base, table, event, subject, start, end, code, system, number, word, unit, text, medication)
            for code, system in codings or [(None, None)]
        ]


def medication_codes(resource: Mapping[str, Any]) -> Codings:
    """Return the (code, system) of a Medication."""
    return _codings(resource.get("code"))


def _codings(concept: Any) -> Codings:
    return [
        (coding["code"], SYSTEMS.get(system := coding.get("system"), system))
        for coding in (concept or {}).get("coding") or ()
        if coding and coding.get("code") is not None  # the models let null pass here
    ]


def _when(
    kind: str, resource: Mapping[str, Any], tell: Tell, choice: str, other: str = ""
) -> tuple[date | None, date | None]:
    """Return first and last day of the choice element ``choice[x]``, or of the element *other*."""
    if choice:
        one = resource.get(f"{choice}DateTime", resource.get(f"{choice}Instant"))
        if one is not None:
            return _day(one, f"{kind}.{choice}", tell), None
        period = resource.get(f"{choice}Period")
        if period:
            return _period(kind, f"{choice}Period", period, tell)
        if any(name.startswith(choice) for name in resource):
            tell(_NOTICE, f"{kind}.{choice} that is neither a day nor a period")
    return _day(resource.get(other), f"{kind}.{other}", tell), None


def _period(kind: str, element: str, period: Any, tell: Tell) -> tuple[date | None, date | None]:
    given = period or {}
    return (
        _day(given.get("start"), f"{kind}.{element}.start", tell),
        _day(given.get("end"), f"{kind}.{element}.end", tell),
    )


_REST = {4: "-01-01", 7: "-01", 10: ""}


def _day(text: Any, path: str, tell: Tell) -> date | None:
    if text is None:
        return None
    if isinstance(text, str):
        start = text[:10]
        try:
            day = date.fromisoformat(start + _REST[len(start)])
        except (KeyError, ValueError):
            pass
        else:
            if len(start) < 10:
                tell(_NOTICE, f"{path} that is partial, taken from its first day")
            return day
    tell(_INVALID, f"{path}: not a date")
    return None


def _value(
    path: str, part: Mapping[str, Any], tell: Tell
) -> tuple[str, float | None, str | None, str | None]:
    """Return (table, number, unit, word) of an Observation or component."""
    if (quantity := part.get("valueQuantity")) is not None:
        number = _number(quantity.get("value"), f"{path}.valueQuantity.value", tell)
        if quantity.get("comparator") is not None:
            tell(_NOTICE, f"{path}.valueQuantity with a comparator, kept without its value")
            number = None
        code = quantity.get("code") if quantity.get("system") == UCUM else None
        if code is None:
            tell(_NOTICE, f"{path}.valueQuantity without a UCUM code")
        return "measurement", number, code if code is not None else quantity.get("unit"), None
    if "valueInteger" in part:
        return "measurement", _number(part["valueInteger"], f"{path}.valueInteger", tell), "1", None
    if "valueCodeableConcept" in part:
        codes = _codings(part["valueCodeableConcept"])
        if not codes:
            tell(_NOTICE, f"{path}.valueCodeableConcept without a code")
        return "observation", None, None, codes[0][0] if codes else None
    if isinstance(answer := part.get("valueBoolean"), bool):
        return "observation", None, None, "true" if answer else "false"
    for name in ("valueString", "valueDateTime", "valueTime"):
        if isinstance(part.get(name), str):
            return "observation", None, None, part[name]
    if any(name.startswith("value") for name in part):
        tell(_NOTICE, f"{path} with a value of another type, kept without its value")
    return "observation", None, None, None


def _number(value: Any, path: str, tell: Tell) -> float | None:
    if value is None:
        return None
    if type(value) is float or (type(value) is int and abs(value) < 10**300):
        return float(value)
    tell(_INVALID, f"{path}: not a JSON number")
    return None


def _text(kind: str, attachment: Mapping[str, Any], tell: Tell) -> str | None:
    kinds = str(attachment.get("contentType") or "").lower().replace(" ", "").split(";")
    data = attachment.get("data")
    if (
        kinds[0] == "text/plain"
        and isinstance(data, str)
        and set(kinds[1:]) <= {"charset=utf-8", "charset=us-ascii"}
    ):
        try:
            return base64.b64decode(data, validate=False).decode()
        except (binascii.Error, UnicodeDecodeError):
            pass
        tell(_INVALID, f"{kind}: an attachment of text/plain that is not UTF-8 in base64")
    else:
        tell(_NOTICE, f"{kind} whose attachment is not inline text/plain in UTF-8, not read")
    return None
