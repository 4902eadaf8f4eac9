"""One run at a coordinator: watch it, stop it, take what came of it.

The adapter is assembled here, from the final state that the coordinator publishes: whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.client.provenance import privacy_facts, project_line, provenance
from plasmid.client.results import write_result
from plasmid.client.table import Table
from plasmid.computations import api as computations
from plasmid.core.errors import ProjectRefused, RunFailed, from_dict
from plasmid.core.files import home
from plasmid.models.store import ensure_model
from plasmid.privacy.claims import statement
from plasmid.protocol.body import unpack
from plasmid.protocol.identity import fingerprint
from plasmid.protocol.messages import StopRequest
from plasmid.recipes.documents import parse_document
from plasmid.site.link import answered_json, answered_part
from plasmid.training.release import write_release

if TYPE_CHECKING:
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
    adapter
        The adapter's folder, once :meth:`save_adapter` has written it.
    rehearsal
        Whether one owner held all sites' data and keys (an embedded run); card and provenance say so.
    """

    def __init__(self, coordinator: Coordinator, run: str, document: dict[str, Any]) -> None:
        self.coordinator = coordinator
        self.id = run
        self.document = document
        self.adapter: Path | None = None
        self.rehearsal = coordinator.rehearsal
        self.table = Table(metric=document.get("task", {}).get("metric", ""))
        self._final: dict[str, Any] | None = None
        self._state: bytes | None = None

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
            As :meth:`result`.
        StorageError
            The folder cannot be written; nothing half-written stays.
        """
        folder = folder or home() / "adapters" / self.id
        shown = self._finished()
        result = shown["result"]
        recipe: Any = parse_document(self.document)
        base = ensure_model(recipe.model.base, revision=recipe.model.revision, digest=recipe.model.digest)
        shape = computations.load(recipe.computation).shape(recipe, base)
        if self._state is None:
            self._state = self.coordinator.link.download(result["state"], int(result["state_bytes"]))
        state = unpack(self._state, "state", length=shape.schema.size, dtype=np.dtype(np.float32))
        facts = privacy_facts(result, self.document, rehearsal=self.rehearsal)
        write_release(
            folder,
            recipe,
            base,
            state,
            results=dict(self.table.rows()),
            privacy="\n".join(f"- {sentence}" for sentence in statement(facts)),
            project=project_line(shown["project"], shown["requester"]),
            provenance=provenance(
                shown,
                recipe,
                base,
                facts,
                coordinator=fingerprint(self.coordinator.credential.coordinator()[1]),
                metrics=self.table.as_json(),
            ),
        )
        self.adapter = folder
        return folder

    def save_result(self, folder: Path | None = None) -> Path:
        """Fetch the final state of a run that trains no model, and write it to *folder*.

        The default is ``PLASMID_HOME/results/<run>``.

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
        recipe: Any = parse_document(self.document)
        shape = computations.load(recipe.computation).shape(recipe, None)
        body = self.coordinator.link.download(result["state"], int(result["state_bytes"]))
        write_result(
            folder,
            shape.schema,
            unpack(body, "state", length=shape.schema.size, dtype=shape.dtype),
            provenance=provenance(
                shown,
                recipe,
                None,
                privacy_facts(result, self.document, rehearsal=self.rehearsal),
                coordinator=fingerprint(self.coordinator.credential.coordinator()[1]),
                metrics={},
            ),
        )
        return folder
