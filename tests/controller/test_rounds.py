"""The rounds: what is published when, what the optimiser is given, and the audit at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controller.conftest import NAMES, TINY_TABLES, Scene
from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.coordinator.rounds import Rounds
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import ProtocolError
from plasmid.protocol.body import pack, unpack
from plasmid.recipes.query import PingDocument
from plasmid.recipes.schema import Recipe
from plasmid.secagg.ring import TAIL, decode_sum
from support.federation.virtual_link import vanish
from support.tiny.tiny_task import tiny_recipe

Make = Callable[..., Scene]


def rounds_of(made: Scene) -> Rounds:
    made.sums.begin()
    return Rounds(made.link.context(made.runs), made.job, made.sums)


def recipe(base: BaseModel, **sections: dict[str, Any]) -> Recipe:
    values = tiny_recipe(base).model_dump(mode="json")
    for section, changes in sections.items():
        values[section] |= changes
    return Recipe.model_validate(values)


# -- states ----------------------------------------------------------------------------------------


def test_a_ping_adds_the_mean_of_every_round(scene: Make) -> None:
    made = scene(4, PingDocument(length=6, rounds=3))
    state = rounds_of(made).run()
    mean = made.expected(*NAMES[:4]) / 4
    assert state.dtype == np.float32
    assert np.abs(state - 3 * mean).max() < 1e-6


def test_the_mean_is_over_those_who_took_part(scene: Make) -> None:
    made = scene(4, PingDocument(length=6, rounds=2))
    made.link.on("beta", "contribution", vanish, round=2)
    state = rounds_of(made).run()
    mean = made.expected(*NAMES[:4]) / 4 + made.expected("alpha", "delta", "epsilon") / 3
    assert np.abs(state - mean).max() < 1e-6


def test_a_state_and_its_total_are_there_before_their_manifest_and_go_when_the_next_ones_are_recorded(
    scene: Make,
) -> None:
    made = scene(3, PingDocument(length=6, rounds=3))
    published = made.link.bodies._folder / "published"
    made.link.bodies.published(made.state.digest).unlink()
    seen: list[Any] = []
    totals: list[np.ndarray] = []

    def look(site: str, manifest: Any) -> np.ndarray:
        held = {path.name for path in published.iterdir()}
        seen.append((manifest.round, manifest.state, held, manifest.total))
        if manifest.total and site == "alpha":
            body = made.link.bodies.published(manifest.total.digest).read_bytes()
            encoding = manifest.encoding()
            words = unpack(body, "total", length=6 + TAIL, dtype=encoding.dtype)
            totals.append(decode_sum(words, encoding, 3))
            assert (manifest.total.size, manifest.total.survivors) == (len(body), list(NAMES[:3]))
        return made.vectors[site]

    made.link.compute = look
    state = rounds_of(made).run()
    log = made.runs.show(made.federation.run)["round_log"]
    digests = [sha256_hex(pack("state", np.zeros(6, np.float32))), *[done["state"] for done in log]]
    assert [(round_, digest) for round_, digest, _, _ in seen[::3]] == [
        (round_, digests[round_ - 1]) for round_ in (1, 2, 3)
    ]
    assert seen[0][2:] == ({digests[0]}, None)
    for _, digest, held, total in seen[3:]:
        assert held == {digest, total.digest}
    expected = made.expected(*NAMES[:3])
    assert [np.abs(total - expected).max() < 1e-6 for total in totals] == [True, True]
    assert [path.name for path in published.iterdir()] == [sha256_hex(pack("state", state))]
    assert [done["manifest"] for done in log] == [e["object"] for e in made.events("alpha", "manifest")]


# -- fine-tuning -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("strategy", ["FedAvg", "FedAvgM"])
def test_the_optimiser_steps_along_the_secure_mean(
    scene: Make, tiny: dict[str, BaseModel], strategy: str
) -> None:
    options = {"server_momentum": 0.5} if strategy == "FedAvgM" else {}
    server = {"strategy": strategy, "options": options}
    document = recipe(tiny["esm"], federation={"server": server})
    made = scene(4, document, tables=TINY_TABLES)
    made.vectors = {site: vector * np.float32(0.1) for site, vector in made.vectors.items()}
    state = rounds_of(made).run()
    mean = made.expected(*NAMES[:4]) / 4
    travelled = 2.0 if strategy == "FedAvg" else 1.0 + 1.5
    expected = initial_state(made.job.shape.schema, 0) + travelled * mean
    assert np.abs(state - expected).max() < 1e-5


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("rotation", ["none", "hadamard"])
def test_under_shared_noise_a_step_is_taken_along_the_noised_gradient(
    scene: Make, tiny: dict[str, BaseModel], rotation: str
) -> None:
    """So little of it that rotation and rates show: epsilon 1000."""
    privacy = {
        "unit": "record",
        "mechanism": "dp-fedsgd",
        "epsilon": 1000.0,
        "delta": 1e-6,
        "record_clip": 1.0,
        "rotation": rotation,
    }
    document = recipe(
        tiny["esm"],
        privacy=privacy,
        training={"steps": 1, "optimizer": "sgd", "lora_lr": 1.0, "head_lr": 2.0, "covariate_lr": 3.0},
        federation={"rounds": 1, "spare_attempts": 0},
    )
    made = scene(
        3,
        document,
        tables=TINY_TABLES,
        public_size=100,
        budgets={"default": {"unit": "record", "epsilon": 1000.0, "delta": 1e-6}},
    )
    state = rounds_of(made).run()
    schema = made.job.shape.schema
    rate = {"head.weight": 2.0, "head.bias": 2.0, "head.covariates": 3.0}
    rates = np.concatenate([np.full(spec.size, rate.get(spec.name, 1.0)) for spec in schema.tensors])
    expected = -rates * made.expected(*NAMES[:3]) / (3 * 16)
    moved = state - initial_state(schema, 0)
    std = made.sums._plan("train").noise_std
    noise = (moved - expected) / rates * (3 * 16)
    assert 0.8 * std < noise.std() < 1.7 * std  # three shares, sized for two
    assert np.corrcoef(moved, expected)[0, 1] > 0.5


# -- the audit -------------------------------------------------------------------------------------


def audited(base: BaseModel, **audit: Any) -> Recipe:
    return recipe(
        base,
        federation={"rounds": 1},
        privacy={"audit": {"canaries": 400, "max_audited_epsilon": 2.0} | audit},
    )


def canaries(right: int, guesses: int = 100) -> Callable[[Scene, str, Any], np.ndarray]:
    def compute(made: Scene, site: str, manifest: Any) -> np.ndarray:
        if manifest.phase == "audit":
            return np.array([guesses, right], np.float64)
        return made.vectors[site] * np.float32(0.01)

    return compute


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(("right", "verdict"), [(55, "passed"), (100, "failed")])
def test_the_audit_is_one_more_sum(scene: Make, tiny: dict[str, BaseModel], right: int, verdict: str) -> None:
    made = scene(3, audited(tiny["esm"]), tables=TINY_TABLES, compute=canaries(right))
    rounds = rounds_of(made)
    rounds.run()
    audit = rounds.audit()
    assert (audit.canaries, audit.guesses, audit.right, audit.epsilon) == (1200, 300, 3 * right, 2.0)
    assert audit.verdict == verdict
    assert made.sums.account.attempts == 1  # of training
    assert len(made.sums.account.survivors) == 1


@pytest.mark.usefixtures("at_home")
def test_an_audit_survives_a_drop_out(scene: Make, tiny: dict[str, BaseModel]) -> None:
    made = scene(4, audited(tiny["esm"]), tables=TINY_TABLES, compute=canaries(60))
    made.link.on("beta", "contribution", vanish, round=2)
    rounds = rounds_of(made)
    rounds.run()
    audit = rounds.audit()
    assert (audit.canaries, audit.guesses, audit.right) == (1200, 300, 180)


@pytest.mark.usefixtures("at_home")
def test_an_audit_of_other_guesses_than_planned_says_nothing(scene: Make, tiny: dict[str, BaseModel]) -> None:
    made = scene(3, audited(tiny["esm"]), tables=TINY_TABLES, compute=canaries(60, guesses=99))
    rounds = rounds_of(made)
    rounds.run()
    with pytest.raises(ProtocolError) as caught:
        rounds.audit()
    assert caught.value.code == "protocol.audit"
