"""The workers of a scene's sites in this process: real sessions over given rows, called as a node does."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.gateway.own_adapter import make_own, own_of
from plasmid.gateway.run import local_seed
from plasmid.gateway.site_parameters import sampling
from plasmid.protocol.body import Body, pack, unpack
from plasmid.recipes.weights import weights_of
from plasmid.worker.worker import Session
from support.hospital.snapshots import snapshot_of

FLOATS = np.dtype("<f4")


class Workers:
    """Compute what a scene's sites contribute.

    Attributes
    ----------
    vectors
        What each site's worker returned, by (site, round): all that a gateway protects and sends.
    began, kept
        What was personal before and after, by (site, round).
    """

    def __init__(self, document: Any, base: BaseModel, tables: Mapping[str, Table]) -> None:
        self.document = document
        self._told: dict[str, tuple[dict[str, Any], Body]] = {}
        channel: Any = SimpleNamespace(send=self._tell)
        named = {"id": base.id, "revision": base.revision, "digest": base.digest}
        made: dict[tuple[int, str | None], Session] = {}
        self.sessions: dict[str, Session] = {}
        for site, table in tables.items():
            ranked = site in document.adapter.ranks if hasattr(document, "adapter") else False
            kind = id(table), site if ranked or weights_of(document) else None
            if kind not in made:  # other sites of the same rows share a session
                header = {"document": document.model_dump(mode="json"), "base": named, "site": site}
                header["descriptor"] = snapshot_of(table, document)
                made[kind] = Session(channel, threading.Event(), (header, b""))
            self.sessions[site] = made[kind]
        self.vectors: dict[tuple[str, int], np.ndarray] = {}
        self.began: dict[tuple[str, int], np.ndarray | None] = {}
        self.kept: dict[tuple[str, int], np.ndarray] = {}

    def _tell(self, header: dict[str, Any], body: Body = b"") -> None:
        self._told[header["type"]] = header, body

    def compute(self, made: Any, site: str, manifest: Any) -> np.ndarray:
        """Return the vector of *site*, and keep what is personal before it goes on."""
        gateway = made.federation.gateways[site]
        admitted = gateway.run(manifest.run)
        order = {
            "phase": manifest.phase,
            "round": manifest.round,
            "seed": local_seed(self.document.seed, site, manifest.round),
            "sampling": sampling(self.document, admitted.terms),
        }
        place = site, manifest.round
        own = self.began[place] = own_of(gateway, admitted, manifest.round)
        body = made.link.bodies.published(manifest.state).read_bytes()
        self.vectors[place] = self._compute(site, order, body, own)
        if "personal" in self._told:
            length = admitted.personal.size
            self.kept[place] = unpack(self._told["personal"][1], "personal", length=length, dtype=FLOATS)
            gateway.personal.keep(
                gateway.audit, manifest.run, manifest.round, admitted.personal, self.kept[place]
            )
        if "figures" in self._told:
            gateway.personal.tell(gateway.audit, manifest.run, "gain", self._told["figures"][0]["figures"])
        return self.vectors[place]

    def make_own(self, made: Any, site: str) -> None:
        """Make the own adapter of *site*, whose run is about to end."""
        gateway, worker = made.federation.gateways[site], SimpleNamespace()
        worker.compute = lambda state, *, order, own, **_: self._compute(
            site, order, pack("state", state), own
        )
        make_own(gateway, gateway.run(made.federation.run), worker, seed=3, progress=lambda *_: None)

    def _compute(self, site: str, order: dict[str, Any], body: bytes, own: np.ndarray | None) -> np.ndarray:
        self._told.clear()
        if own is not None:
            self.sessions[site].take_personal(pack("personal", own))
        return self.sessions[site].compute((order, body))
