"""Following the states of a run: what follows, what does not, and what cannot be said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.bases.store import BaseModel
from plasmid.computations import api, finetune
from plasmid.core.canonical import sha256_hex
from plasmid.dp.rotation import rotate
from plasmid.gateway.totals import Answered
from plasmid.gateway.verify_states import Following
from plasmid.protocol.body import pack
from plasmid.protocol.messages import Start, Total
from plasmid.recipes.beside import advanced, shape_of
from plasmid.recipes.schema import Recipe
from plasmid.recipes.stopping import MOST_LOSS, Choice, Stop
from plasmid.release.attestation import HeldBack
from plasmid.release.server_step import server_step
from plasmid.secagg import tags
from plasmid.secagg.ring import TAIL, Encoding
from plasmid.secagg.statements import Verified
from support.federation.attacks import refusal
from support.federation.in_memory import document_of
from support.federation.sampling import Contributions, contributions
from support.tiny.tiny_task import tiny_recipe

NAMES = ("alpha", "beta", "gamma")
SITES = len(NAMES)
KEY, SCALE, RUN = bytes(range(32)), 32, "run-1"


def manifest_of(round_: int) -> str:
    """Return the digest of the manifest that was answered in *round_*."""
    return sha256_hex(f"manifest {round_}".encode())


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
        self.bodies: dict[str, bytes] = {}

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

    def words(self, round_: int) -> np.ndarray:
        """Return the sum of *round_* in the ring, tail included."""
        total = self.totals[round_ - 1]
        if self.document.privacy.rotation == "hadamard":
            total = rotate(total, seed=bytes.fromhex(self.digest))
        steps = np.rint(total * 2.0**SCALE).astype(np.int64)
        return np.concatenate([steps, np.zeros(TAIL, np.int64)]).view(np.uint64)

    def total(self, round_: int, **changes: Any) -> Total:
        """Return what an honest coordinator says of the sum of *round_*."""
        words, h = changes.pop("words", self.words(round_)), manifest_of(round_)
        body = pack("total", words)
        tag = tags.pack_tag(tags.tag(KEY, h, words, NAMES))
        self.bodies[sha256_hex(body)] = body
        said = {"digest": sha256_hex(body), "size": len(body), "survivors": list(NAMES), "tag": tag}
        return Total(**said | changes)

    def following(self) -> Following:
        return Following(self.document, self.digest, self.shape)

    def contributions(self, round_: int) -> Contributions:
        """Return masked vectors whose sum is that of *round_*."""
        return contributions(self.words(round_), NAMES, manifest_of(round_), seed=round_)

    def sample(self, run: str, manifest: str, part: str, size: int) -> bytes:
        (round_,) = (r for r in range(1, len(self.totals) + 1) if manifest_of(r) == manifest)
        found = self.contributions(round_).part(part)
        assert (run, len(found)) == (RUN, size)
        return found

    def download(self, digest: str, size: int) -> bytes:
        assert len(self.bodies[digest]) == size
        return self.bodies[digest]

    def start(self, round_: int, **changes: Any) -> Start:
        """Return what the manifest of *round_* says of its state."""
        state = changes.pop("state", None)
        body = pack("state", self.states[round_ - 1] if state is None else state)
        self.bodies[sha256_hex(body)] = body
        total = self.total(round_ - 1) if round_ > 1 else None
        said = {"round": round_, "state": sha256_hex(body), "state_bytes": len(body), "total": total}
        return Start(**said | changes)

    def verified(self, round_: int) -> Verified:
        """Return the statement of a site that has verified the state of *round_*."""
        return Verified(round=round_, state=self.start(round_).state, needs=3)

    def answer(self, following: Following, round_: int, *, consents: bool = True) -> None:
        """Have the site contribute to *round_*, and agree to its sum unless it was too late for that."""
        size = self.totals[0].size if self.document.privacy.rotation == "none" else self.words(1).size - TAIL
        following.answered[round_] = Answered(
            run=RUN,
            manifest=manifest_of(round_),
            state="",
            honest=2,
            invited=NAMES,
            encoding=Encoding(bits=64, scale_log2=SCALE, bound=2.0**10, length=size),
            key=KEY if self.document.privacy.protect == "masked" else b"",
            needs=3,
        )
        if consents:
            following.consented(round_, self.contributions(round_).shown())

    def adopt(self, following: Following, round_: int, *, answers: bool = True, **changes: Any) -> None:
        """Take the state of *round_*, and contribute to the round."""
        following.take(self.start(round_, **changes), self)
        if answers and round_ <= len(self.totals):
            self.answer(following, round_)


@pytest.fixture
def base(tiny: dict[str, BaseModel]) -> BaseModel:
    return tiny["bert"]


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"])
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
        way.adopt(following, 1, state=way.states[0] + np.float32(1e-8))


def test_a_sum_over_other_sites_or_of_another_length_is_refused(base: BaseModel) -> None:
    way = Way(base).go()
    for changes in ({"survivors": list(NAMES[:2])}, {"survivors": [*NAMES, "delta"]}, {"size": 100}):
        following = way.following()
        way.adopt(following, 1)
        with refusal("protocol.step"):
            way.adopt(following, 2, total=way.total(1, **changes))


@pytest.mark.parametrize(
    "forged", ["zeros", "twice the sum", "one step more", "no tag", "another tag", "of another round"]
)
def test_a_total_that_is_not_the_sum_is_refused(base: BaseModel, forged: str) -> None:
    """With the state that would follow from it: state + 0 = state, the attack of two sums at one state."""
    way = Way(base).go()
    words = way.words(1)
    more, known = words.copy(), tags.read_tag(way.total(1).tag or b"")
    more[3] += np.uint64(1)
    total = {
        "zeros": way.total(1, words=np.zeros_like(words), tag=bytes(8)),
        "twice the sum": way.total(1, words=2 * words, tag=tags.pack_tag(2 * known % tags.P)),
        "one step more": way.total(1, words=more, tag=way.total(1).tag),
        "no tag": way.total(1, tag=None),
        "another tag": way.total(1, tag=bytes(7) + b"\1"),
        "of another round": way.total(2),
    }[forged]
    following = way.following()
    way.adopt(following, 1)
    state = way.states[0] if forged == "zeros" else way.states[1]
    with refusal("protocol.step"):
        way.adopt(following, 2, state=state, total=total)
    way.adopt(following, 2)  # control
    assert following.rerun == 1


def test_who_was_too_late_to_agree_verifies_the_tag_and_signs_nothing(base: BaseModel) -> None:
    """It goes on, and counts again once it has agreed to a sum: a tag alone may be a colluder's."""
    way = Way(base).go()
    following = way.following()
    way.adopt(following, 1, answers=False)
    way.answer(following, 1, consents=False)
    with refusal("protocol.step"):
        way.adopt(following, 2, total=way.total(1, words=way.words(2), tag=way.total(1).tag))
    way.adopt(following, 2)
    assert (following.rerun, following.verified, following.statement) == (0, False, None)
    way.adopt(following, 3)
    assert (following.rerun, following.verified, following.statement) == (1, True, way.verified(3))


