"""A coordinator and a colluding site play any schedule against real gateways; hypothesis looks for a breach.

Each control plays the same schedules against gateways with one defence off, and must find what that lets
through, whatever the seed. ``make fuzz NAME=coordinator_machine`` plays for ten minutes.
"""

from __future__ import annotations

import pytest

from fuzz.machines import play_coordinator
from hostile.coordinator_machine import machine
from hostile.invariants import INVARIANTS
from hostile.playing import play

SCHEDULES = 6
TWO_SUMS = r"shared_states: two sums from near states, .* differ by"
UNVERIFIED = r"(unverified_states|signed_states): .* (follows from no sum|it did not verify)"

seeds = pytest.mark.parametrize(
    "number", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)


def test_no_schedule_breaks_what_must_hold() -> None:
    made = machine()
    play(made, schedules=15, steps=20)
    counts = made.counts
    # it got somewhere: past admission, past consent, and against each kind of refusal
    assert counts["steps"] > 300
    assert counts["opened sums"] > 5
    refusals = {
        "opening: protocol.adverts", "protocol.consents", "protocol.epoch_used", "protocol.manifest",
        "protocol.near_state", "protocol.ready", "protocol.slot_used", "protocol.step", "protocol.unverified",
    }  # fmt: skip
    assert refusals <= {name for name, count in counts.items() if count}


@pytest.mark.parametrize("changes", [{"settles": True}, {"unit": True}], ids=["settling", "unit"])
def test_nor_where_states_settle_or_a_unit_is_charged(changes: dict[str, bool]) -> None:
    made = machine(**changes)
    play(made, schedules=SCHEDULES, steps=20)
    counts = made.counts
    assert counts["steps"] > 40
    assert counts["opened sums"] > 5
    refusals = {"protocol.epoch_used", "protocol.ready", "protocol.slot_used"}
    assert refusals <= {name for name, count in counts.items() if count}


# -- controls --------------------------------------------------------------------------------------


def only(*names: str) -> frozenset[str]:
    """Return the invariants that are not looked at where those of *names* are."""
    return frozenset(one.__name__ for one in INVARIANTS) - set(names)


@seeds
def test_control_sites_that_take_any_state_give_a_vector_away(number: int) -> None:
    """Round 2 from round 1's state over other survivors: the difference of the two sums is of few sites."""
    made = machine(without="state", unchecked=only("shared_states"))
    with pytest.raises(AssertionError, match=TWO_SUMS):
        play(made, schedules=40, steps=20, number=number)


@seeds
def test_control_sites_that_take_any_state_compute_from_an_unverified_one(number: int) -> None:
    unchecked = only("unverified_states", "signed_states")
    with pytest.raises(AssertionError, match=UNVERIFIED):
        play(machine(without="state", unchecked=unchecked), schedules=40, steps=20, number=number)


@seeds
def test_control_sites_that_check_no_tag_believe_a_forged_total(number: int) -> None:
    """Nothing else is off: the step is re-run, from zeros, from k times the sum, from a word changed."""
    with pytest.raises(AssertionError, match=UNVERIFIED):
        play(machine(without="tag"), schedules=40, steps=20, number=number)


@seeds
def test_control_sites_that_draw_no_samples_believe_the_colluder_s_key(number: int) -> None:
    """Every tag is verified: the colluder's key makes the right one of zeros, of k times the sum ..."""
    unchecked = only("unverified_states", "signed_states")
    with pytest.raises(AssertionError, match=UNVERIFIED):
        play(machine(without="samples", unchecked=unchecked), schedules=40, steps=20, number=number)


@seeds
def test_control_sites_that_sign_on_the_tag_alone_are_summed_anywhere(number: int) -> None:
    """A round that all answer and that is never summed: the total is made up, and its tag is right."""
    with pytest.raises(AssertionError, match=r"sums_follow: round . was summed over .* follows from no sum"):
        play(
            machine(without="tag alone", unchecked=only("sums_follow")), schedules=40, steps=20, number=number
        )


@seeds
def test_control_sites_that_allow_near_states_give_a_vector_away(number: int) -> None:
    """Every total is true: the states of a run that is as good as trained come near each other."""
    with pytest.raises(AssertionError, match=TWO_SUMS):
        play(machine(without="near", settles=True), schedules=120, steps=20, number=number)


@seeds
def test_control_sites_that_forget_epochs_mask_twice_in_one_slot(number: int) -> None:
    with pytest.raises(AssertionError, match=r"slots_mask_once: .* masked 2 vectors"):
        play(machine(without="epochs"), schedules=40, steps=20, number=number)


@seeds
def test_control_sites_that_charge_nothing_are_in_sums_for_free(number: int) -> None:
    with pytest.raises(AssertionError, match=r"sums_are_charged: .* charged nothing"):
        play(machine(unit=True, without="charge"), schedules=40, steps=20, number=number)


# -- the long run ----------------------------------------------------------------------------------


def test_a_long_run_tells_what_it_did() -> None:
    outcome = play_coordinator("machine", machine(), inputs=1, seconds=5.0, seed=1)
    assert not outcome.failed()
    assert outcome.did["steps"] >= outcome.did["schedules"] >= 1
    assert outcome.did["invariants checked"] == len(INVARIANTS) * outcome.did["steps"]
    assert {"opened sums", *(f"refused: {code}" for code in outcome.refused)} <= set(outcome.did)
    assert "invariants checked" in outcome.line()


def test_a_long_run_fails_on_a_breach_and_shows_the_schedule() -> None:
    outcome = play_coordinator("machine", machine(without="state"), inputs=40, seconds=60.0, seed=1)
    assert outcome.failed()
    assert "state = Machine()" in outcome.crashes[0]
