"""Following the states of a run: what follows, what does not, and what cannot be said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attacks import refusal
from in_memory import document_of
from plasmid.computations import api, finetune
from plasmid.gateway.following import Following, Published
from plasmid.models.store import BaseModel
from plasmid.privacy.rotation import rotate
from plasmid.protocol.attestation import HeldBack
from plasmid.protocol.body import pack
from plasmid.protocol.messages import Total
from plasmid.protocol.server_step import server_step
from plasmid.recipes.beside import advanced, shape_of
from plasmid.recipes.schema import Recipe
from plasmid.recipes.stopping import MOST_LOSS, Choice, Stop
from tiny_task import tiny_recipe

SITES = 3


class Way:
    """An honest coordinator's states and totals, without a federation."""

    def __init__(self, base: BaseModel, **sections: dict[str, Any]) -> None:
        values = tiny_recipe(base).model_dump(mode="json")
        for section, changes in sections.items():
            values[section] |= changes
        self.document = Recipe.model_validate(values)
        self.digest = document_of(self.document)[1]
        self.shape: api.Shape = shape_of(api.load("finetune"), self.document, base)
        server = self.document.federation.server
        self._step = server_step(server.strategy, server.options)
        self._source = np.random.default_rng(5)
        self.states = [finetune.initial(self.document, self.shape)]
        self.totals: list[np.ndarray] = []

    def go(self, rounds: int = 3, losses: list[float] | None = None) -> Way:
        for round_ in range(1, rounds + 1):
            state = self.states[-1]
            total = self._source.standard_normal(self.shape.schema.size)
            if losses is not None:
                total[-2:] = SITES * self.shape.bound * np.array([losses[round_ - 1] / MOST_LOSS, 1.0])
            summed = api.Sum(total, SITES, 1)
            averaged = advanced(api.load("finetune"), self.document, self.shape, state, summed)
            self.totals.append(total)
            self.states.append(averaged if self._step is None else self._step.step(round_, state, averaged))
        return self

    def published(self, round_: int) -> Published:
        """Return the total of *round_* as it is published."""
        total = self.totals[round_ - 1]
        if self.document.privacy.rotation == "hadamard":
            total = rotate(total, seed=bytes.fromhex(self.digest))
        return Published(pack("total", total), SITES)

    def following(self) -> Following:
        return Following(self.document, self.digest, self.shape)

    def adopt(self, following: Following, round_: int, *, total: bool = True, **changes: Any) -> None:
        state = changes.get("state", self.states[round_ - 1])
        before = self.published(round_ - 1) if total and round_ > 1 else None
        following.adopt(round_, changes.get("digest", f"state {round_}"), pack("state", state), before)


@pytest.fixture
def base(tiny: dict[str, BaseModel]) -> BaseModel:
    return tiny["bert"]


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAvgM", "FedAdam", "FedYogi"])
def test_every_step_of_an_honest_run_is_re_run(base: BaseModel, strategy: str) -> None:
    way = Way(base, federation={"server": {"strategy": strategy, "options": {}}}).go()
    following = way.following()
    for round_ in (1, 2, 3, 4):
        way.adopt(following, round_)
        way.adopt(following, round_)  # an attempt more at the same round
    assert (following.rerun, following.complete) == (3, True)


def test_a_rotated_total_is_turned_back(base: BaseModel) -> None:
    privacy = {
        "unit": "record", "mechanism": "dp-fedsgd", "epsilon": 8.0, "delta": 1e-6, "record_clip": 1.0,
        "rotation": "hadamard",
    }  # fmt: skip
    way = Way(base, privacy=privacy, training={"steps": 1, "optimizer": "sgd"}).go()
    following = way.following()
    for round_ in (1, 2, 3):
        way.adopt(following, round_)
    assert following.rerun == 2


@pytest.mark.promise("countersign-follows")
@pytest.mark.parametrize("off", [1e-3, -1e-4, np.nan])
def test_a_value_off_is_found(base: BaseModel, off: float) -> None:
    way = Way(base).go()
    following = way.following()
    way.adopt(following, 1)
    state = way.states[1].copy()
    state[7] += np.float32(off)
    with refusal("protocol.step"):
        way.adopt(following, 2, state=state)
    state[7] = way.states[1][7] * np.float32(1 + 1e-7)  # what another machine may make of it
    way.adopt(following, 2, state=state)
    assert following.rerun == 1


def test_the_first_state_is_the_computation_s_own(base: BaseModel) -> None:
    way = Way(base)
    with refusal("protocol.step"):
        way.adopt(way.following(), 1, state=way.states[0] + np.float32(0.01))


