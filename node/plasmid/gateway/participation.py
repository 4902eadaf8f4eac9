"""Lineage: whose rows each run was computed from, for an owner who is asked to erase.

Rules
-----
1. Of every run that was admitted the site keeps who was in its view: 8-byte keyed hashes under the site's own
   secret (:meth:`plasmid.gateway.home.SiteHome.data_key`), never an identifier, never a row.
2. It is written before the run begins. What cannot be written does not begin.
3. It is kept as long as ``retention_days`` in site.yaml says, or until the run is purged; both are logged.
   The audit log, the ledger and the marks that keep a run from being admitted twice are never purged.
4. People who were shown as one population are not shown as another: that would give them a second budget.
5. Two people may share a hash: of a million people, with a chance of 3e-8. A list may so name a run too many,
   never one too few.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from plasmid.core.clock import Stamp, parse
from plasmid.core.errors import DataError, StorageError, UsageError
from plasmid.core.files import storage_error, write_atomic
from plasmid.data.people import person_key

_SUFFIX = ".lineage"
_MOST_HEADER = 64 * 1024
MOST_SHARED = 11
"""From so many shared people on, two populations are one; fewer are chance or exception."""


class Derived(BaseModel):
    """One run, and what its rows were.

    Attributes
    ----------
    document, digest
        Name and digest of what was run.
    view, population, snapshot
        Digest of the view, whose data they are, and digest of the rows themselves.
    by_patient
        Whether people are patients; else every row counts as somebody's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: str
    document: str
    digest: str
    project: str
    requester: str
    view: str
    population: str
    snapshot: str
    by_patient: bool
    admitted: Stamp


@dataclass(frozen=True)
class Lineage:
    """The records in one folder."""

    folder: Path

    def record(self, derived: Derived, people: bytes) -> None:
        """Keep that *derived* is from *people* (uint64 in native order, ascending).

        Raises
        ------
        StorageError
            ``storage.full``, ``storage.unwritable``.
        """
        header = derived.model_dump_json().encode()
        write_atomic(self._path(derived.run), header + b"\n" + people, mode=0o600)

    def all(self) -> Iterator[Derived]:
        """Yield every record, the oldest first. Raises StorageError (``storage.lineage_damaged``)."""
        found = [_read(path, people=False)[0] for path in self.folder.glob(f"*{_SUFFIX}")]
        yield from sorted(found, key=lambda one: (one.admitted, one.run))

    def of(self, person: str, key: bytes) -> list[Derived]:
        """Return the runs whose rows *person* was among, by the identifier that the patient column has."""
        wanted = person_key(person.strip().encode(), key)
        found = []
        for derived in self.all():
            people = np.frombuffer(_read(self._path(derived.run))[1], np.uint64)
            place = int(np.searchsorted(people, np.uint64(wanted)))
            if derived.by_patient and place < len(people) and int(people[place]) == wanted:
                found.append(derived)
        return found

    def check_population(self, population: str, people: bytes) -> None:
        """Refuse *people* of whom many were shown as another population: one person has one budget.

        Compared with the newest run of every view, by patients' identifiers, whatever connector brought them.

        Raises
        ------
        DataError
            ``data.population_overlap``: :data:`MOST_SHARED` people or more.
        """
        own = np.frombuffer(people, np.uint64)
        newest = {(one.population, one.view): one for one in self.all() if one.by_patient}
        for (other, _), derived in newest.items():
            if other == population:
                continue
            shown = np.frombuffer(_read(self._path(derived.run))[1], np.uint64)
            shared = len(np.intersect1d(own, shown, assume_unique=True))
            if shared >= MOST_SHARED:
                raise DataError(
                    "data.population_overlap",
                    f"{shared:,} people of this view, which is said to show the population {population!r}, "
                    f"were in a view of {other!r} (run {derived.run}).",
                    "Give both views one population, so that what is spent on a person is added up.",
                )

    def knows(self, run: str) -> bool:
        """Return whether there is a record of *run*. Raises UsageError (``usage.run``)."""
        return self._path(run).exists()

    def purge(self, run: str) -> bool:
        """Forget who was in *run*; return whether anything was known of it."""
        path = self._path(run)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, path) from error
        return True

    def expired(self, days: int, now: datetime) -> list[str]:
        """Return the runs that were admitted more than *days* ago."""
        limit = now - timedelta(days=days)
        return [one.run for one in self.all() if parse(one.admitted) < limit]

    def _path(self, run: str) -> Path:
        if not run.replace("-", "").isalnum():
            raise UsageError("usage.run", f"{run!r} is no run's id.", "'plasmid audit ls' names the runs.")
        return self.folder / f"{run}{_SUFFIX}"


def _read(path: Path, *, people: bool = True) -> tuple[Derived, bytes]:
    """Return a record; without *people* only its header, for there may be millions."""
    try:
        with path.open("rb") as file:
            header = file.readline(_MOST_HEADER)
            if not header.endswith(b"\n") or (path.stat().st_size - len(header)) % 8:
                raise ValueError
            return Derived.model_validate(json.loads(header)), file.read() if people else b""
    except (OSError, ValueError, ValidationError):
        pass
    raise StorageError(
        "storage.lineage_damaged", f"{path} is no record of a run's people.", "Restore it from your backup."
    )
