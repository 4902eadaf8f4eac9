"""What the parts of a run share: its id, the database, the bodies, and a way to talk to its sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from plasmid.coordinator.database import Runs
from plasmid.core.errors import PlasmidError
from plasmid.link.bodies import Bodies
from plasmid.link.switchboard import Collected
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Message, Relay, RelayKind, Signed, sign


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
        self._ask("send", out)

    def relay(
        self, kind: RelayKind, statements: Mapping[str, list[Signed]], *, epoch: int, slot: int = 0
    ) -> None:
        """Send each site the statements addressed to it; a list that goes to many is made one message."""
        messages: dict[int, Relay] = {}
        for said in statements.values():
            if id(said) not in messages:
                messages[id(said)] = Relay(run=self.run, epoch=epoch, slot=slot, kind=kind, statements=said)
        self.send([(site, messages[id(said)]) for site, said in statements.items()])

    def collect(
        self, kind: str, sites: Sequence[str], *, timeout_s: float, enough: int | None = None
    ) -> Collected:
        """Return what *sites* say; see :meth:`plasmid.link.switchboard.Switchboard.collect`."""
        answer = self._ask("collect", self.run, kind, list(sites), timeout_s, enough)
        if isinstance(answer, PlasmidError):
            raise answer
        assert isinstance(answer, Collected)
        return answer

    def move_on(self, epoch: int, slot: int) -> None:
        """Take the run to another epoch and slot."""
        self._ask("move_on", self.run, epoch, slot)

    def expect(self, size: int) -> None:
        """Take uploads of exactly *size* bytes from now on."""
        self._ask("expect", self.run, size)

    def online(self) -> list[str]:
        """Return the sites that are connected, of this run or not."""
        return list(self._ask("online"))

    def readmit(self, sites: Iterable[str]) -> list[str]:
        """Return which of *sites* are there again; see :class:`plasmid.link.switchboard.Switchboard`."""
        return list(self._ask("readmit", self.run, list(sites)))

    def hear_again(self, kind: str, sites: Sequence[str]) -> list[str]:
        """Return which of *sites* can be asked anew; see :class:`plasmid.link.switchboard.Switchboard`."""
        return list(self._ask("hear_again", self.run, kind, list(sites)))

    def expelled(self, sites: Iterable[str]) -> list[str]:
        """Return which of *sites* are members no more."""
        return list(self._ask("expelled", list(sites)))

    def close(self) -> None:
        """Take nothing more for the run."""
        self._ask("close_run", self.run)

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.link, method).remote(*arguments))
