"""Where every schedule begins: one for a process, since it takes longer than a schedule."""

from __future__ import annotations

from functools import cache

from fuzz.registry import scratch
from hostile.coordinator import Coordinator
from hostile.world import World


@cache
def stage(*, unit: bool) -> Coordinator:
    """Return a coordinator whose runs have begun, over a world that begins again there."""
    world = World(scratch() / f"hostile-{unit}", unit=unit)
    made = Coordinator(world)
    with world.playing():
        made.begin()
    world.keep()
    return made
