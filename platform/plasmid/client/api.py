"""A coordinator and its runs, from the outside: what researchers and the CLI use.

Rules
-----
1. The same code serves an embedded and a deployed coordinator; it knows a URL and a credential.
2. Requests are signed by the person's identity, and belong to a project: the one that is named, else the only
   one in which that person may launch.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.client.run import Run
from plasmid.computations.api import given_digest
from plasmid.core.clock import now, stamp
from plasmid.core.files import home
from plasmid.gateway.keys.keystore import Passphrase
from plasmid.gateway.keys.passphrase import find
from plasmid.protocol.envelope import Envelope, Statement
from plasmid.protocol.messages import RunRequest, StopRequest, sign, wire
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.uplink.enrol import Credential
from plasmid.uplink.link import answered_json, answered_part
from plasmid.uplink.projects import Known, fetch_projects, find_project, launchable


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
    passphrase
        Where that person's passphrase is; None is the file that ``PLASMID_PASSPHRASE_FILE`` names, else the
        terminal.
    rehearsal
        Whether it is an embedded one: one owner holds all sites' data and keys.

    In every method ``project`` is a name or a digest; None is the only one in which that person may launch.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        credential: Credential | None = None,
        passphrase: Passphrase | None = None,
        rehearsal: bool = False,
    ) -> None:
        self.credential = credential or person_credential()
        keys = self.credential.keys(passphrase or find(self.credential.name))
        self.link = self.credential.connect(keys, url=url)
        self._identity = keys.identity()
        self.rehearsal = rehearsal

    @property
    def public(self) -> str:
        """The person's identity key."""
        return self._identity.public

    def close(self) -> None:
        """Close the connections."""
        self.link.close()

    def project(self, project: str | None = None) -> Known:
        """Return a project, with the signatures so far.

        Raises
        ------
        ProjectRefused
            ``project.unknown``: there is none; ``project.ambiguous``: there are several.
        """
        known = fetch_projects(self.link)
        return launchable(known, self.credential.name) if project is None else find_project(known, project)

    def plan(
        self, document: dict[str, Any], *, sites: list[str] | None = None, project: str | None = None
    ) -> dict[str, Any]:
        """Return what a run of *document* would be, and which sites would admit it."""
        request = self._request(document, sites, project)
        answer = self.link.request("POST", "/v1/plan", content=request, timeout_s=180.0)
        plan: dict[str, Any] = answered_json(answer)
        return plan

    def run(
        self,
        recipe: str | Path | ResolvedRecipe,
        *,
        overrides: Mapping[str, str] | None = None,
        seed: int | None = None,
        sites: list[str] | None = None,
        project: str | None = None,
    ) -> Run:
        """Start a run of *recipe* (a name, a file, or a resolved recipe) and return it.

        Raises
        ------
        RecipeError
            The recipe is unknown or malformed.
        ProjectRefused
            As :meth:`project`; or the project does not allow it.
        LinkError
            The coordinator cannot be reached, or refuses.
        """
        if not isinstance(recipe, ResolvedRecipe):
            recipe = load_recipe(recipe, overrides=overrides or {}, seed=seed)
        return self.start(recipe.document, sites=sites, project=project)

    def start(
        self, document: dict[str, Any], *, sites: list[str] | None = None, project: str | None = None
    ) -> Run:
        """Start a run of a resolved recipe or query."""
        request = self._request(document, sites, project)
        answer = self.link.request("POST", "/v1/runs", content=request, timeout_s=180.0)
        return Run(self, str(answered_part(answer, "run_id")), document)

    def give(self, values: NDArray[np.float32]) -> str:
        """Send an adapter, float32 [adapter size], for a document to name; return its digest.

        It is this person's only one at the coordinator: the next one replaces it.

        Raises
        ------
        LinkError
            The coordinator cannot be reached, or does not take it.
        """
        body = values.astype("<f4").tobytes()
        digest = given_digest(values)
        self.link.give(digest, body)
        return digest

    def runs(self) -> list[dict[str, Any]]:
        """Return a summary of every run, newest first."""
        found: list[dict[str, Any]] = answered_part(self.link.request("GET", "/v1/runs"), "runs")
        return found

    def get(self, run: str) -> Run:
        """Return a run by its id. Raises RunFailed (``run.unknown``)."""
        found = Run(self, run, {})
        found.document = found.show()["document"]
        return found

    def sign(self, message: RunRequest | StopRequest) -> bytes:
        """Return the wire form of *message*, signed by this person."""
        return wire(sign(self._identity, message))

    def attest(self, statement: Statement) -> Envelope:
        """Return *statement* in an envelope that this person has signed."""
        return Envelope.of(statement).signed(self._identity)

    def _request(self, document: dict[str, Any], sites: list[str] | None, project: str | None) -> bytes:
        return self.sign(
            RunRequest(
                document=document,
                digest=recipe_digest(document, str(document["computation"])),
                project=self.project(project).digest,
                sites=sites,
                requested=stamp(now()),
                nonce=secrets.token_hex(16),
            )
        )
