"""A coordinator and its runs, from the outside: what researchers and the CLI use.

Rules
-----
1. The same code serves an embedded and a deployed coordinator; it knows a URL and a credential.
2. Requests are signed by the person's identity.
3. The adapter is assembled here, from the final state that the coordinator publishes: whole or not at all.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.client.provenance import privacy_facts, provenance
from plasmid.client.table import Table
from plasmid.computations import api as computations
from plasmid.core.errors import RunFailed, from_dict
from plasmid.core.files import home
from plasmid.models.store import ensure_model
from plasmid.privacy.claims import statement
from plasmid.protocol.body import unpack
from plasmid.protocol.identity import fingerprint
from plasmid.protocol.messages import RunRequest, StopRequest, sign, wire
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.site.enrol import Credential
from plasmid.training.release import write_release

POLL_S = 0.25
Watch = Callable[[Mapping[str, Any]], None]


def person_credential() -> Credential:
    """Return this person's credential: ``PLASMID_HOME/client``."""
    return Credential(home() / "client")


class Coordinator:
    """A coordinator.

    Parameters
    ----------
    url
        Its address; None is the one that the credential was enrolled at.
    credential
        Who asks; None is ``PLASMID_HOME/client`` (see ``plasmid login``).
    """

    def __init__(self, url: str | None = None, *, credential: Credential | None = None) -> None:
        self.credential = credential or person_credential()
        self.link = self.credential.connect(url=url)
        self._identity = self.credential.identity()

    def close(self) -> None:
        """Close the connections."""
        self.link.close()

    def plan(self, document: dict[str, Any], *, sites: list[str] | None = None) -> dict[str, Any]:
        """Return what a run of *document* would be, and which sites would admit it."""
        request = self._request(document, sites)
        plan: dict[str, Any] = self.link.request("POST", "/v1/plan", content=request, timeout_s=180.0).json()
        return plan

    def run(
        self,
        recipe: str | Path | ResolvedRecipe,
        *,
        overrides: Mapping[str, str] | None = None,
        seed: int | None = None,
        sites: list[str] | None = None,
    ) -> Run:
        """Start a run of *recipe* (a name, a file, or a resolved recipe) and return it.

        Raises
        ------
        RecipeError
            The recipe is unknown or malformed.
        LinkError
            The coordinator cannot be reached, or refuses.
        """
        if not isinstance(recipe, ResolvedRecipe):
            recipe = load_recipe(recipe, overrides=overrides or {}, seed=seed)
        return self.start(recipe.document, sites=sites)

    def start(self, document: dict[str, Any], *, sites: list[str] | None = None) -> Run:
        """Start a run of a resolved recipe or query."""
        answer = self.link.request(
            "POST", "/v1/runs", content=self._request(document, sites), timeout_s=180.0
        )
        return Run(self, answer.json()["run_id"], document)

    def runs(self) -> list[dict[str, Any]]:
        """Return a summary of every run, newest first."""
        found: list[dict[str, Any]] = self.link.request("GET", "/v1/runs").json()["runs"]
        return found

    def get(self, run: str) -> Run:
        """Return a run by its id. Raises RunFailed (``run.unknown``)."""
        found = Run(self, run, {})
        found.document = found.show()["document"]
        return found

    def sign(self, message: RunRequest | StopRequest) -> bytes:
        """Return the wire form of *message*, signed by this person."""
        return wire(sign(self._identity, message))

    def _request(self, document: dict[str, Any], sites: list[str] | None) -> bytes:
        digest = recipe_digest(document, str(document["computation"]))
        return self.sign(
            RunRequest(document=document, digest=digest, sites=sites, nonce=secrets.token_hex(16))
        )


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
        self.rehearsal = False
        self.table = Table(metric=document.get("task", {}).get("metric", ""))
        self._final: dict[str, Any] | None = None
        self._state: bytes | None = None

    def show(self) -> dict[str, Any]:
        """Return all that the coordinator knows of the run."""
        shown: dict[str, Any] = self.coordinator.link.request("GET", f"/v1/runs/{self.id}").json()
        return shown

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        """Return the log lines numbered above *after*."""
        lines: list[dict[str, Any]] = self.coordinator.link.request(
            "GET", f"/v1/runs/{self.id}/log", params={"after": after}
        ).json()["lines"]
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
        """Return the result of a run that SUCCEEDED: participants, state digest, a query's answer."""
        return dict(self._finished()["result"])

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
        return self._final

    def save_adapter(self, folder: Path | None = None) -> Path:
        """Fetch the final state and write the adapter to *folder* (default ``PLASMID_HOME/adapters/<run>``).

        Called again after :attr:`table` has been filled in, it writes the results into card and provenance;
        that needs the coordinator no more.

        Raises
        ------
        RunFailed
            ``run.no_result``.
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
