"""The end of a run that makes an adapter: what the coordinator signs, what sites check before they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from controller.conftest import NAMES, TINY_TABLES, Scene
from plasmid.bases.store import BaseModel
from plasmid.client.run import Run
from plasmid.coordinator.rounds import Rounds
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import PlasmidError
from plasmid.protocol.envelope import Envelope, Statement
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Conclude, Signed
from plasmid.protocol.project import Project
from plasmid.recipes.query import PingDocument
from plasmid.recipes.schema import Recipe
from plasmid.release.attestation import ROUNDS, Attestation, Result, digests, pack_rounds, read_rounds
from plasmid.release.folder import Trust, Verified, verify_release
from support.federation.virtual_link import VirtualLink, fall_silent, meanwhile, vanish
from support.tiny.tiny_task import tiny_recipe

pytestmark = pytest.mark.usefixtures("at_home")
Make = Callable[..., Scene]
Start = Callable[[Scene], dict[str, Any]]


def recipe(base: BaseModel, **sections: dict[str, Any]) -> Recipe:
    values = tiny_recipe(base).model_dump(mode="json")
    for section, changes in sections.items():
        values[section] |= changes
    return Recipe.model_validate(values)


def finetuning(scene: Make, base: BaseModel, n: int = 4, **sections: dict[str, Any]) -> Scene:
    def compute(made: Scene, site: str, manifest: Any) -> np.ndarray:
        if manifest.phase == "audit":
            return np.array([100.0, 55.0])
        return made.vectors[site] * np.float32(0.01 * manifest.round)

    return scene(n, recipe(base, **sections), admitted=False, compute=compute, tables=TINY_TABLES)


class Receiver:
    """The person who asked for the run, at a coordinator of which only the bodies are left."""

    rehearsal = False

    def __init__(self, made: Scene) -> None:
        federation = made.federation
        self._requester: Identity = federation.requester
        key = federation.coordinator.public
        self.credential = SimpleNamespace(name=self._requester.name, coordinator=lambda: ("", key))
        self.link = SimpleNamespace(
            download=lambda digest, size: made.link.bodies.published(digest).read_bytes(),
            request=lambda method, path: SimpleNamespace(content=federation.envelope.wire()),
        )

    def attest(self, statement: Statement) -> Envelope:
        return Envelope.of(statement).signed(self._requester)


def fetched(made: Scene, shown: dict[str, Any], folder: Path) -> Verified:
    """Fetch the adapter as the client does, and verify it by the sites' pinned keys."""
    run = Run(Receiver(made), shown["run_id"], shown["document"])  # type: ignore[arg-type]
    run._final = {**shown, "withheld": False}
    run.save_adapter(folder)
    keys = {site: identity.public for site, identity in made.federation.identities.items()}
    return verify_release(folder, Trust(coordinator=made.federation.coordinator.public, sites=keys))


# -- honest ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    ["FedAdam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("FedAvg", "FedAdagrad"))],
)
def test_every_site_countersigns_what_it_took_part_in(
    scene: Make, start: Start, tiny: dict[str, BaseModel], tmp_path: Path, strategy: str
) -> None:
    made = finetuning(scene, tiny["esm"], 3, federation={"server": {"strategy": strategy, "options": {}}})
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    names = list(NAMES[:3])
    found = fetched(made, shown, tmp_path / "adapter")
    assert (list(found.participants), list(found.countersigned)) == (names, names)
    assert found.pinned == (*names, "coordinator")
    rerun = 0 if strategy == "FedAdagrad" else 2
    assert found.server_step == ("re-run" if rerun else "not re-run")
    for site in names:
        (entry,) = made.events(site, "countersigned")
        assert (entry["contributed"], entry["rerun"], entry["epsilon"]) == (2, rerun, None)
    assert "countersigned by 3 of 3 participants" in made.log()
    published = {path.name for path in (made.link.bodies._folder / "published").iterdir()}
    assert {shown["result"]["state"], shown["result"]["signed"]["rounds"]} <= published
    assert len(published) == 3  # with the state of the scene's own


