"""All resources of a connection become a settled store, or an error that lists every problem.

Rules
-----
1. A resource is validated, numbered, and made into rows; its number is what :meth:`Store.place` finds again.
2. A resource with a modifier extension or implicit rules makes no row, and is counted: FHIR forbids the use
   of what one doesn't understand of these.
3. After a problem reading goes on, so that all are told. Under a privacy unit they are notices: what is
   damaged or invalid is left out, and a resource of another server, or no Patient at all, refuses nothing.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from plasmid.core.errors import DataError
from plasmid.data.fhir.flattening import Flattener, medication_codes
from plasmid.data.fhir.names import Name, name_of, names
from plasmid.data.fhir.reading import Found
from plasmid.data.fhir.store import Store
from plasmid.data.fhir.tally import Tally
from plasmid.data.fhir.validating import Validator

TYPES = (
    "Patient", "Condition", "MedicationRequest", "MedicationAdministration", "MedicationStatement",
    "Medication", "Procedure", "Observation", "Encounter", "DocumentReference", "DiagnosticReport",
)  # fmt: skip
"""Resources that become rows, or that rows refer to."""

Clock = Callable[[], float]


class Deadline:
    """The moment after which reading stops.

    Parameters
    ----------
    limit_s
        From now.
    """

    def __init__(self, limit_s: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._end = clock() + limit_s

    def left_s(self) -> float:
        """Return the time left. Raises DataError (``data.source_timeout``) if it is up."""
        left = self._end - self._clock()
        if left > 0:
            return left
        raise DataError(
            "data.source_timeout",
            f"The resources could not be read within {self._limit_s:g} seconds.",
            "Raise limit_s of the view, or show fewer resources.",
        )


class Loader:
    """Feeds a store; see the rules above."""

    def __init__(
        self,
        store: Store,
        tally: Tally,
        accepted: Collection[str],
        base: str | None = None,
        *,
        leaves_out: bool = False,
    ) -> None:
        self._store = store
        self._tally = tally
        self._validate = Validator(accepted)
        self._flattener = Flattener()
        self._base = base
        self._leaves_out = leaves_out
        self._read = 0

    def load(self, resources: Iterable[Found], deadline: Deadline, what: str) -> None:
        """Read everything and settle the store.

        Raises
        ------
        DataError
            ``data.source_timeout``; every problem found in *what*: ``data.fhir_damaged``,
            ``data.fhir_bundle``, ``data.fhir_invalid``, ``data.fhir_profile``, ``data.fhir_identity``,
            ``data.fhir_empty``.
        """
        with _rare_collection():
            for found in resources:
                deadline.left_s()
                self._one(found)
                self._read += 1
        if self._tally.persons == 0 and not self._tally.refuses:
            self._tally.add(
                "data.fhir_empty", "no Patient among the resources, whose number is", count=self._read
            )
        if not self._leaves_out:
            self._tally.raise_if_errors(what)
        self._store.settle(self._base, self._tally)

    def _one(self, found: Found) -> None:
        resource, number = found.resource, self._read

        def tell(code: str, what: str) -> None:
            self._tally.add(code, what, found.place)

        if found.deleted is not None:
            gone = name_of(found.deleted)
            self._version(number, gone.local.partition("/")[0], [gone], found, {})
            tell("notice.fhir_versions", "entries that delete a resource")
            return
        if not self._validate(resource, tell):
            return
        kind = resource["resourceType"]
        if kind not in TYPES:
            tell("notice.fhir_skipped", f"{kind}, which has no rows, left out")
            return
        known = names(kind, resource.get("id"), found.url)
        self._version(number, kind, known, found, resource.get("meta") or {})
        if found.modified:
            tell("notice.fhir_skipped", f"{kind} with a modifier extension or implicit rules, left out")
        elif kind == "Patient":
            self._patient(number, known, resource, tell)
        elif kind == "Medication":
            self._store.add_medication(number, known, medication_codes(resource))
        else:
            self._store.add_rows(number, self._flattener.events(kind, resource, tell))

    def _version(self, number: int, kind: str, known: list[Name], found: Found, meta: dict[str, Any]) -> None:
        # A bundle and an export of one record call it urn:uuid:x and Type/x.
        identity = (
            f"{kind}/{known[0].local.removeprefix(f'{kind}/').removeprefix('urn:uuid:')}" if known else None
        )
        base = known[0].base if known else None
        if base is not None and base != self._base:
            if self._base is not None:
                self._tally.add("data.fhir_identity", "resources of another server", found.place)
            if not self._leaves_out:  # the first resource would decide about all others
                self._base = self._base or base
        updated, version = _instant(meta.get("lastUpdated") or found.changed), meta.get("versionId") or ""
        self._store.add_version(
            number, identity, updated, int(version) if _whole(version) else 0, found.place
        )

    def _patient(
        self, number: int, known: list[Name], resource: dict[str, Any], tell: Callable[[str, str], None]
    ) -> None:
        if not known:
            tell("data.fhir_invalid", "Patient with neither id nor fullUrl")
            return
        self._tally.persons += 1
        links = []
        for link in resource.get("link") or ():
            other = name_of((link.get("other") or {}).get("reference") or "").local
            if link.get("type") == "replaced-by":
                links.append((known[0].local, other))
            elif link.get("type") == "replaces":
                links.append((other, known[0].local))
        self._store.add_patient(number, known, self._flattener.person(resource, tell), links)


@contextlib.contextmanager
def _rare_collection() -> Iterator[None]:
    """Look for cycles less often: validation makes many containers that die at once, and no cycles."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _instant(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None) if text else None
    except (TypeError, ValueError, OverflowError):
        return None
