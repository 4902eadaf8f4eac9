"""Makes this recipe's tables: FHIR bundles of synthetic patients become one CSV file of notes a site.

    pip install carebundle==0.5.0
    python flatten.py              # writes data/*.csv beside this file, the same bytes each time
    python flatten.py --check      # writes nothing; exit status 1 if a file would change

Rules
-----
1. The patients are carebundle's: one visit each, whose results, diagnoses and prescriptions come from one
   coherent draw. This script adds no finding; it chooses, flags and words them.
2. A visit becomes :data:`NOTES` different notes, each about :data:`PARTS` parts of the visit, drawn anew. A
   result is told if it lies outside its usual adult interval (:data:`RESULTS`), a few results always.
3. The label of a patient's notes is the first of :data:`LABELS` that a coded diagnosis (ICD-10-CM) supports,
   or :data:`NO_LABEL`. No note holds a diagnosis, a name or a date.
4. The sites differ in whom they see and in how they write. No patient is at two sites, or in training and in
   the test.
5. Draws come from ``RandomState``, whose streams NumPy has frozen; carebundle's follow from its version and
   the seed.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plasmid.recipes.made import csv_bytes, written

# ruff: noqa: INP001 - a script beside the data that it makes, no module of the package
Row = tuple[str, str, str]
COLUMNS = ("patient", "note", "condition")
PATIENTS = 600
"""Training patients of each site."""
TEST_PATIENTS = 80
"""Test patients of each site."""
NOTES = 3
PARTS = 3
SEED = 20260801

LABELS = {
    "diabetes": ("E11",),
    "kidney disease": ("N18",),
    "anemia": ("D50", "D63", "D64"),
    "hypertension": ("I10",),
}
"""What an ICD-10-CM code of each label begins with, the first label first."""
NO_LABEL = "none of these"

RESULTS: dict[str, tuple[str, str, float, float]] = {
    "2951-2": ("chemistry", "sodium", 135, 145),
    "2823-3": ("chemistry", "potassium", 3.5, 5.1),
    "2075-0": ("chemistry", "chloride", 98, 107),
    "2028-9": ("chemistry", "CO2", 22, 29),
    "17861-6": ("chemistry", "calcium", 8.6, 10.3),
    "1751-7": ("chemistry", "albumin", 3.5, 5.0),
    "3094-0": ("chemistry", "urea nitrogen", 7, 20),
    "2160-0": ("chemistry", "creatinine", 0.5, 1.3),
    "98979-8": ("chemistry", "eGFR", 60, 1000),
    "1742-6": ("chemistry", "ALT", 5, 45),
    "1920-8": ("chemistry", "AST", 5, 40),
    "6768-6": ("chemistry", "alkaline phosphatase", 40, 120),
    "1975-2": ("chemistry", "bilirubin", 0, 1.2),
    "718-7": ("blood count", "hemoglobin", 12.0, 17.0),
    "4544-3": ("blood count", "hematocrit", 36, 50),
    "789-8": ("blood count", "erythrocytes", 4.0, 5.8),
    "6690-2": ("blood count", "leukocytes", 4.0, 11.0),
    "777-3": ("blood count", "platelets", 150, 400),
    "2093-3": ("metabolism", "cholesterol", 0, 239),
    "2085-9": ("metabolism", "HDL", 40, 1000),
    "13457-7": ("metabolism", "LDL", 0, 159),
    "2571-8": ("metabolism", "triglycerides", 0, 199),
    "4548-4": ("metabolism", "HbA1c", 4.0, 6.4),
    "2345-7": ("metabolism", "glucose", 70, 125),
    "9318-7": ("urine", "albumin/creatinine", 0, 29),
    "8480-6": ("vital signs", "systolic", 90, 139),
    "8462-4": ("vital signs", "diastolic", 50, 89),
    "39156-5": ("vital signs", "BMI", 18.5, 29.9),
}
"""By LOINC code: part of the visit, short name, usual adult interval in carebundle's unit, ends included."""

ALWAYS = frozenset({"4548-4", "39156-5", "8480-6"})
"""Told within the interval, too."""

MEDICINES = "medicines"


