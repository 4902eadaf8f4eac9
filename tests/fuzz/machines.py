"""State machines that are played beside the parsers that are fed: ``make fuzz NAME=coordinator_machine``.

An input is a schedule; it is *taken* if the coordinator opened a sum in it, or several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from fuzz.runner import Outcome
from hostile.playing import play_long

STEPS = 40
"""Of one schedule at most."""


def _coordinator(name: str, *, unit: bool, inputs: int, seconds: float, seed: int) -> Outcome:
    begun = time.monotonic()
    counts, broken = play_long(unit=unit, schedules=inputs, steps=STEPS, seconds=seconds, number=seed)
    refused = {code: count for code, count in counts.items() if "." in code}
    did = {code: count for code, count in counts.items() if "." not in code}
    return Outcome(
        name,
        inputs=counts["schedules"],
        taken=counts["schedules with a sum"],
        refused=refused,
        crashes=broken,
        seconds=time.monotonic() - begun,
        did=did,
    )


MACHINES: dict[str, Callable[..., Outcome]] = {
    "coordinator_machine": partial(_coordinator, "coordinator_machine", unit=False),
    "coordinator_machine, unit": partial(_coordinator, "coordinator_machine, unit", unit=True),
}
"""By name: plays until *inputs* schedules or *seconds* are used up, from *seed* on."""
