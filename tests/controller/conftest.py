"""A coordinator's part of a run over real gateways, without a network or real time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.computations import api
from plasmid.coordinator import run as run_module
from plasmid.coordinator.database import Runs
from plasmid.coordinator.plan import Job, prepare
from plasmid.coordinator.run import RunActor
from plasmid.coordinator.secure_sum import SecureSum, State
from plasmid.link.engine import open_engine, sqlite_url
from plasmid.protocol.body import pack, unpack
from plasmid.protocol.messages import Manifest
from plasmid.recipes.beside import advanced
from plasmid.recipes.query import PingDocument
from support.federation.in_memory import Federation
from support.federation.virtual_link import VirtualLink, admit_all, vectors

NAMES = ("alpha", "beta", "delta", "epsilon", "eta", "gamma", "iota", "kappa")
TINY_TABLES = dict.fromkeys(NAMES, "sequence,gene,label\nCASS,a,no\nCWWW,b,yes\n")
"""Data for the recipe of ``tiny_task``; what is trained, the scene makes up."""


@dataclass
class Scene:
    """One run: its sites over a virtual link, what each contributes, and the coordinator's sums.

    ``folder`` holds the database, and the coordinator's and the sites' folders.
    """

    federation: Federation
    link: VirtualLink
    runs: Runs
    job: Job
    vectors: dict[str, np.ndarray]
    folder: Path
    sums: SecureSum
    state: State

    def total(self, round_: int = 1, **arguments: Any) -> np.ndarray:
        """Sum a round, whose state is that which the last sum gave."""
        opened, bodies = self.sums.total(round_, self.state, **arguments), self.link.bodies
        before = bodies.published(self.state.digest).read_bytes()
        shape, document = self.job.shape, self.job.document
        state = unpack(before, "state", length=shape.state.size, dtype=shape.dtype)
        summed = api.Sum(opened.values, len(opened.survivors), round_)
        after = advanced(api.load(document.computation), document, shape, state, summed)
        body = pack("state", np.asarray(after))
        self.state = State(bodies.publish(body), len(body), opened.publish(bodies))
        return opened.values

    def expected(self, *sites: str) -> np.ndarray:
        """Return the sum of what *sites* contribute."""
        return np.sum([self.vectors[site].astype(np.float64) for site in sites], axis=0)

    def log(self) -> list[str]:
        """Return the texts of the run's log."""
        return [line["text"] for line in self.runs.log(self.federation.run)]

    def events(self, site: str, action: str) -> list[dict[str, Any]]:
        """Return the entries of one action in a site's log."""
        return [line for line in self.federation.log(site) if line["action"] == action]


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    engine = open_engine(sqlite_url(tmp_path))
    yield Runs(engine)
    engine.dispose()


@pytest.fixture
def scene(tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    """Return a function that makes a run of a document at *n* sites, *admitted* unless told otherwise."""

    monkeypatch.setattr(os, "fsync", lambda _: None)  # no test here ends in a power cut

    def make(
        n: int = 5,
        document: Any = None,
        *,
        admitted: bool = True,
        compute: Callable[[Scene, str, Manifest], np.ndarray] | None = None,
        budgets: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Scene:
        names = NAMES[:n]
        document = document or PingDocument(length=6, rounds=3)
        federation = Federation(tmp_path / "sites", document=document, sites=names, **settings)
        for site in names if budgets else ():
            policy = {"allow": [federation.digest], "budgets": budgets}
            federation.home(site).policy.write_text(json.dumps(policy), encoding="utf-8")
        job = prepare(federation.values, federation.digest)
        made = dict(vectors(names, job.shape.schema.size))

        def raw(site: str, manifest: Manifest) -> np.ndarray:
            return compute(done, site, manifest) if compute else done.vectors[site].astype(job.shape.dtype)

        link = VirtualLink(federation, tmp_path / "coordinator", monkeypatch, compute=raw)
        runs.create(
            federation.run,
            request=federation.signed_request(),
            project=federation.envelope,
            invited=list(names),
            rounds=document.rounds,
        )
        organisations = {site: federation.organisation(site) for site in names}
        terms = admit_all(link) if admitted else {}
        body = pack("state", np.zeros(job.shape.schema.size, job.shape.dtype))
        state = State(link.bodies.publish(body), len(body))
        sums = SecureSum(link.context(runs), job, terms, organisations)
        done = Scene(federation, link, runs, job, made, tmp_path, sums, state)
        return done

    return make


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Scene], dict[str, Any]]]:
    """Return a function that runs a scene's run to its end and returns what the database shows of it."""
    actors: list[RunActor] = []
    monkeypatch.setattr(run_module, "log_to", lambda folder: None)

    def go(made: Scene) -> dict[str, Any]:
        federation, home = made.federation, made.folder / "coordinator"
        home.mkdir(exist_ok=True)
        (home / "identity.key").write_bytes(federation.coordinator.to_pem())
        organisations = {site: federation.organisation(site) for site in federation.sites}
        actor = RunActor(federation.run, str(home), sqlite_url(made.folder), made.link, organisations)
        actors.append(actor)
        end = actor.run()
        shown = made.runs.show(federation.run)
        assert end == shown["state"]
        made.link.pump()
        # However it ends: the sites are told, the run takes nothing more, no contribution stays.
        for site, state in made.link._sites.items():
            assert not state.alive or federation.run not in federation.gateways[site]._runs
        assert federation.run not in made.link.board._runs
        assert not (made.link.bodies._folder / "received" / federation.run).exists()
        return shown

    yield go
    for actor in actors:
        actor._context.runs._engine.dispose()
