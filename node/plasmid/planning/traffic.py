"""How many bytes a run moves between one site and the coordinator, before it starts.

Rules
-----
1. Bodies (a site's words, the state, the published total) follow from the document, the shape and the number
   of sites, to the byte: they are what both ends check. The last state is sent, too, after the last round.
2. Messages (manifest, signed statements and their relays, polls, heartbeats, with HTTP and TLS round them)
   are a model: what was counted on the wire at 3, 6 and 10 sites. Every site is shown every site's
   statements, so they grow with the sites, and their part of the sum matters for small adapters only.
3. A retried request, and rounds that take longer than a poll, cost more than this.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from plasmid.computations.api import Shape
from plasmid.planner.attempts import AttemptPlan
from plasmid.protocol.body import body_bytes
from plasmid.secagg.ring import TAIL

UP_MESSAGES = (4_800, 100)
DOWN_MESSAGES = (5_000, 1_000)
"""Bytes of a round's messages: so many, and so many more for each site of the round."""
UP_ONCE = (4_000, 10_000)
DOWN_ONCE = (21_000, 13_000)
"""Bytes of all messages before the first round: enrolment, admission and one key epoch."""
PULSE_BYTES_S = 550
"""Of heartbeats and their answers, each way, for each second of a round."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one site, by direction: up is from the site.

    Attributes
    ----------
    bodies_up, bodies_down
        The bodies of a round.
    messages_up, messages_down
        The rest of a round.
    once_up, once_down
        Before the first round, and after the last one.
    """

    rounds: int
    bodies_up: int
    bodies_down: int
    messages_up: int
    messages_down: int
    once_up: int
    once_down: int

    @property
    def up(self) -> int:
        """Bytes that a site sends in a round."""
        return self.bodies_up + self.messages_up

    @property
    def down(self) -> int:
        """Bytes that a site receives in a round."""
        return self.bodies_down + self.messages_down

    def as_json(self) -> dict[str, Any]:
        """Return the JSON values of the machine interface, the sums among them."""
        return {
            **asdict(self),
            "up_per_round": self.up,
            "down_per_round": self.down,
            "up_total": self.once_up + self.rounds * self.up,
            "down_total": self.once_down + self.rounds * self.down,
        }


def body_sizes(document: Any, shape: Shape, plan: AttemptPlan) -> tuple[int, int]:
    """Return the bytes of a round's bodies, up and down: the words; the state, and the total behind it."""
    encoding = plan.encoding
    up = body_bytes("words", encoding.length + TAIL, encoding.dtype)
    down = body_bytes("state", shape.state.size, shape.dtype)
    return up, down + body_bytes("total", encoding.length + TAIL, encoding.dtype) * (document.rounds > 1)


def traffic(document: Any, shape: Shape, plan: AttemptPlan, *, sites: int, round_s: float = 0.0) -> Traffic:
    """Return what each of *sites* sites sends and receives where a round takes *round_s*."""
    up, down = body_sizes(document, shape, plan)
    pulse = round(PULSE_BYTES_S * round_s)
    last = body_bytes("state", shape.state.size, shape.dtype)
    return Traffic(
        rounds=document.rounds,
        bodies_up=up,
        bodies_down=down,
        messages_up=_of(UP_MESSAGES, sites) + pulse,
        messages_down=_of(DOWN_MESSAGES, sites) + pulse,
        once_up=_of(UP_ONCE, sites),
        once_down=_of(DOWN_ONCE, sites) + last,
    )


def _of(model: tuple[int, int], sites: int) -> int:
    return model[0] + model[1] * sites
