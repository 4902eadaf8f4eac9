"""Which resources tell of something that did not happen, by the elements that R4 marks as modifiers.

Rules
-----
1. A status outside R4's required value set is a problem: what it means is unknown.
2. ``entered-in-error``, a refuted diagnosis, and what was only planned, proposed, cancelled or not done make
   no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plasmid.data.fhir.tally import Tell

ERROR = "entered-in-error"

_HAPPENED: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "Encounter": "arrived triaged in-progress onleave finished unknown",
        "Observation": "preliminary final amended corrected unknown",
        "Procedure": "in-progress on-hold stopped completed unknown",
        "MedicationRequest": "active on-hold completed stopped unknown",
        "MedicationAdministration": "in-progress on-hold completed stopped unknown",
        "MedicationStatement": "active completed stopped on-hold unknown",
        "DocumentReference": "current",
        "DiagnosticReport": "partial preliminary final amended corrected appended unknown",
        "Medication": "active inactive",
    }.items()
}
_NOT: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "Encounter": "planned cancelled",
        "Observation": "registered cancelled",
        "Procedure": "preparation not-done",
        "MedicationRequest": "cancelled draft",
        "MedicationAdministration": "not-done",
        "MedicationStatement": "intended not-taken",
        "DocumentReference": "superseded",
        "DiagnosticReport": "registered cancelled",
        "Medication": "",
    }.items()
}
_ORDERS = frozenset({"order", "original-order", "reflex-order", "filler-order", "instance-order"})
_PLANS = frozenset({"proposal", "plan", "option"})


def happened(kind: str, resource: Mapping[str, Any], tell: Tell) -> bool:
    """Return whether *resource* tells of something that is or was so; tell why not."""
    status = resource.get("status")
    if (
        kind in _HAPPENED
        and status is not None
        and not _known(kind, "status", status, _HAPPENED[kind], _NOT[kind], tell)
    ):
        return False
    if kind == "MedicationRequest":
        if resource.get("doNotPerform") not in (None, False):
            tell("notice.fhir_skipped", f"{kind} with doNotPerform, left out")
            return False
        return _known(kind, "intent", resource.get("intent"), _ORDERS, _PLANS, tell)
    if kind == "Condition":
        given = (resource.get("verificationStatus") or {}).get("coding") or ()
        for word in ("refuted", ERROR):
            if any(coding and coding.get("code") == word for coding in given):
                tell("notice.fhir_skipped", f"{kind} with verificationStatus {word}, left out")
                return False
    return True


def _known(kind: str, element: str, word: Any, yes: frozenset[str], no: frozenset[str], tell: Tell) -> bool:
    if word in yes:
        return True
    if word in no or word == ERROR:
        tell("notice.fhir_skipped", f"{kind} with {element} {word}, left out")
    else:
        tell("data.fhir_invalid", f"{kind}.{element}: not one of R4's codes")
    return False