@pytest.mark.parametrize(
    ("strategy", "rerun"), [("FedAvg", 2), ("FedAvgM", 2), ("FedAdagrad", 1), ("FedAdam", 1), ("FedYogi", 1)]
)
def test_after_a_round_that_was_missed_only_steps_without_memory_are_re_run(
    base: BaseModel, strategy: str, rerun: int
) -> None:
    way = Way(base, federation={"server": {"strategy": strategy, "options": {}}}).go(5)
    following = way.following()
    for round_ in (1, 2):
        way.adopt(following, round_)
    following.begin(way.start(4), way)  # a new epoch: the site was away in round 3
    following.follow([None, *3 * [way.verified(4)]], c=1)
    for round_ in (4, 5):
        way.adopt(following, round_)
        assert following.verified == (round_ == 4 or rerun == 2)
    assert following.rerun == rerun


def test_no_state_is_taken_on_trust(base: BaseModel) -> None:
    """A site that missed a round, or was restarted, computes nothing at what the coordinator says."""
    way = Way(base).go()
    with refusal("protocol.unverified"):
        way.adopt(way.following(), 2)
    following = way.following()
    way.adopt(following, 1)
    with refusal("protocol.unverified"):
        way.adopt(following, 3)
    following.begin(way.start(3), way)
    with refusal("protocol.unverified"):
        way.adopt(following, 3)


