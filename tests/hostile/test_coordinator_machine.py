"""A coordinator and a colluding site play any schedule against real gateways; hypothesis looks for a breach.

Each control plays the same schedules against gateways with one defence off, and must find what that lets
through. ``make fuzz NAME=coordinator_machine`` plays for ten minutes.
"""

from __future__ import annotations

import pytest

from hostile.coordinator_machine import machine
from hostile.playing import play, play_long

OTHERS = frozenset({"slots_mask_once", "sums_are_charged", "sums_are_of_their_survivors"})


@pytest.mark.parametrize("unit", [False, True], ids=["no unit", "unit"])
def test_no_schedule_breaks_what_must_hold(unit: bool) -> None:
    made = machine(unit=unit)
    play(made, schedules=15, steps=20)
    counts = made.counts
    # it got somewhere: past admission, past consent, and against each kind of refusal
    assert counts["steps"] > 300
    assert counts["sums"] > 5
    refusals = {
        "protocol.adverts", "protocol.consents", "protocol.epoch_used", "protocol.manifest", "protocol.ready",
        "protocol.slot_used", "protocol.step",
    }  # fmt: skip
    assert refusals <= {name for name, count in counts.items() if count}


# -- controls --------------------------------------------------------------------------------------


def test_control_sites_that_take_any_state_give_a_vector_away() -> None:
    """Round 2 from round 1's state over other survivors: the difference of the two sums is of few sites."""
    with pytest.raises(AssertionError, match="shared_states: two sums from near states"):
        play(machine(without="state", unchecked=OTHERS | {"unverified_states"}), schedules=150, steps=20)


def test_control_sites_that_take_any_state_compute_from_an_unverified_one() -> None:
    with pytest.raises(AssertionError, match=r"unverified_states: .* which follows from no sum"):
        play(machine(without="state", unchecked=OTHERS | {"shared_states"}), schedules=150, steps=20)


def test_control_sites_that_forget_epochs_mask_twice_in_one_slot() -> None:
    with pytest.raises(AssertionError, match=r"slots_mask_once: .* masked 2 vectors"):
        play(machine(without="epochs"), schedules=150, steps=20)


def test_control_sites_that_charge_nothing_are_in_sums_for_free() -> None:
    with pytest.raises(AssertionError, match=r"sums_are_charged: .* charged nothing"):
        play(machine(unit=True, without="charge"), schedules=150, steps=20)


def test_a_long_run_tells_what_it_did() -> None:
    counts, broken = play_long(unit=False, schedules=1, steps=3, seconds=5.0, number=1)
    assert broken == []
    assert counts["schedules"] >= 1
    assert counts["invariants checked"] > counts["schedules"]