@dataclass(frozen=True)
class Style:
    """How a site writes: its words for a result above and below the interval, and for a part without one.

    ``names`` replaces short names of :data:`RESULTS` and names of parts.
    """

    high: str
    low: str
    normal: str
    medicines: str
    no_medicines: str
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A site: the share of each carebundle profile among its patients, and its style."""

    name: str
    mix: Mapping[str, float]
    style: Style


_PROFILES = ("healthy", "hypertension", "type2_diabetes", "ckd_stage3", "anaemia")


def _mix(*shares: float) -> dict[str, float]:
    return dict(zip(_PROFILES, shares, strict=True))


SITES = (
    Site(
        "general-practice",
        _mix(0.42, 0.32, 0.14, 0.05, 0.07),
        Style(
            "high", "low", "normal", "Takes", "No medicines", {"systolic": "BP", "diastolic": "diastolic BP"}
        ),
    ),
    Site(
        "diabetes-clinic",
        _mix(0.08, 0.10, 0.68, 0.10, 0.04),
        Style("H", "L", "OK", "Rx", "no Rx", {"HbA1c": "A1c", "systolic": "SBP", "diastolic": "DBP"}),
    ),
    Site(
        "kidney-clinic",
        _mix(0.05, 0.10, 0.12, 0.60, 0.13),
        Style(
            "above",
            "below",
            "in range",
            "Medication:",
            "Medication: none",
            {"eGFR": "GFR", "albumin/creatinine": "ACR", "blood count": "CBC"},
        ),
    ),
    Site(
        "blood-clinic",
        _mix(0.14, 0.08, 0.08, 0.12, 0.58),
        Style(
            "elevated",
            "decreased",
            "unremarkable",
            "Treated with",
            "Untreated",
            {"hemoglobin": "Hb", "hematocrit": "Hct", "erythrocytes": "RBC", "leukocytes": "WBC"},
        ),
    ),
    Site(
        "heart-clinic",
        _mix(0.16, 0.62, 0.10, 0.08, 0.04),
        Style(
            "raised",
            "reduced",
            "fine",
            "On",
            "On nothing",
            {"systolic": "pressure", "diastolic": "over", "glucose": "blood sugar"},
        ),
    ),
)


def label(resources: Sequence[Mapping[str, Any]]) -> str:
    """Return the label that the coded Conditions among *resources* support."""
    codes = [
        coding["code"]
        for resource in resources
        if resource["resourceType"] == "Condition"
        for coding in resource["code"]["coding"]
    ]
    fitting = (name for name, starts in LABELS.items() if any(code.startswith(starts) for code in codes))
    return next(fitting, NO_LABEL)


def results(resources: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the value of each Observation and of each of its components by LOINC code, as it is written."""
    found: dict[str, str] = {}
    for resource in resources:
        if resource["resourceType"] == "Observation":
            for part in (resource, *resource.get("component", ())):
                if "valueQuantity" in part:
                    found[part["code"]["coding"][0]["code"]] = part["valueQuantity"]["value"]
    return found


def medicines(resources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ingredients of the MedicationRequests, without strength and form, each once."""
    names = (
        resource["medicationCodeableConcept"]["text"].split(" hydrochloride ")[0]
        for resource in resources
        if resource["resourceType"] == "MedicationRequest"
    )
    plain = (" ".join(word for word in _until_number(name.split())) for name in names)
    return list(dict.fromkeys(plain))


def _until_number(words: Sequence[str]) -> list[str]:
    stop = next((place for place, word in enumerate(words) if word[0].isdigit()), len(words))
    return list(words[:stop])


def parts(resources: Sequence[Mapping[str, Any]], style: Style) -> dict[str, str]:
    """Return what *style* writes about each part of the visit, by part; "" where there is nothing to tell."""
    values = results(resources)
    told: dict[str, list[str]] = {part: [] for part, *_ in RESULTS.values()}
    for code, (part, name, lowest, highest) in RESULTS.items():
        if code not in values:
            continue
        value = float(values[code])
        flag = style.low if value < lowest else style.high if value > highest else ""
        if flag or code in ALWAYS:
            told[part].append(" ".join(filter(None, (style.names.get(name, name), values[code], flag))))
    taken = medicines(resources)
    written = {part: ", ".join(found) for part, found in told.items()}
    written[MEDICINES] = f"{style.medicines} {', '.join(taken)}" if taken else style.no_medicines
    return written


def note(written: Mapping[str, str], chosen: Sequence[str], style: Style) -> str:
    """Return a note about the *chosen* parts: what is told of each, then which of them were normal."""
    sentences = [written[part] for part in chosen if written[part]]
    normal = [style.names.get(part, part) for part in chosen if not written[part]]
    if normal:
        sentences.append(f"{', '.join(normal)} {style.normal}")
    return ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def rows(bundle: Mapping[str, Any], style: Style, random: np.random.RandomState) -> list[Row]:
    """Return the :data:`NOTES` rows ``(patient, note, label)`` of one patient's *bundle*."""
    resources = [entry["resource"] for entry in bundle["entry"]]
    names = {entry["resource"]["resourceType"]: entry["fullUrl"] for entry in bundle["entry"]}
    patient = names["Patient"].removeprefix("urn:uuid:")[:8]
    written = parts(resources, style)
    choices = list(itertools.combinations(written, PARTS))
    drawn = [choices[place] for place in random.permutation(len(choices))[:NOTES]]
    return [(patient, note(written, chosen, style), label(resources)) for chosen in drawn]


def site_rows(number: int) -> tuple[list[Row], list[Row]]:
    """Return the training rows and the test rows of site *number* of :data:`SITES`."""
    from carebundle import generate_bundle, to_json

    site, seed = SITES[number], SEED + number
    random = np.random.RandomState(seed)
    bounds = np.cumsum(list(site.mix.values()))
    train: list[Row] = []
    test: list[Row] = []
    for index in range(PATIENTS + TEST_PATIENTS):
        profile = list(site.mix)[int(np.searchsorted(bounds, random.random_sample() * bounds[-1]))]
        bundle = generate_bundle(profile=profile, seed=seed, index=index, sex="FM"[index % 2])
        # Numbers stay as they are written: 4.0 does not become 4.
        found = rows(json.loads(to_json(bundle), parse_float=str, parse_int=str), site.style, random)
        (train if index < PATIENTS else test).extend(found)
    return train, test


def files() -> dict[str, bytes]:
    """Return every file of ``data/`` by name."""
    made: dict[str, bytes] = {}
    tests: list[Row] = []
    for number, site in enumerate(SITES):
        train, test = site_rows(number)
        made[f"{site.name}.csv"] = csv_bytes(COLUMNS, train)
        tests.extend(test)
    return {**made, "test.csv": csv_bytes(COLUMNS, tests)}


if __name__ == "__main__":
    sys.exit(written(__file__, __doc__, files))
