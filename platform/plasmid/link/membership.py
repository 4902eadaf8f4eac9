"""What members do about their own membership, and what follows when one is revoked.

Rules
-----
1. A new certificate, and leaving, need the signature of the identity key on the request itself: a certificate
   alone does not make its holder a member for longer.
2. A revocation is in the database before it is in force; this process looks there several times a second,
   for other processes write it. From the next request on nothing is open to the member; then its poll ends,
   its runs go on without it, what it has launched is stopped, and every site is told, one that comes later
   too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from plasmid.core.errors import LinkError
from plasmid.link.authority import Authority
from plasmid.link.registry import Member, Registry
from plasmid.link.switchboard import Switchboard
from plasmid.protocol.identity import NamedSigner
from plasmid.protocol.messages import Revoked, sign

log = logging.getLogger(__name__)
LOOK_S = 0.25
LEFT = "left by itself"


class Membership:
    """See the module's rules. One per link server, used on its event loop.

    Parameters
    ----------
    ask
        Calls the controller: ``await ask(method, *arguments)``.
    """

    def __init__(
        self,
        registry: Registry,
        authority: Authority,
        switchboard: Switchboard,
        identity: NamedSigner,
        ask: Callable[..., Awaitable[Any]],
    ) -> None:
        self._registry, self._authority, self._switchboard = registry, authority, switchboard
        self._identity, self._ask = identity, ask
        self._seen = 0

    def renew(self, member: Member, csr: str, *, signed: bool) -> str:
        """Return a certificate for a member's new TLS key, in PEM.

        Raises
        ------
        LinkError
            ``link.identity``: the identity key has not signed the request; else as :meth:`Registry.renew`.
        """
        _need_signature(signed)
        return self._registry.renew(member, csr, self._authority)

    async def leave(self, member: Member, *, signed: bool) -> None:
        """Put a member out that wants to go. Raises LinkError as :meth:`renew`."""
        _need_signature(signed)
        self._registry.revoke(member.name, reason=LEFT, by=self._identity)
        await self.catch_up()

    async def watch(self) -> None:
        """Act on revocations as they come, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.catch_up()
            except Exception:
                log.exception("revocations are looked for again in %s s", LOOK_S)

    async def catch_up(self) -> None:
        """Act on the revocations that have come since the last time."""
        for found in self._registry.revocations(after=self._seen):
            said = found.said
            self._switchboard.expel(said.name)
            self._switchboard.announce(sign(self._identity, Revoked(statement=found.statement)))
            self._seen = found.number  # what follows may fail, and is not for the sites
            log.info("%s %s is revoked: %s", said.role, said.name, said.reason)
            if said.role == "person":
                await self._ask("expel", said.name)


def _need_signature(signed: bool) -> None:
    if not signed:
        raise LinkError(
            "link.identity",
            "this request needs the signature of the member's identity key, not only its certificate.",
            "Let 'plasmid site rotate' or 'plasmid site leave' make it.",
        )
