"""What a site remembers of a run on disk, so that no restart or restored folder lets it answer twice.

Rules
-----
1. Epoch numbers only rise; the last one is on disk before its advert leaves.
2. What the first epoch planned holds for the whole run: another plan is refused.
3. A survivor list is signed for rising rounds only; the mark is on disk before the signature leaves.
   Without a privacy unit a round with a signed list is never attempted again, in any epoch: two sums over
   different survivors would give their difference away. Under a unit every attempt is charged instead.
4. A folder that was restored has lost its newest marks. Each site keeps the newest consent of the others, as
   they signed it, and reminds them at the next epoch; a site takes on what it has signed itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from plasmid.core.errors import ProtocolError
from plasmid.core.files import write_atomic
from plasmid.protocol.messages import Planned

_RUN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Mark:
    """The contents of one run's file.

    Attributes
    ----------
    digest
        Of the admitted document.
    epoch
        The last one that this site took part in, 0 if none.
    planned
        What the first epoch fixed, as JSON values.
    consented_round, consented_manifest
        The last round whose survivor list was signed, and the digest of its manifest.
    heard
        The newest signed consent of each other site, in its wire form.
    """

    digest: str
    epoch: int = 0
    planned: dict[str, float] | None = None
    consented_round: int = 0
    consented_manifest: str = ""
    heard: dict[str, str] = field(default_factory=dict)


class Marks:
    """The marks of all runs, one file each. A run has one thread, so its file has one writer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, run: str) -> Mark | None:
        """Return the mark of *run*, None if this site never took part in it."""
        path = self._path(run)
        return Mark(**json.loads(path.read_bytes())) if path.exists() else None

    def claim_epoch(self, run: str, epoch: int, *, digest: str, planned: Planned) -> None:
        """Record that this site takes part in *epoch* of *run*, before anything about it leaves.

        Raises
        ------
        ProtocolError
            ``protocol.epoch_used``: not higher than the last one, or of another document or plan.
        """
        known = self.read(run) or Mark(digest=digest)
        plan = planned.model_dump(mode="json")
        if known.digest != digest or known.planned not in (None, plan):
            raise ProtocolError(
                "protocol.epoch_used", f"{run} began with another document or plan.", "Start a new run."
            )
        if epoch <= known.epoch:
            raise ProtocolError(
                "protocol.epoch_used", f"epoch {epoch} of {run} was used before.", "Start a new run."
            )
        self._write(run, replace(known, epoch=epoch, planned=plan))

    def consent(self, run: str, round_: int, manifest: str, *, again: bool) -> None:
        """Record that this site is about to sign the survivor list of *round_* under *manifest*.

        Raises
        ------
        ProtocolError
            ``protocol.consented``: as :meth:`check_round`.
        """
        self.check_round(run, round_, manifest, again=again)
        known = self.read(run)
        assert known is not None, "an epoch was claimed before"
        self._write(run, replace(known, consented_round=round_, consented_manifest=manifest))

    def hear(self, run: str, consents: Mapping[str, str]) -> None:
        """Keep other sites' signed *consents* in *run*, by site; then durable."""
        known = self.read(run)
        assert known is not None, "an epoch was claimed before"
        self._write(run, replace(known, heard={**known.heard, **consents}))

    def take_on(self, run: str, round_: int, manifest: str) -> bool:
        """Record a consent that this site has signed; return whether it had lost it."""
        known = self.read(run)
        assert known is not None, "an epoch was claimed before"
        lost = round_ > known.consented_round
        if lost:
            self._write(run, replace(known, consented_round=round_, consented_manifest=manifest))
        return lost

    def check_round(self, run: str, round_: int, manifest: str, *, again: bool) -> None:
        """Refuse an attempt at a round that is over.

        Parameters
        ----------
        again
            Whether the last round may be attempted again: under a privacy unit, where that is charged.

        Raises
        ------
        ProtocolError
            ``protocol.consented``: a survivor list of this round, or of a later one, was signed.
        """
        known = self.read(run)
        if known is None or round_ > known.consented_round:
            return
        if round_ == known.consented_round and (again or manifest == known.consented_manifest):
            return
        raise ProtocolError(
            "protocol.consented",
            f"round {round_} of {run} was summed, or begun to be; round {known.consented_round} is the last.",
            "A round has one sum. Start a new run.",
        )

    def _path(self, run: str) -> Path:
        if not _RUN.fullmatch(run):
            raise ProtocolError("protocol.malformed", "a run's id does not have its form.")
        return self._folder / f"{run}.json"

    def _write(self, run: str, mark: Mark) -> None:
        write_atomic(self._path(run), json.dumps(asdict(mark)).encode())
