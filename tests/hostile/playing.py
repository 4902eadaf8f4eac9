"""Play a machine's schedules: so many, or for so long."""

from __future__ import annotations

import time

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from hostile.coordinator_machine import CoordinatorMachine

_BATCH = 5
"""Schedules before the clock is looked at."""


def play(made: type[CoordinatorMachine], *, schedules: int, steps: int, number: int | None = None) -> None:
    """Play so many schedules of *steps* steps; always the same ones, or those of a seed *number*.

    Raises
    ------
    AssertionError
        An invariant broke; the note of the error is the schedule.
    """
    chosen = settings(
        max_examples=schedules,
        stateful_step_count=steps,
        deadline=None,
        derandomize=number is None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    play_one = made if number is None else seed(number)(made)
    run_state_machine_as_test(play_one, settings=chosen)


def play_long(
    made: type[CoordinatorMachine], *, schedules: int, steps: int, seconds: float, number: int
) -> list[str]:
    """Play until *schedules* or *seconds* are used up; return a schedule that broke something."""
    begun = time.monotonic()
    while made.counts["schedules"] < schedules and time.monotonic() - begun < seconds:
        try:
            play(made, schedules=_BATCH, steps=steps, number=number)
        except Exception as error:  # noqa: BLE001 - whatever a gateway raises that is no refusal is a finding, too
            return ["\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])]
        number += 1
    return []
