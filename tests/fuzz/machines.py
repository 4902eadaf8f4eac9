"""State machines that are played beside the parsers that are fed: ``make fuzz NAME=coordinator_machine``.

An input is a schedule; it is *taken* if the coordinator opened a sum in it, or several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from fuzz.runner import Outcome
from hostile.coordinator_machine import CoordinatorMachine, machine
from hostile.playing import play_long

STEPS = 40
"""Of one schedule at most."""


def play_coordinator(
    name: str, made: type[CoordinatorMachine], *, inputs: int, seconds: float, seed: int
) -> Outcome:
    """Play *made*; say what it did, refusals by code included, and the schedule that broke something."""
    begun = time.monotonic()
    broken = play_long(made, schedules=inputs, steps=STEPS, seconds=seconds, number=seed)
    counts = made.counts
    refused = {code: count for code, count in counts.items() if "." in code}
    did = {code: count for code, count in counts.items() if "." not in code}
    return Outcome(
        name,
        inputs=counts["schedules"],
        taken=counts["schedules with an opened sum"],
        refused=refused,
        crashes=broken,
        seconds=time.monotonic() - begun,
        did=did | {f"refused: {code}": count for code, count in refused.items()},
    )


MACHINES: dict[str, Callable[..., Outcome]] = {
    name: partial(play_coordinator, name, machine(**changes))
    for name, changes in {
        "coordinator_machine": {},
        "coordinator_machine, settling": {"settles": True},
        "coordinator_machine, unit": {"unit": True},
    }.items()
}
"""By name: plays until *inputs* schedules or *seconds* are used up, from *seed* on."""
