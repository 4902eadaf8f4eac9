"""Sites that cosign one another's logs without a network; a test may change what they say on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from plasmid.core.clock import Clock, now
from plasmid.gateway.home import SiteHome
from plasmid.gateway.members.cosigning import Cosigning
from plasmid.gateway.members.peers import Peer, Peers, write_peers
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import LogCheckpoint, LogCosignature, sign

NAMES = ("alpha", "beta", "gamma")
Change = Callable[[Any], Any]


def same(message: Any) -> Any:
    """Return *message*: the coordinator passes it on as it is."""
    return message


class Cosigners:
    """Three sites with logs, each of which has confirmed the others."""

    def __init__(self, root: Path, *, clock: Clock = now) -> None:
        self.root, self.clock = root, clock
        self.identities = {name: Identity.generate(name) for name in NAMES}
        self.problems: list[str] = []
        self.exchanged: list[LogCheckpoint | LogCosignature] = []
        for name in NAMES:
            self.home(name).folder.mkdir(parents=True)
            peers = [
                Peer(name=other, organisation=f"{other} hospital", key=self.identities[other].public)
                for other in NAMES
                if other != name
            ]
            coordinator = Identity.generate("coordinator").public
            write_peers(self.home(name).peers, Peers(coordinator=coordinator, sites=peers))
        self.logs: dict[str, AuditLog] = {}
        self.parts: dict[str, Cosigning] = {}
        for name in NAMES:
            self.restart(name)

    def home(self, name: str) -> SiteHome:
        """Return a site's folder."""
        return SiteHome(self.root / name)

    def restart(self, name: str) -> None:
        """Start a site's process anew."""
        self.logs[name] = AuditLog(self.home(name).audit, self.identities[name], clock=self.clock)
        self.parts[name] = Cosigning(
            self.home(name), self.identities[name], self.logs[name], clock=self.clock
        )

    def exchange(self, name: str, *, asked: Change = same, answered: Change = same) -> None:
        """Have *name*'s newest checkpoint cosigned by all that answer; either message may be changed."""
        for offer in self.parts[name].offers():
            self.one(name, offer, asked=asked, answered=answered)

    def one(
        self, name: str, offer: LogCheckpoint | None, *, asked: Change = same, answered: Change = same
    ) -> None:
        """Take one offer of *name* to its receiver, and the answer back, until nothing is left to say."""
        while offer is not None:
            message = asked(sign(self.identities[name], offer))
            if message is None:
                return
            peer = self.parts[offer.receiver]
            said = peer.open(message)
            assert isinstance(said, LogCheckpoint)
            answer, problem = peer.answer(said)
            self.exchanged += [said, answer]
            self.problems += [problem] if problem else []
            back = answered(sign(self.identities[offer.receiver], answer))
            if back is None:
                return
            heard = self.parts[name].open(back)
            assert isinstance(heard, LogCosignature)
            offer = self.parts[name].take(heard)

    def cosigned(self, name: str) -> dict[str, int]:
        """Return the size that each peer has cosigned of *name*'s log, as *name* can show."""
        notes = self.logs[name].files.cosigned_notes()
        for peer, note in notes.items():
            note.check(name, self.identities[name].public)
            assert note.cosigned(peer, self.identities[peer].public) is not None
        return {peer: note.checkpoint.size for peer, note in notes.items()}
