"""What the parts of a run share: its id, the database, the bodies, and a way to talk to its sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray

from plasmid.controller.database import Runs
from plasmid.core.errors import PlasmidError
from plasmid.link.bodies import Bodies
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Message, Relay, Signed, sign


@dataclass(frozen=True)
class RunContext:
    """One run's surroundings.

    Attributes
    ----------
    link
        Handle of the :class:`plasmid.link.server.LinkServer` actor.
    """

    run: str
    runs: Runs
    bodies: Bodies
    link: Any
    identity: Identity

    def send(self, messages: Iterable[tuple[str, Message]]) -> None:
        """Sign messages and put them into the sites' mailboxes; one that goes to many is signed once."""
        signed: dict[int, Signed] = {}
        out = []
        for site, message in messages:
            if id(message) not in signed:
                signed[id(message)] = sign(self.identity, message)
            out.append((site, signed[id(message)]))
        ray.get(self.link.send.remote(out))

    def relay(
        self, kind: Literal["advert", "bundle", "ready"], statements: Mapping[str, list[Signed]]
    ) -> None:
        """Send each site the statements addressed to it."""
        self.send(
            [(site, Relay(run=self.run, kind=kind, statements=said)) for site, said in statements.items()]
        )

    def collect(
        self, kind: str, sites: Sequence[str], *, timeout_s: float, round_: int = 0, watch: bool = True
    ) -> dict[str, Signed]:
        """Return what *sites* say; see :meth:`plasmid.link.switchboard.Switchboard.collect`."""
        answer = ray.get(self.link.collect.remote(self.run, kind, list(sites), round_, timeout_s, watch))
        if isinstance(answer, PlasmidError):
            raise answer
        return dict(answer)