def test_a_site_that_comes_back_follows_what_theta_sites_have_verified(base: BaseModel) -> None:
    way = Way(base).go()
    said, other = way.verified(3), way.verified(2)
    for few in ([], [said] * 2, [other] * 3, [said, said, other], [None] * 4):
        following = way.following()
        following.begin(way.start(3), way)
        with refusal("protocol.unverified"):
            following.follow(few, c=1)
        with refusal("protocol.unverified"):
            way.adopt(following, 3)
    following.begin(way.start(3), way)
    following.follow([said] * 3, c=1)
    with refusal("protocol.unverified"):
        way.adopt(following, 3, state=way.states[1])  # another one than they have signed
    way.adopt(following, 3)
    assert (following.rerun, following.complete, following.statement) == (0, False, None)


def test_colluding_sites_vouch_for_nothing_by_a_small_threshold(base: BaseModel) -> None:
    way = Way(base).go()
    following = way.following()
    following.begin(way.start(3), way)
    with refusal("protocol.unverified"):
        following.follow(2 * [way.verified(3).model_copy(update={"needs": 1})], c=2)


def test_a_site_says_itself_what_it_has_verified(base: BaseModel) -> None:
    way = Way(base).go()
    following = way.following()
    way.adopt(following, 1)
    assert following.statement is None  # everybody verifies the first state
    way.adopt(following, 2)
    assert following.statement == way.verified(2)
    following.begin(way.start(3), way)
    assert following.statement == way.verified(3)
    assert following.rerun == 2


def test_without_masks_what_was_missed_is_counted_as_not_re_run(base: BaseModel) -> None:
    way = Way(base, privacy=UNMASKED).go()
    following = way.following()
    for round_ in (1, 3, 4):
        way.adopt(following, round_)
    assert (following.rerun, following.verified) == (1, True)
    restarted = way.following()
    way.adopt(restarted, 2)
    way.adopt(restarted, 3)
    assert (restarted.rerun, restarted.complete) == (1, False)


UNMASKED = {
    "protect": "none", "unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-6,
    "record_clip": 1.0,
}  # fmt: skip


# -- nearly the same state -------------------------------------------------------------------------


def test_no_two_sums_at_nearly_one_state_over_different_sites(base: BaseModel) -> None:
    way = Way(base).go()
    norm = float(np.linalg.norm(way.states[0]))
    for distance, near in ((0.0, True), (0.9e-3, True), (1.1e-3, False)):
        following = way.following()
        way.adopt(following, 1)
        way.states[1] = way.states[0].copy()
        way.states[1][:] += np.float32(distance * norm / np.sqrt(way.states[0].size))
        following._at = (2, "of round 2", way.states[1])
        following.check_near(2, NAMES)  # over the same sites it tells nothing
        if near:
            with refusal("protocol.near_state"):
                following.check_near(2, NAMES[:2])
        else:
            following.check_near(2, NAMES[:2])


def test_under_a_unit_every_sum_is_charged_instead(base: BaseModel) -> None:
    way = Way(base, privacy=UNMASKED | {"protect": "masked"}).go()
    following = way.following()
    way.adopt(following, 1)
    following.check_near(1, NAMES[:2])


# -- a run that may end early ----------------------------------------------------------------------

STOP = {"share": 0.1, "patience": 2}
LOSSES = [1.0, 0.5, 0.75, 0.625]


def concluded(way: Way, following: Following, *, missed: bool = False, **changes: Any) -> None:
    """Follow a run of four rounds, of which the state after the first is the best, to its stated end."""
    for round_ in (1, 2) if missed else (1, 2, 3, 4):
        way.adopt(following, round_)
    if missed:
        following.begin(way.start(4), way)
        following.follow(3 * [way.verified(4)], c=1)
        way.adopt(following, 4)
    held = Choice.of(Stop.model_validate(STOP), LOSSES).as_json() | changes.pop("held_back", {})
    best = way.start(2).state
    stated = {"rounds": 4, "state": best, "held_back": HeldBack(**held), "near_state": False} | changes
    result: Any = SimpleNamespace(**stated, total=way.total(4))
    state = following.conclude(result, way)
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
    assert following.rerun == 1


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
    concluded(way, way.following(), near_state=True)  # the only other one
