"""``link``: a no-op round over the real link, beside Flower's SuperLink with three SuperNodes.

Rules
-----
1. Both sides: three sites as processes of their own on loopback, 4 MB of float32 in each direction,
   no training. Ours with TLS, signatures and masks on; Flower as ``bench.peers.flower_link`` says.
2. Our side is ``bench.ours.link.measure(rounds)``; it returns ``steady_round_s``, the median seconds of a
   round after the first, and ``start_to_three_rounds_s``, as the peer's does.
3. The clock of the start begins with the first site's process, coordinator and SuperLink being up.
"""

from __future__ import annotations

from bench.harness import Result
from bench.ours.link import measure as measure_ours
from bench.peers.flower_link import measure as measure_flower

_OUR_ROUNDS = 30
_FLOWER_ROUNDS = 8


def main() -> list[Result]:
    """Measure both sides, ours first, and return the two figures that have a goal."""
    ours = measure_ours(_OUR_ROUNDS)
    flower = measure_flower(_FLOWER_ROUNDS)
    return [
        Result.times_better(
            "steady round, three sites, 4 MB each way (median)",
            ours=ours.steady_round_s,
            peer=flower.steady_round_s,
            unit="s",
            goal=50.0,
        ),
        Result.share(
            "from starting the sites to three rounds done",
            ours=ours.start_to_three_rounds_s,
            peer=flower.start_to_three_rounds_s,
            unit="s",
            goal=0.25,
        ),
    ]