@pytest.mark.slow
def test_an_audit_is_followed_too(
    scene: Make, start: Start, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    audit = {"audit": {"canaries": 400, "max_audited_epsilon": 2.0}}
    made = finetuning(scene, tiny["esm"], 3, privacy=audit)
    found = fetched(made, start(made), tmp_path / "adapter")
    assert found.server_step == "re-run"
    assert any("anary audit" in sentence for sentence in found.privacy)
    (entry,) = made.events("alpha", "countersigned")
    assert (entry["contributed"], entry["rerun"]) == (3, 2)


def test_a_question_is_not_countersigned(scene: Make, start: Start) -> None:
    made = scene(3, PingDocument(length=6, rounds=2), admitted=False)
    shown = start(made)
    assert (shown["state"], shown["result"]["signed"]) == ("SUCCEEDED", None)
    assert made.events("alpha", "countersigned") == []
    published = {path.name for path in (made.link.bodies._folder / "published").iterdir()}
    assert published == {shown["result"]["state"]}  # no total is left


# -- who is away -----------------------------------------------------------------------------------


def test_a_site_that_is_away_at_the_end_is_named_and_the_run_succeeds(
    scene: Make, start: Start, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    made = finetuning(scene, tiny["esm"])
    made.link.on("beta", "shares", fall_silent, round=2)
    made.link.on("beta", "countersigned", vanish)
    shown = start(made)
    assert shown["state"] == "SUCCEEDED"
    assert list(shown["result"]["signed"]["missing"]) == ["beta"]
    found = fetched(made, shown, tmp_path / "adapter")
    assert (found.countersigned, found.missing) == (("alpha", "delta", "epsilon"), ("beta",))
    assert any(text.startswith("beta did not countersign: it has been silent") for text in made.log())


@pytest.mark.slow
def test_a_site_that_missed_a_round_says_what_it_could_not_re_run(
    scene: Make, start: Start, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    """It was late in the first round of three, so it is in two sums; its step of momentum is broken."""
    momentum = {"server": {"strategy": "FedAvgM", "options": {"server_momentum": 0.5}}, "rounds": 3}
    made = finetuning(scene, tiny["esm"], 5, federation=momentum)

    def restarted(link: VirtualLink, site: str, signed: Signed) -> None:
        link.restart(site)

    made.link.on("beta", "contribution", restarted, round=1)
    made.link.on("eta", "contribution", vanish, round=2)
    made.link.on("delta", "contribution", vanish, round=2)  # too few are left: a new key epoch, beta is back
    shown = start(made)
    assert shown["state"] == "SUCCEEDED", shown["error"]
    found = fetched(made, shown, tmp_path / "adapter")
    (beta,) = made.events("beta", "countersigned")
    assert (beta["contributed"], beta["rerun"]) == (2, 0)
    (alpha,) = made.events("alpha", "countersigned")
    assert (alpha["contributed"], alpha["rerun"]) == (3, 3)
    assert found.server_step == "re-run"  # by alpha and epsilon
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "- Every server step was re-run by alpha, epsilon.\n" in card
    assert "- Server step not re-run at beta (FedAvgM).\n" in card


# -- a coordinator that lies -------------------------------------------------------------------------


@pytest.mark.promise("countersign-follows")
def test_a_state_that_does_not_follow_ends_the_run_at_every_site(
    scene: Make, start: Start, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finetuning(scene, tiny["esm"], 3)
    honest = Rounds._publish

    def nudged(rounds: Rounds, state: np.ndarray, *, last: bool = False) -> None:
        honest(rounds, state + np.float32(1e-3) if rounds._summed else state, last=last)

    monkeypatch.setattr(Rounds, "_publish", nudged)
    shown = start(made)
    assert shown["state"] == "FAILED"
    said = "The state does not follow from the published totals. [protocol.step]"
    assert shown["error"]["message"].count(said) == 3
    for site in NAMES[:3]:
        refused = [entry["rule"] for entry in made.events(site, "refused")]
        assert refused == ["protocol.step"]  # it is asked again, and does not come back


@pytest.mark.slow
def test_a_first_state_of_the_coordinator_s_own_is_refused(
    scene: Make, start: Start, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finetuning(scene, tiny["esm"], 3)
    honest = Rounds._publish
    monkeypatch.setattr(
        Rounds, "_publish", lambda rounds, state, **how: honest(rounds, state * np.float32(1.01), **how)
    )
    assert "[protocol.step]" in start(made)["error"]["message"]


def variants(result: Attestation, history: bytes) -> dict[str, tuple[Attestation, bytes]]:
    """Return what a coordinator might have signed instead, each with its history."""
    made = result.predicate
    assert isinstance(made, Result)
    files = dict(result.files)

    def of(**changes: Any) -> tuple[Attestation, bytes]:
        return Attestation.about(files, made.model_copy(update=changes)), history

    def over(change: Callable[[list[dict[str, Any]]], object]) -> tuple[Attestation, bytes]:
        rounds = [one.model_dump(mode="json") for one in read_rounds(history)]
        change(rounds)
        data = canonical_json({"rounds": rounds})
        return Attestation.about({**files, **digests({ROUNDS: data})}, made), data

    def facts(**changes: Any) -> tuple[Attestation, bytes]:
        return of(privacy={**made.privacy, **changes})

    other = made.project[::-1]
    return {
        "another run": of(run="tiny-0000000000000000"),
        "another project": of(project=other),
        "another recipe": of(recipe=other),
        "another requester": of(requester="mallory"),
        "another coordinator": of(coordinator=Identity.generate("x").public),
        "another base": of(base=made.base.model_copy(update={"digest": other})),
        "fewer rounds": of(rounds=1),
        "another strategy": of(strategy="FedAdam"),
        "more participants": of(participants=[*made.participants, "zeta"]),
        "fewer participants": of(participants=made.participants[1:]),
        "other weights": (Attestation.about({**files, "head.safetensors": other}, made), history),
        "a file more": (Attestation.about({**files, "extra.bin": other}, made), history),
        "no history": (Attestation.about({n: d for n, d in files.items() if n != ROUNDS}, made), history),
        "no audit": facts(attempts=1),
        "another unit": facts(unit="record", epsilon=1.0),
        "a smaller clip": facts(update_clip=0.1),
        "more honest sites": facts(c=0),
        "a rehearsal": facts(rehearsal=True),
        "a round left out": over(lambda rounds: rounds.pop()),
        "another manifest": over(lambda rounds: rounds[0]["manifest"].update(slot=9)),
        "another run's manifest": over(lambda rounds: rounds[1]["manifest"].update(run="tiny-1")),
        "not this site": over(lambda rounds: [one["sites"].remove("alpha") for one in rounds]),
        "another order": over(lambda rounds: rounds.reverse()),
    }


@pytest.mark.promise("countersign-follows")
def test_a_site_countersigns_nothing_else(scene: Make, start: Start, tiny: dict[str, BaseModel]) -> None:
    made = finetuning(scene, tiny["esm"], 3)
    gateway = made.federation.gateways["alpha"]
    outcomes: dict[str, str] = {}

    def lie(link: VirtualLink) -> None:
        waiting = link.board._mailboxes["alpha"].waiting
        (signed,) = [said for _, said in waiting if said.payload["type"] == "conclude"]
        honest = gateway.open(signed)
        result = honest.result.open(Attestation)
        history = link.download(result.files[ROUNDS], honest.rounds_bytes)
        assert pack_rounds(read_rounds(history)) == history
        for what, (said, data) in variants(result, history).items():
            message = Conclude(
                run=made.federation.run,
                result=Envelope.of(said).signed(made.federation.coordinator),
                rounds_bytes=len(data),
            )
            link.bodies.publish(data)
            outcomes[what] = attempt(message)
        bare = honest.result.model_copy(update={"signatures": []})
        outcomes["unsigned"] = attempt(honest.model_copy(update={"result": bare}))
        stranger = bare.signed(Identity.generate("coordinator"))
        outcomes["another's signature"] = attempt(honest.model_copy(update={"result": stranger}))

    def attempt(message: Conclude) -> str:
        try:
            gateway.countersign(message)
        except PlasmidError as error:
            return error.code
        return "countersigned"

    made.link.on("alpha", "countersigned", meanwhile(lie))
    shown = start(made)
    assert len(outcomes) == 25
    assert set(outcomes.values()) == {"protocol.result"}, outcomes
    assert len(made.events("alpha", "countersigned")) == 1  # the honest one, before
    assert list(shown["result"]["signed"]["countersignatures"]) == list(NAMES[:3])


@pytest.mark.slow
def test_an_owner_who_has_left_the_project_countersigns_nothing(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    made = finetuning(scene, tiny["esm"], 3)
    gateway = made.federation.gateways["beta"]
    digest = made.federation.envelope.open(Project).digest()
    made.link.on("alpha", "countersigned", meanwhile(lambda link: gateway.projects.drop(digest)))
    shown = start(made)
    assert shown["state"] == "SUCCEEDED"
    assert "[project.not_signed_here]" in shown["result"]["signed"]["missing"]["beta"]
