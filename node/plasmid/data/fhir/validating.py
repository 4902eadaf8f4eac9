"""One resource against the models of fhir.resources.

Rules
-----
1. R4 is 4.0.1, the models are those of R4B (4.3.0), the nearest that fhir.resources ships: R4B changed no
   element of the resources that become rows here (Patient, Condition, Medication*, Procedure, Observation,
   Encounter, DocumentReference, DiagnosticReport). It dropped or renamed some that do not (MedicinalProduct*
   became MedicinalProductDefinition and others; SubstanceSpecification became SubstanceDefinition;
   EffectEvidenceSynthesis and RiskEvidenceSynthesis went; Evidence and EvidenceVariable were rewritten):
   those R4 resources are of an unknown type here, or left out unvalidated (:data:`REWRITTEN`).
2. A problem is told by type, path and kind. Parts of a path that come from the data (an unknown element's
   name) are replaced by ``?``, list positions are left out.
3. A ``meta.profile`` that is neither the base specification's nor accepted by the owner is a problem: a
   profile may change what elements mean. So that he can list it, its URL is told if it has the form of one.
4. What the models let pass and rows depend on (numbers as strings, unknown statuses, impossible days) is
   checked where rows are made (:mod:`plasmid.data.fhir.flattening`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from plasmid.data.fhir.tally import Tell

REWRITTEN = frozenset({"Evidence", "EvidenceVariable"})
BASE = "http://hl7.org/fhir/StructureDefinition/"
_CANONICAL = re.compile(
    r"https?://[A-Za-z0-9.-]{1,80}(/[A-Za-z0-9._-]{1,60}){0,6}/StructureDefinition/[A-Za-z0-9._-]{1,64}"
)
_ELEMENT = re.compile(r"_?[a-z][A-Za-z0-9]{0,60}")
_KINDS = {
    "model_field_validation.missing": "missing",
    "missing": "missing",
    "extra_forbidden": "an element that FHIR does not have",
    "list_type": "not a list",
}


@lru_cache(maxsize=512)
def validator(kind: str) -> Callable[[Any], object] | None:
    """Return what validates resources of type *kind*, or None where R4B has no such type."""
    from fhir.resources.R4B import get_fhir_model_class
    from fhir.resources.R4B.resource import Resource

    if not kind.isascii() or not kind.isalpha():
        return None
    try:
        model = get_fhir_model_class(kind)
    except (KeyError, ValueError, ImportError):
        return None
    return model.model_validate if issubclass(model, Resource) else None


def validate(resource: Mapping[str, Any], accepted: Collection[str], tell: Tell) -> bool:
    """Tell what is wrong with *resource*, and return whether rows may be made of it.

    Parameters
    ----------
    accepted
        Canonical URLs of profiles that may be ignored.
    """
    kind = resource.get("resourceType")
    if not isinstance(kind, str):
        tell("data.fhir_invalid", "a resource without resourceType")
        return False
    check = validator(kind)
    if check is None or kind in REWRITTEN:
        tell("notice.fhir_skipped", "resources of a type that R4B does not have, left out")
        return False
    found = _invalid(kind, resource, check)
    for what in found:
        tell("data.fhir_invalid", what)
    return not found and _profiles(kind, resource, accepted, tell)


def _invalid(kind: str, resource: Mapping[str, Any], check: Callable[[Any], object]) -> set[str]:
    try:
        check(resource)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return {_sentence(kind, one["loc"], one["type"]) for one in problems}
    except RecursionError:
        return {f"{kind}: nested too deeply"}
    except Exception:  # noqa: BLE001 - the models raise KeyError and others on damage; their text may hold cells
        return {f"{kind}: not readable as this type, or an unknown contained resource"}
    return set()


def _sentence(kind: str, location: tuple[int | str, ...], problem: str) -> str:
    path = [part for part in location if isinstance(part, str)]
    if problem == "extra_forbidden":
        path[-1:] = ["?"]
    written = ".".join([kind, *(part if _ELEMENT.fullmatch(part) else "?" for part in path)])
    return f"{written}: {_KINDS.get(problem, f'invalid ({problem})')}"


def _profiles(kind: str, resource: Mapping[str, Any], accepted: Collection[str], tell: Tell) -> bool:
    meta = resource.get("meta")
    fine = True
    for profile in (meta.get("profile") or ()) if meta else ():
        url = profile.partition("|")[0] if isinstance(profile, str) else ""
        if url in accepted or url.startswith(BASE):
            continue
        fine = False
        told = url if _CANONICAL.fullmatch(url) else "a profile (its URL is not of the usual form)"
        tell("data.fhir_profile", f"{kind} under {told}")
    return fine
