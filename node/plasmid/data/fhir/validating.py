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
5. Models are slow to make, and codes, references and days recur. So a resource with the same elements as a
   valid one before it is taken element by element: each is letter for letter what a valid one had there, or
   the model's own validator of that element passes it. Whatever does not pass so is validated as a whole,
   and only that is told.
6. Rule 5 holds while nothing but their presence links elements (:data:`_LINKS`). Null, and what stands
   beside a primitive (``_status``), break that, and so would validators of a model's own: such resources are
   always validated as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from plasmid.data.fhir.tally import Tell

REWRITTEN = frozenset({"Evidence", "EvidenceVariable"})
BASE = "http://hl7.org/fhir/StructureDefinition/"
_LINKS = {"reject_null_complex_elements", "validate_after_model_construction"}
"""What links the elements of a model: nulls in lists; required elements and choices."""
MAX_KNOWN = 20_000
"""Elements that are remembered, and sets of elements; then memory starts afresh."""
MAX_KNOWN_CHARACTERS = 512
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


class Model:
    """The model of one type of resource.

    Attributes
    ----------
    check
        Takes a resource and returns its model, or raises.
    parts
        Whether elements can be validated one by one.
    """

    def __init__(self, model: Any) -> None:
        self.check: Callable[[Any], object] = model.model_validate
        own = model.__pydantic_decorators__
        self.parts = set(own.model_validators) == _LINKS and not (own.field_validators or own.root_validators)
        self._fields = {field.alias or name: field for name, field in model.model_fields.items()}
        self._validators: dict[str, Callable[[Any], object]] = {}

    def plain(self, resource: Mapping[str, Any]) -> bool:
        """Return whether a valid *resource* is one of those that can be validated so; see rule 6."""
        return self.parts and all(
            element == "resourceType" or (element in self._fields and element[0] != "_" and value is not None)
            for element, value in resource.items()
        )

    def validator(self, element: str) -> Callable[[Any], object]:
        """Return what takes a value of *element* and raises if it is invalid."""
        found = self._validators.get(element)
        if found is None:
            field = self._fields[element]
            kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            found = self._validators[element] = TypeAdapter(kind).validate_python
        return found


@lru_cache(maxsize=512)
def model_of(kind: str) -> Model | None:
    """Return the model of resources of type *kind*, or None where R4B has no such type."""
    from fhir.resources.R4B import get_fhir_model_class
    from fhir.resources.R4B.resource import Resource

    if not kind.isascii() or not kind.isalpha():
        return None
    try:
        model = get_fhir_model_class(kind)
    except (KeyError, ValueError, ImportError):
        return None
    return Model(model) if issubclass(model, Resource) else None


class Validator:
    """Validates resources; see the rules above.

    Parameters
    ----------
    accepted
        Canonical URLs of profiles that may be ignored.
    """

    def __init__(self, accepted: Collection[str]) -> None:
        self._accepted = frozenset(accepted)
        self._known: set[str] = set()
        self._shapes: set[tuple[str, ...]] = set()

    def __call__(self, resource: Mapping[str, Any], tell: Tell) -> bool:
        """Tell what is wrong with *resource*, and return whether rows may be made of it."""
        kind = resource.get("resourceType")
        if not isinstance(kind, str):
            tell("data.fhir_invalid", "a resource without resourceType")
            return False
        model = model_of(kind)
        if model is None or kind in REWRITTEN:
            tell("notice.fhir_skipped", "resources of a type that R4B does not have, left out")
            return False
        shape, found = (kind, *resource), set[str]()
        if shape not in self._shapes or not self._passes(kind, resource, model):
            found = _invalid(kind, resource, model.check)
            if not found and model.plain(resource):
                if len(self._shapes) == MAX_KNOWN:
                    self._shapes.clear()
                self._shapes.add(shape)
        for what in found:
            tell("data.fhir_invalid", what)
        return not found and _profiles(kind, resource, self._accepted, tell)

    def _passes(self, kind: str, resource: Mapping[str, Any], model: Model) -> bool:
        """Return whether every element of *resource*, whose shape is known, is valid by itself."""
        known = self._known
        try:
            for element, value in resource.items():
                if element == "resourceType":
                    continue
                if value is None or (isinstance(value, list) and None in value):
                    return False
                mark = f"{kind} {element} {value!r}"
                if mark not in known:
                    model.validator(element)(value)
                    if len(mark) <= MAX_KNOWN_CHARACTERS and element != "id":
                        if len(known) == MAX_KNOWN:
                            known.clear()
                        known.add(mark)
        except Exception:  # noqa: BLE001 - whatever it is, what the whole model says of it is told
            return False
        return True


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
