"""Row 41. Attack: a state is published again in a run, with no total or a false one, over other survivors.

Must hold: totals carry a tag that the coordinator cannot make; no verified total, no next round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks import FOUR, never, refusal
from in_memory import Federation
from plasmid.gateway.following import Following
from plasmid.privacy import tags
from plasmid.privacy.ring import decode_sum
from plasmid.protocol.body import unpack
from plasmid.protocol.messages import Manifest, Start, Total
from plasmid.recipes.query import PingDocument

THREE = ("alpha", "beta", "gamma")
VECTORS = {site: np.full(6, 2.0**-index, np.float32) for index, site in enumerate(FOUR)}


def summed(tmp_path: Path, rounds: int = 3) -> Federation:
    """Return a federation whose first round was summed over all four."""
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=rounds), sites=FOUR)
    federation.set_up()
    manifest = federation.manifest()
    federation.open_sum(list(federation.answers(manifest, VECTORS).values()), manifest)
    return federation


def again(federation: Federation, total: Total | None) -> Manifest:
    """Return round 2 at the state of round 1, over those who are left when delta 'fell silent'."""
    state = federation.start(1).state
    return federation.manifest(2, state=state, total=total, invited=list(THREE))


def forged(federation: Federation, what: str) -> Total | None:
    """Return what the coordinator says that the first round's total was."""
    true = federation.totals[1]
    body = federation.bodies[true.digest]
    words = unpack(body, "total", length=10, dtype=federation.manifest().encoding().dtype).copy()
    tag = tags.read_tag(true.tag or b"")
    match what:
        case "none":
            return None
        case "zeros, with the tag of zeros":
            return federation.published(np.zeros_like(words), FOUR, bytes(8))
        case "zeros, with the true tag":
            return federation.published(np.zeros_like(words), FOUR, true.tag)
        case "twice the sum":
            return federation.published(2 * words, FOUR, tags.pack_tag(2 * tag % tags.P))
        case "one step less":
            words[0] -= 1
            return federation.published(words, FOUR, true.tag)
        case _:
            return true.model_copy(update={"survivors": list(THREE)})


FORGED = [
    "none", "zeros, with the tag of zeros", "zeros, with the true tag", "twice the sum", "one step less",
    "other survivors",
]  # fmt: skip


@pytest.mark.promise("one-sum")
@pytest.mark.parametrize("what", FORGED)
def test_no_site_computes_at_a_state_that_no_true_total_gives(tmp_path: Path, what: str) -> None:
    federation = summed(tmp_path)
    said = again(federation, forged(federation, what))
    for site in THREE:
        with refusal("protocol.manifest" if what == "none" else "protocol.step"):
            federation.gateways[site].contribute(said, never)
    if what != "none":  # nor at any other state of that run, from now on
        assert federation.admit("alpha").code == "protocol.step"


def test_a_state_that_stays_is_refused_with_the_true_total_too(tmp_path: Path) -> None:
    federation = summed(tmp_path)
    said = again(federation, federation.totals[1])
    for site in THREE:
        with refusal("protocol.step"):
            federation.gateways[site].contribute(said, never)


def believing(patch: pytest.MonkeyPatch, *, tags_too: bool) -> None:
    """Weaken every site: any total is believed, or any state at all."""
    patch.setattr(Following, "_check_total", staticmethod(lambda *_: None))
    patch.setattr(Following, "check_near", lambda *_: None)
    if not tags_too:
        return

    def take(self: Following, start: Start, fetch: Any) -> Any:
        body = fetch(start.state, start.state_bytes)
        state = unpack(body, "state", length=self._shape.state.size, dtype=self._shape.dtype)
        self._at, self.verified = (start.round, start.state, state), True
        return state

    patch.setattr(Following, "take", take)


@pytest.mark.parametrize("any_state", [False, True])
def test_control_two_sums_at_one_state_give_the_difference_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_state: bool
) -> None:
    """Sites without the check of tags believe zeros: delta's vector, to the last bit, and nothing refused."""
    federation = summed(tmp_path)
    first = decode_sum(
        unpack(
            federation.bodies[federation.totals[1].digest],
            "total",
            length=10,
            dtype=federation.manifest().encoding().dtype,
        ),
        federation.manifest().encoding(),
        4,
    )
    believing(monkeypatch, tags_too=any_state)
    said = again(federation, forged(federation, "zeros, with the tag of zeros"))
    answers = federation.answers(said, {site: VECTORS[site] for site in THREE})
    second = decode_sum(federation.open_sum(list(answers.values()), said), said.encoding(), 3)
    assert (first - second).tolist() == VECTORS["delta"].tolist()


def test_a_next_round_that_moved_nothing_is_not_summed_over_fewer(tmp_path: Path) -> None:
    """Honest totals, and a state that stays all the same: the updates add up to nothing."""
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=3), sites=FOUR)
    federation.set_up()
    up = np.full(6, 0.5, np.float32)
    first = federation.manifest()
    answers = federation.answers(first, {"alpha": up, "beta": -up, "gamma": up, "delta": -up})
    federation.open_sum(list(answers.values()), first)
    second = federation.manifest(2)
    answers = federation.answers(second, dict.fromkeys(FOUR, up))
    with refusal("protocol.near_state"):
        federation.consents([answers[site] for site in THREE], slot=1)
    assert len(federation.consents(list(answers.values()), slot=1)) == 4  # control: over the same sites


def test_a_wrong_part_of_the_group_s_key_ends_the_epoch_and_names_its_site(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=2), sites=FOUR)
    federation.admit_all()
    adverts = federation.adverts()
    epoch = federation.gateways["beta"].run(federation.run).epoch
    assert epoch is not None
    epoch._given = bytes(32)
    inbox = federation.bundles(adverts)
    with refusal("protocol.bundles") as caught:
        federation.gateways["alpha"].relay(federation.relay("bundle", inbox["alpha"]))
    assert "beta gave another part of the group's key" in caught.value.message


@pytest.mark.limit("a coordinator that works with one site has the group's key and can forge a total")
def test_a_limit_a_colluding_site_s_key_forges_a_total(tmp_path: Path) -> None:
    federation = summed(tmp_path)
    epoch = federation.gateways["delta"].run(federation.run).epoch
    assert epoch is not None
    first = federation.manifest()
    zeros = np.zeros(10, first.encoding().dtype)
    tag = tags.pack_tag(tags.tag(epoch.group_key, first.digest(), zeros, FOUR))
    said = again(federation, federation.published(zeros, FOUR, tag))
    assert federation.gateways["alpha"].contribute(said, lambda _: VECTORS["alpha"]).body
