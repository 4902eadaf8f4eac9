"""One run at a coordinator: watch it, stop it, take what came of it.

The adapter is assembled here, from the final state that the coordinator publishes and from what coordinator
and sites have signed about it: whole or not at all. Whoever assembles it signs the list of all its files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasmid.adapters.calibration import CALIBRATION, calibration_file
from plasmid.bases.store import ensure_model
from plasmid.client.provenance import project_line, sums_provenance
from plasmid.client.results import write_result
from plasmid.computations import api as computations
from plasmid.core.errors import ModelError, ProjectRefused, RunFailed, from_dict
from plasmid.core.files import home
from plasmid.dp.claims import statement
from plasmid.experiments.table import Table
from plasmid.prediction.evaluation import write_release
from plasmid.protocol.body import unpack
from plasmid.protocol.envelope import Envelope, parse_envelope
from plasmid.protocol.identity import fingerprint
from plasmid.protocol.messages import StopRequest
from plasmid.recipes.beside import shape_of
from plasmid.recipes.documents import parse_document
from plasmid.release.attestation import BUNDLE, ROUNDS, Attestation, Release, digests, pack_bundle
from plasmid.release.folder import PROJECT, Trust, Verified, verify_release
from plasmid.release.provenance import Attested, attested
from plasmid.release.result import privacy_facts
from plasmid.uplink.link import answered_json, answered_part
from plasmid.uplink.projects import fetch_project

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from plasmid.client.api import Coordinator

POLL_S = 0.25
Watch = Callable[[Mapping[str, Any]], None]


class Run:
    """One run at a coordinator.

    Attributes
    ----------
    id
        Its id.
    table
        The honest table, as far as it has been measured.
    adapter, verified
        The adapter's folder, once :meth:`save_adapter` has written it, and what was verified of it, by the
        coordinator's pinned key and the keys of the project.
    evaluations
        What :mod:`plasmid.client.evaluation` kept of the evaluations of its adapter.
    rehearsal
        Whether one owner held all sites' data and keys (an embedded run); card and provenance say so.
    """

    def __init__(self, coordinator: Coordinator, run: str, document: dict[str, Any]) -> None:
        self.coordinator = coordinator
        self.id = run
        self.document = document
        self.adapter: Path | None = None
        self.verified: Verified | None = None
        self.rehearsal = coordinator.rehearsal
        self.table = Table(metric=document.get("task", {}).get("metric", ""))
        self.evaluations: list[dict[str, Any]] = []
        self._final: dict[str, Any] | None = None
        self._fetched: tuple[bytes, bytes, Envelope] | None = None
        self._sums: NDArray[Any] | None = None

    def show(self) -> dict[str, Any]:
        """Return all that the coordinator knows of the run."""
        shown: dict[str, Any] = answered_json(self.coordinator.link.request("GET", f"/v1/runs/{self.id}"))
        return shown

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        """Return the log lines numbered above *after*."""
        answer = self.coordinator.link.request("GET", f"/v1/runs/{self.id}/log", params={"after": after})
        lines: list[dict[str, Any]] = answered_part(answer, "lines")
        return lines

    def stop(self) -> None:
        """Stop the run: sites end training at their next step."""
        content = self.coordinator.sign(StopRequest(run=self.id))
        self.coordinator.link.request("POST", f"/v1/runs/{self.id}/stop", content=content)

    def wait(self, watch: Watch = lambda _: None) -> Run:
        """Wait for the end, calling *watch* with :meth:`show` as it changes, and return this run.

        Raises
        ------
        RunFailed
            The run ended otherwise than SUCCEEDED; code and message are the run's own.
        """
        while True:
            shown = self.show()
            watch(shown)
            if shown["state"] == "SUCCEEDED":
                self._final = shown
                return self
            if shown["state"] in ("FAILED", "STOPPED", "INTERRUPTED"):
                if shown["error"]:
                    raise from_dict(shown["error"])
                raise RunFailed(
                    "run.interrupted", f"the run {self.id} is {shown['state']}.", "Start it again."
                )
            time.sleep(POLL_S)

    def result(self) -> dict[str, Any]:
        """Return the result of a run that SUCCEEDED: participants, state digest, a query's answer.

        Raises
        ------
        RunFailed
            ``run.no_result``.
        ProjectRefused
            ``project.receive``: it goes to others.
        """
        return dict(self._finished()["result"])

    @property
    def withheld(self) -> bool:
        """Whether the result of a run that SUCCEEDED goes to others."""
        return bool(self._final and self._final["withheld"])

    def privacy(self) -> list[str]:
        """Return what a run that SUCCEEDED promises to whom: sentences."""
        return statement(privacy_facts(self.result(), self.document, rehearsal=self.rehearsal))

    def _finished(self) -> dict[str, Any]:
        if self._final is None:
            shown = self.show()
            if shown["state"] != "SUCCEEDED":
                raise RunFailed(
                    "run.no_result", f"the run {self.id} is {shown['state']}.", "It has no result."
                )
            self._final = shown
        if self._final["withheld"]:
            raise ProjectRefused(
                "project.receive",
                f"the run {self.id} SUCCEEDED; its result goes to those who may receive it in the project "
                f"{self._final['project']['name']}, and you are not among them.",
                "They get it with 'plasmid runs fetch'.",
            )
        return self._final

    def save_adapter(self, folder: Path | None = None) -> Path:
        """Fetch the final state and write the adapter to *folder* (default ``PLASMID_HOME/adapters/<run>``).

        Called again after :attr:`table` has been filled in, it writes the results into card and provenance;
        that needs the coordinator no more.

        Raises
        ------
        RunFailed, ProjectRefused
            As :meth:`result`; ``run.not_signed``.
        ModelError
            ``model.release_*``: what was signed about it does not hold.
        StorageError
            The folder cannot be written; nothing half-written stays.
        """
        folder = folder or home() / "adapters" / self.id
        shown = self._finished()
        recipe: Any = parse_document(self.document)
        base = ensure_model(recipe.model.base, revision=recipe.model.revision, digest=recipe.model.digest)
        shape = shape_of(computations.load(recipe.computation), recipe, base)
        body, history, project = self._fetch(shown)
        signed = shown["result"]["signed"]
        result = parse_envelope(signed["result"])
        words = {site: parse_envelope(word) for site, word in signed["countersignatures"].items()}
        made = attested(project, result, words, history)

        def seal(files: Mapping[str, bytes]) -> dict[str, bytes]:
            beside = {ROUNDS: history, PROJECT: project.wire(), **self._calibration()}
            return beside | self._seal(made, result, words, {**files, **beside})

        write_release(
            folder,
            recipe,
            base,
            unpack(body, "state", length=shape.state.size, dtype=shape.dtype),
            results=dict(self.table.rows()),
            privacy=made.privacy_lines(),
            project=project_line(shown["project"], shown["requester"]),
            attested=made.signature_lines(),
            provenance=made.provenance(self.table.as_json(), self.evaluations),
            seal=seal,
        )
        self.verified = verify_release(
            folder, Trust(coordinator=self.coordinator.credential.coordinator()[1])
        )
        self.adapter = folder
        return folder

    def _fetch(self, shown: Mapping[str, Any]) -> tuple[bytes, bytes, Envelope]:
        """Return the last state, the run's history and the signed project, fetched once."""
        if self._fetched is None:
            link, result, digest = self.coordinator.link, shown["result"], shown["project"]["digest"]
            signed = result["signed"]
            if signed is None:
                raise RunFailed(
                    "run.not_signed",
                    f"the coordinator has signed nothing about the run {self.id}.",
                    "It was run by an earlier release: fetch it with that one, or run it again.",
                )
            self._fetched = (
                link.download(result["state"], int(result["state_bytes"])),
                link.download(signed["rounds"], int(signed["rounds_bytes"])),
                fetch_project(link, digest),
            )
        return self._fetched

    def _seal(
        self,
        made: Attested,
        result: Envelope,
        words: Mapping[str, Envelope],
        files: Mapping[str, bytes],
    ) -> dict[str, bytes]:
        """Return what was signed about *files*: by coordinator and sites before, by this person now."""
        found = digests(files)
        other = sorted(name for name, digest in made.files.items() if found.get(name) != digest)
        if other:
            raise ModelError(
                "model.release_invalid",
                f"made here from the run's last state, {', '.join(other)} are not what was signed.",
                "Use the release of Plasmid that the coordinator runs.",
            )
        release = Release(
            run=self.id,
            person=self.coordinator.credential.name,
            released_result=made.digest,
            countersignatures={site: word.open(Attestation).digest() for site, word in words.items()},
        )
        envelope = self.coordinator.attest(Attestation.about(found, release))
        return {BUNDLE: pack_bundle([result, *(words[site] for site in sorted(words)), envelope])}

    def _calibration(self) -> dict[str, bytes]:
        found = [one for one in self.evaluations if one.get("temperature") is not None]
        return {} if not found else {CALIBRATION: calibration_file(found[-1])}

    def state(self) -> NDArray[Any]:
        """Return the final state of a run that makes no adapter, fetched once.

        Raises
        ------
        RunFailed, ProjectRefused
            As :meth:`result`.
        """
        if self._sums is None:
            result, recipe = self.result(), self._recipe()
            shape = computations.load(recipe.computation).shape(recipe, None)
            body = self.coordinator.link.download(result["state"], int(result["state_bytes"]))
            self._sums = unpack(body, "state", length=shape.state.size, dtype=shape.dtype)
        return self._sums

    def _recipe(self) -> Any:
        return parse_document(self.document)

    def save_result(self, folder: Path | None = None) -> Path:
        """Fetch the final state of a run that makes no adapter, and write it to *folder*.

        The default is ``PLASMID_HOME/results/<run>``. A computation may make files of the state, which are
        written, too. Called again after :attr:`table` has been filled in, it writes the results into the
        provenance; that needs the coordinator no more.

        Raises
        ------
        RunFailed, ProjectRefused
            As :meth:`result`.
        StorageError
            The folder cannot be written; nothing half-written stays.
        """
        folder = folder or home() / "results" / self.id
        shown = self._finished()
        result = shown["result"]
        recipe, state = self._recipe(), self.state()
        computation: Any = computations.load(recipe.computation)
        files = computation.files(recipe, state) if hasattr(computation, "files") else {}
        write_result(
            folder,
            computation.shape(recipe, None).state,
            state,
            files=files,
            provenance=sums_provenance(
                shown,
                recipe,
                privacy_facts(result, self.document, rehearsal=self.rehearsal),
                coordinator=fingerprint(self.coordinator.credential.coordinator()[1]),
                files=files,
                metrics=self.table.as_json() if self.table.federated is not None else {},
            ),
        )
        return folder
