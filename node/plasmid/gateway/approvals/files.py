"""The folder ``approvals`` of a site.

    approvals/<recipe digest>/<subject digest>.case.json       what is to be approved
                              <run>.waiting.json               a run that waits for it
                              <approval digest>.approval.json  a signed approval
                              <approval digest>.revoked.json   a signed revocation

Rules
-----
1. Names are made of digests and run ids whose form was checked, never of what a document says.
2. Each file is written whole or not at all, so several processes may read and write.
3. What cannot be read counts for nothing; a file that says *revoked* counts whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from plasmid.core.canonical import canonical_json
from plasmid.core.clock import Stamp
from plasmid.core.errors import ProtocolError
from plasmid.core.files import sync_folder, write_atomic
from plasmid.protocol.approval import Subject
from plasmid.protocol.envelope import Envelope, parse_envelope
from plasmid.protocol.project import Project
from plasmid.secagg.statements import RunId, SiteName

_DIGEST = re.compile(r"[0-9a-f]{64}")
_STEM = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
Part = TypeVar("Part", bound=BaseModel)


class Case(BaseModel):
    """What is to be approved: a subject, with the document and the signed project that it stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    subject: Subject
    document: dict[str, Any]
    project: Envelope

    def opened_project(self) -> Project:
        """Return the project."""
        return self.project.open(Project)


class Waiting(BaseModel):
    """One run that waits, and until when."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: RunId
    subject: Subject
    requester: SiteName
    organisation: str
    since: Stamp
    expires: Stamp


class ApprovalFiles:
    """See the module's rules. A folder need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recipes(self) -> list[str]:
        """Return the digests of the recipes that something is known of."""
        return sorted(path.name for path in self._folder.glob("*") if _DIGEST.fullmatch(path.name))

    def cases(self) -> list[Case]:
        """Return everything that was ever to be approved."""
        found = [self._read(path, Case) for path in sorted(self._folder.glob("*/*.case.json"))]
        return [case for case in found if case is not None]

    def case(self, subject: Subject) -> Case | None:
        """Return the case of *subject*."""
        return self._read(self._path(subject.recipe, subject.digest(), "case"), Case)

    def all_waiting(self) -> list[Waiting]:
        """Return the runs that wait, oldest first."""
        found = [self._read(path, Waiting) for path in self._folder.glob("*/*.waiting.json")]
        return sorted((one for one in found if one is not None), key=lambda one: (one.since, one.run))

    def waiting(self, run: str, recipe: str) -> Waiting | None:
        """Return since when and until when *run* waits."""
        return self._read(self._path(recipe, run, "waiting"), Waiting)

    def keep_case(self, case: Case) -> None:
        """Keep what is to be approved."""
        path = self._path(case.subject.recipe, case.subject.digest(), "case")
        write_atomic(path, canonical_json(case.model_dump(mode="json")), mode=0o600)

    def keep_waiting(self, waiting: Waiting) -> None:
        """Keep that a run waits."""
        path = self._path(waiting.subject.recipe, waiting.run, "waiting")
        write_atomic(path, canonical_json(waiting.model_dump(mode="json")), mode=0o600)

    def end(self, run: str, recipe: str) -> None:
        """Forget that *run* waits."""
        path = self._path(recipe, run, "waiting")
        if path.exists():
            path.unlink(missing_ok=True)
            sync_folder(path.parent)

    def end_run(self, run: str) -> None:
        """Forget that *run* waits, whatever for."""
        for recipe in self.recipes():
            self.end(run, recipe)

    def approvals(self, recipe: str) -> Iterator[tuple[str, Envelope]]:
        """Yield the approvals of *recipe* with the digest that each file is named by."""
        for path in sorted((self._folder / recipe).glob("*.approval.json")):
            try:
                yield path.name.partition(".")[0], parse_envelope(path.read_bytes())
            except (ProtocolError, OSError):
                continue

    def revoked(self, recipe: str) -> frozenset[str]:
        """Return the digests of the revoked approvals of *recipe*."""
        paths = (self._folder / recipe).glob("*.revoked.json")
        return frozenset(path.name.partition(".")[0] for path in paths)

    def keep_approval(self, recipe: str, digest: str, envelope: Envelope) -> None:
        """Keep a signed approval."""
        write_atomic(self._path(recipe, digest, "approval"), envelope.wire(), mode=0o600)

    def keep_revocation(self, recipe: str, digest: str, envelope: Envelope) -> None:
        """Keep a signed revocation of the approval *digest*."""
        write_atomic(self._path(recipe, digest, "revoked"), envelope.wire(), mode=0o600)

    def version(self, recipe: str) -> frozenset[str]:
        """Return what changes whenever an approval or a revocation of *recipe* comes or goes: their names."""
        if not _DIGEST.fullmatch(recipe):
            return frozenset()
        kinds = ("approval", "revoked")
        return frozenset(
            path.name for kind in kinds for path in (self._folder / recipe).glob(f"*.{kind}.json")
        )

    def _path(self, recipe: str, stem: str, kind: str) -> Path:
        if not (_DIGEST.fullmatch(recipe) and _STEM.fullmatch(stem)):
            raise ProtocolError("protocol.malformed", "a digest or a run's id does not have its form.")
        return self._folder / recipe / f"{stem}.{kind}.json"

    @staticmethod
    def _read(path: Path, kind: type[Part]) -> Part | None:
        try:
            return kind.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
