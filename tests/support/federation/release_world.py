"""A released adapter without a federation: keys, a project, rounds, and everybody's word on what came of it.

What is wrong with it is what a test makes wrong: :class:`World` holds every part before it is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from plasmid.bases.store import BaseModel
from plasmid.client.run import Run
from plasmid.computations import finetune
from plasmid.protocol.body import pack
from plasmid.protocol.envelope import Envelope, Statement
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Manifest, Total
from plasmid.protocol.project import Project
from plasmid.recipes.schema import Recipe
from plasmid.release.attestation import (
    ROUNDS,
    Attestation,
    Base,
    Countersignature,
    EpochFigures,
    Result,
    Round,
    digests,
    pack_rounds,
)
from plasmid.release.result import privacy_facts, release_files
from plasmid.secagg.ring import TAIL
from support.federation.in_memory import document_of, project_of, signed_by
from support.tiny.tiny_task import tiny_recipe

SITES = ("alpha", "beta", "gamma")
DP_SGD: dict[str, Any] = {
    "unit": "record",
    "mechanism": "dp-sgd",
    "epsilon": 8.0,
    "delta": 1e-5,
    "record_clip": 1.0,
}
NOISE = 4.0
"""More than epsilon 8 needs: what is spent is less than what is charged."""


@dataclass
class World:
    """Who there is, and what they sign.

    Attributes
    ----------
    words
        Which sites countersign.
    privacy
        Changes to the recipe's section.
    kind
        Makes the recipe of *base*.
    change
        Gets the result before anybody signs it; returns what is signed instead.
    """

    base: BaseModel
    words: tuple[str, ...] = SITES
    privacy: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    rehearsal: bool = False
    kind: Callable[[BaseModel], Recipe] = tiny_recipe
    change: Callable[[Result], Result] = lambda result: result
    run: str = "tiny-0123456789abcdef"

    def __post_init__(self) -> None:
        self.coordinator = Identity.generate("coordinator")
        self.identities = {site: Identity.generate(site) for site in SITES}
        self.person = Identity.generate("ada")
        values = self.kind(self.base).model_dump(mode="json")
        values["privacy"] |= self.privacy
        values["federation"]["server"] |= self.server
        self.recipe = Recipe.model_validate(values)
        self.document, self.digest = document_of(self.recipe)
        organisations = {site: f"{site} hospital" for site in SITES}
        changes = {"purpose": "rehearsal"} if self.rehearsal else {}
        self.project: Project = project_of(self.identities, organisations, self.person, **changes)
        self.envelope = signed_by(self.project, self.identities)
        shape = finetune.shape(self.recipe, self.base)
        source = np.random.default_rng(1)
        first = finetune.initial(self.recipe, shape)
        self.states = [first, *(first + 0.1 * source.standard_normal(first.size) for _ in range(2))]
        self.states = [state.astype(np.float32) for state in self.states]
        self.bodies: dict[str, bytes] = {}

    def keep(self, body: bytes) -> str:
        """Publish a body and return its digest."""
        (digest,) = digests({"body": body}).values()
        self.bodies[digest] = body
        return digest

    def record(self) -> dict[str, Any]:
        """Return the run's result as a coordinator has it."""
        private = self.recipe.privacy.unit != "none"
        terms = {"public_size": 2000, "rate": 0.008, "noise_multiplier": NOISE, "attempts": 4}
        return {
            "participants": list(SITES),
            "survivors": [list(SITES)] * 2,
            "epochs": [{"n": 3, "c": 1, "theta": 3, "m": 3}],
            "protocol": "plasmid-sa/2",
            "attempts_used": 2,
            "rounds": 2,
            "noise_std": 0.0,
            "scale_log2": 20,
            "length": self.states[0].size,
            "step": 2.0**-20,
            "terms": dict.fromkeys(SITES, terms if private else None),
            "audit": None,
        }

    def totals(self) -> list[Total]:
        """Return the sums from which the states follow: three sites, each with the same update."""
        found = []
        for before, after in zip(self.states, self.states[1:], strict=False):
            steps = np.rint(3.0 * (after - before).astype(np.float64) * 2**20).astype(np.int32)
            body = pack("total", np.concatenate([steps, np.zeros(TAIL, np.int32)]).view(np.uint32))
            total = Total(digest=self.keep(body), size=len(body), survivors=list(SITES), tag=bytes(8))
            found.append(total)
        return found

    def rounds(self) -> list[Round]:
        """Return the history."""
        totals = [None, *self.totals()]
        privacy = self.recipe.privacy
        return [
            Round(
                manifest=Manifest(
                    protocol="plasmid-sa/2",
                    run=self.run,
                    phase="train",
                    epoch=1,
                    slot=number,
                    round=number + 1,
                    rho="a" * 64,
                    document=self.digest,
                    base=self.base.digest,
                    state=self.keep(pack("state", self.states[number])),
                    state_bytes=len(pack("state", self.states[number])),
                    invited=list(SITES),
                    ring_bits=32,
                    scale_log2=20,
                    bound=10.0,
                    length=self.states[0].size,
                    mechanism=privacy.mechanism or "none",
                    noise_variance=0.0,
                    min_sites=3,
                    theta=3,
                    total=totals[number],
                ),
                sites=list(SITES),
            )
            for number in range(2)
        ]

    def result(self, history: bytes) -> Attestation:
        """Return what the coordinator says."""
        files = digests({**release_files(self.recipe, self.base, self.states[-1]), ROUNDS: history})
        record = self.record()
        made = Result(
            run=self.run,
            coordinator=self.coordinator.public,
            requester=self.person.name,
            project=self.project.digest(),
            name=self.recipe.name,
            recipe=self.digest,
            base=Base(id=self.base.id, revision=self.base.revision, digest=self.base.digest),
            code="plasmid 0.1.0",
            hardware="x86_64",
            rounds=2,
            participants=list(SITES),
            epochs=[EpochFigures(**epoch) for epoch in record["epochs"]],
            strategy=self.recipe.federation.server.strategy,
            step=2.0**-20,
            state=self.keep(pack("state", self.states[-1])),
            total=self.totals()[-1],
            privacy=privacy_facts(record, self.document, rehearsal=self.rehearsal).as_json(),
        )
        return Attestation.about(files, self.change(made))

    def word(self, site: str, of: Attestation, /, **changes: Any) -> Envelope:
        """Return a site's signed countersignature."""
        privacy = self.recipe.privacy
        values: dict[str, Any] = {
            "run": self.run,
            "site": site,
            "result": of.digest(),
            "contributed": 2,
            "rerun": 2,
            "server_step": "re-run",
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "hardware": "x86_64",
        }
        said = Attestation.about(of.files, Countersignature(**values | changes))
        return Envelope.of(said).signed(self.identities[site])

    def shown(self, **changes: Any) -> dict[str, Any]:
        """Return the finished run as the coordinator shows it; *changes* are to every countersignature."""
        history = pack_rounds(self.rounds())
        result = self.result(history)
        words = {site: self.word(site, result, **changes) for site in self.words}
        made: Any = result.predicate
        return {
            "run_id": self.run,
            "state": "SUCCEEDED",
            "withheld": False,
            "document": self.document,
            "digest": self.digest,
            "requester": self.person.name,
            "project": {"name": "trial", "digest": self.project.digest(), "purpose": self.project.purpose},
            "rounds_done": 2,
            "result": {
                **self.record(),
                "state": made.state,
                "state_bytes": len(self.bodies[made.state]),
                "answer": None,
                "signed": {
                    "result": Envelope.of(result).signed(self.coordinator).model_dump(mode="json"),
                    "countersignatures": {s: word.model_dump(mode="json") for s, word in words.items()},
                    "missing": {site: "it was away" for site in SITES if site not in words},
                    "rounds": self.keep(history),
                    "rounds_bytes": len(history),
                },
            },
        }

    def fetch(self, folder: Path, **changes: Any) -> Run:
        """Have ``ada`` fetch the adapter to *folder*, as the client does."""
        run = Run(self, self.run, self.document)  # type: ignore[arg-type]
        run._final = self.shown(**changes)
        run.save_adapter(folder)
        return run

    # -- what the client asks a coordinator ------------------------------------------------------------

    @property
    def link(self) -> Any:
        """Stands for the link."""
        answer = SimpleNamespace(content=self.envelope.wire())
        return SimpleNamespace(
            download=lambda digest, size: self.bodies[digest], request=lambda method, path: answer
        )

    @property
    def credential(self) -> Any:
        """Stands for the person's credential."""
        return SimpleNamespace(name=self.person.name, coordinator=lambda: ("", self.coordinator.public))

    def attest(self, statement: Statement) -> Envelope:
        """Sign as the person."""
        return Envelope.of(statement).signed(self.person)