def test_one_round_has_one_state(base: BaseModel) -> None:
    way = Way(base).go()
    following = way.following()
    way.adopt(following, 1)
    with refusal("protocol.step"):
        way.adopt(following, 1, digest="another")


def test_a_sum_over_no_site_or_of_another_length_is_refused(base: BaseModel) -> None:
    way = Way(base).go()
    following = way.following()
    way.adopt(following, 1)
    body = pack("state", way.states[1])
    with refusal("protocol.step"):
        following.adopt(2, "s", body, Published(way.published(1).body, 0))
    with refusal("protocol.body"):
        following.adopt(2, "s", body, Published(pack("total", np.zeros(3)), SITES))


@pytest.mark.parametrize(
    ("strategy", "rerun"), [("FedAvg", 2), ("FedAvgM", 2), ("FedAdam", 1), ("FedYogi", 1)]
)
def test_after_a_round_that_was_missed_only_steps_without_memory_are_re_run(
    base: BaseModel, strategy: str, rerun: int
) -> None:
    way = Way(base, federation={"server": {"strategy": strategy, "options": {}}}).go(5)
    following = way.following()
    for round_ in (1, 2, 4, 5):  # not 3
        way.adopt(following, round_)
    assert following.rerun == rerun


def test_what_was_not_published_or_has_no_rule_is_not_re_run_and_nobody_s_fault(base: BaseModel) -> None:
    way = Way(base).go()
    following = way.following()
    for round_ in (1, 2, 3):
        way.adopt(following, round_, total=False)
    assert following.rerun == 0
    other = Way(base, federation={"server": {"strategy": "FedAdagrad", "options": {}}}).go()
    following = other.following()
    for round_ in (1, 2, 3):
        other.adopt(following, round_)
    assert following.rerun == 0


def test_after_a_restart_the_rounds_before_are_not_known(base: BaseModel) -> None:
    way = Way(base).go()
    following = way.following()
    way.adopt(following, 2)
    way.adopt(following, 3)
    assert (following.rerun, following.complete) == (1, False)


# -- a run that may end early ----------------------------------------------------------------------

STOP = {"share": 0.1, "patience": 2}
LOSSES = [1.0, 0.5, 0.75, 0.625]


def concluded(way: Way, following: Following, *, missed: bool = False, **changes: Any) -> None:
    """Follow a run of four rounds, of which the state after the first is the best, to its stated end."""
    for round_ in (1, 2, 3, 4):
        way.adopt(following, round_, total=not (missed and round_ == 3))
    held = Choice.of(Stop.model_validate(STOP), LOSSES).as_json() | changes.pop("held_back", {})
    bodies = {"state": pack("state", way.states[changes.pop("state", 1)]), "total": way.published(4).body}
    stated = {"rounds": 4, "state": "state 2", "held_back": HeldBack(**held)} | changes
    total = Total(digest="0" * 64, size=len(bodies["total"]), sites=SITES)
    result: Any = SimpleNamespace(**stated, total=total)
    state = following.conclude(
        result, lambda digest, _: bodies["total" if digest == total.digest else "state"]
    )
    assert np.array_equal(state, way.states[1])


def test_the_end_and_the_choice_of_an_honest_run_are_re_run(base: BaseModel) -> None:
    way = Way(base, federation={"rounds": 9, "stop": STOP}).go(4, LOSSES)
    following = way.following()
    concluded(way, following)
    assert following.rerun == 4


def test_who_missed_a_total_counts_no_choice_as_re_run(base: BaseModel) -> None:
    way = Way(base, federation={"rounds": 9, "stop": STOP}).go(4, LOSSES)
    following = way.following()
    concluded(way, following, missed=True, held_back={"losses": [9.0] * 4})  # it cannot know
    assert following.rerun == 2


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({"held_back": {"losses": [1.0, 0.5, 0.75, 0.4]}}, "other losses"),
        ({"held_back": {"after": 2}}, "other losses of held back rows, or another choice"),
        ({"held_back": {"release": "last"}}, "other losses"),
    ],
)
def test_another_end_or_choice_is_refused(base: BaseModel, changes: dict[str, Any], how: str) -> None:
    way = Way(base, federation={"rounds": 9, "stop": STOP}).go(4, LOSSES)
    with refusal("protocol.step") as caught:
        concluded(way, way.following(), **changes)
    assert how in caught.value.message


def test_a_run_that_ends_for_no_reason_is_refused(base: BaseModel) -> None:
    way = Way(base, federation={"rounds": 9, "stop": STOP | {"patience": 3}}).go(4, LOSSES)
    with refusal("protocol.step") as caught:
        concluded(way, way.following())
    assert "no reason to end after 4 rounds" in caught.value.message
