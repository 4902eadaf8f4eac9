"""Sites cosign one another's audit logs, so that a rewritten history or a second one shows. No network here.

Rules
-----
1. A site cosigns a checkpoint only if its pinned owner signed it and it continues, by a consistency proof,
   the last one that this site holds of that log (``peers.json``). What it holds is durable before its answer
   leaves.
2. Two roots of one size, or a proof that fails, are logged with both notes, as evidence: a site that signed
   both cannot deny it. Nothing is cosigned.
3. A log of a higher generation begins anew and is cosigned from its start on; that it began is logged. One of
   a lower generation, or a shorter one, is answered with what this site holds.
4. What a peer says that it holds counts only where this site's own signature is on it. Then the own log must
   contain it, or nothing leaves any more (``storage.log_rolled_back``).
5. Only sites that the owner has confirmed are asked, and answered.
*Claim*: a site and all its peers together can rewrite its log; so can a site that never had a peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plasmid.core.clock import Clock, now
from plasmid.core.errors import ProtocolError
from plasmid.core.merkle import EMPTY_ROOT, consistency_proof, verify_consistency
from plasmid.gateway.home import SiteHome
from plasmid.gateway.members.peers import Peer, Peers, read_peers
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.checkpoint import Checkpoint, Note, cosign, parse_note
from plasmid.protocol.identity import NamedSigner
from plasmid.protocol.messages import LogCheckpoint, LogCosignature, Signed, open_signed

MAX_TRIES = 2
"""How often one checkpoint is offered to one peer: again where it holds another size than was thought."""


@dataclass
class _Offered:
    note: Note
    old: int
    tries: int = 1


class Cosigning:
    """A site's part in it, as the one who asks and as the one who is asked. Not thread-safe."""

    def __init__(self, home: SiteHome, identity: NamedSigner, audit: AuditLog, *, clock: Clock = now) -> None:
        self._home, self._identity, self._audit, self._clock = home, identity, audit, clock
        self._files = audit.files
        self._offered: dict[str, _Offered] = {}

    def open(self, signed: Signed) -> LogCheckpoint | LogCosignature:
        """Return what a peer says to this site.

        Raises
        ------
        ProtocolError
            ``protocol.unknown_peer``, ``protocol.signature`` or ``protocol.malformed``.
        """
        said = open_signed(signed, self._peers().key(signed.signer))
        if not isinstance(said, LogCheckpoint | LogCosignature):
            raise ProtocolError("protocol.malformed", f"a site does not say {said.type!r} to another.")
        if (said.site, said.receiver) != (signed.signer, self._identity.name):
            raise ProtocolError(
                "protocol.signature", f"a message of {signed.signer} is of {said.site} to {said.receiver}."
            )
        return said

    # -- the one who asks --------------------------------------------------------------------------

    def offers(self, to: str | None = None) -> list[LogCheckpoint]:
        """Return what to ask of each confirmed peer that has not cosigned the newest checkpoint.

        *to* names one peer, None means all.
        """
        note = self._audit.checkpoint()
        leaves = self._files.leaves(note.checkpoint.size)
        known = self._files.cosigned_notes()
        made = []
        for peer in self._others():
            old = known.get(peer.name)
            size = old.checkpoint.size if old and old.checkpoint.origin == note.checkpoint.origin else 0
            if to in (None, peer.name) and size < note.checkpoint.size:
                self._offered[peer.name] = _Offered(note, size)
                made.append(self._offer(peer.name, note, size, leaves))
        return made

    def take(self, answer: LogCosignature) -> LogCheckpoint | None:
        """Take a peer's answer; return what to ask it instead, if anything.

        Raises
        ------
        ProtocolError
            ``protocol.signature``, ``protocol.malformed``: it is no cosignature of what was asked.
        StorageError
            ``storage.log_rolled_back``: this site has signed what its log does not contain.
        """
        offered = self._offered.get(answer.site)
        if offered is None:
            return None
        asked = offered.note.checkpoint
        if answer.line:
            if (answer.origin, answer.size) != (asked.origin, asked.size):
                return None
            note = parse_note(offered.note.with_lines([answer.line]).text())
            if note.cosigned(answer.site, self._peers().key(answer.site)) is None:
                raise ProtocolError("protocol.signature", f"{answer.site} sent no cosignature of its own.")
            with self._files.locked(self._files.cosigned):
                self._files.write_cosigned(answer.site, note)
            del self._offered[answer.site]
            return None
        held = parse_note(answer.held) if answer.held else None
        size = 0
        if held is not None:
            held.check(self._identity.name, self._identity.public)  # else it is the peer's invention
            self._audit.shown(held)
            size = held.checkpoint.size if held.checkpoint.origin == asked.origin else 0
        if offered.tries >= MAX_TRIES or size == offered.old or size >= asked.size:
            del self._offered[answer.site]
            return None
        offered.tries, offered.old = offered.tries + 1, size
        return self._offer(answer.site, offered.note, size, self._files.leaves(asked.size))

    def _offer(self, peer: str, note: Note, old: int, leaves: list[bytes]) -> LogCheckpoint:
        return LogCheckpoint(
            site=self._identity.name,
            receiver=peer,
            note=note.text(),
            old=old,
            proof=[one.hex() for one in consistency_proof(leaves, old)],
        )

    # -- the one who is asked ------------------------------------------------------------------------

    def answer(self, asked: LogCheckpoint) -> tuple[LogCosignature, str | None]:
        """Return the answer to a peer's request, and what is wrong with its log (None: nothing).

        Raises
        ------
        ProtocolError
            ``protocol.signature``, ``protocol.malformed``: it is not the peer's checkpoint.
        StorageError
            What is cosigned could not be kept, or logged; so it is not.
        """
        note = parse_note(asked.note)
        note.check(asked.site, self._peers().key(asked.site))
        said = note.checkpoint
        with self._files.locked(self._files.peers):
            held = self._files.held().get(asked.site)
            before = None
            if held is not None and held.checkpoint.key_fingerprint == said.key_fingerprint:
                before = held.checkpoint
            if before is not None and said.generation == before.generation and said.size == before.size:
                if said.root == before.root:
                    assert held is not None, "there is a checkpoint of it"
                    return self._say(asked, said, line=held.lines[-1]), None
                return self._refuse(asked, note, held, f"two roots of {said.size} entries")
            if before is not None and (
                said.generation < before.generation
                or (said.generation == before.generation and said.size < before.size)
            ):
                return self._say(asked, said, held=held), None
            start = before if before is not None and before.generation == said.generation else None
            if asked.old != (0 if start is None else start.size):
                return self._say(asked, said, held=held if start is not None else None), None
            if not _continues(start, said, asked.proof):
                return self._refuse(asked, note, held, "it does not continue what it was")
            self._note(asked, note, began=None if start is not None else said.generation)
            line = cosign(said, self._identity, self._identity.name, int(self._clock().timestamp()))
            kept = note.own(asked.site, self._peers().key(asked.site)).with_lines([line])
            self._files.write_held(asked.site, kept)
        return self._say(asked, said, line=line), None

    def _note(self, asked: LogCheckpoint, note: Note, *, began: int | None) -> None:
        said = note.checkpoint
        facts: dict[str, Any] = {"origin": said.origin, "size": said.size}
        if began is not None:
            facts["began"] = began
        self._audit.write("cosigned", actor=f"site:{asked.site}", object=said.root.hex(), **facts)

    def _refuse(
        self, asked: LogCheckpoint, note: Note, held: Note | None, what: str
    ) -> tuple[LogCosignature, str]:
        said = note.checkpoint
        reason = f"the audit log of {asked.site}: {what}. It was not cosigned."
        self._audit.write(
            "cosigned",
            actor=f"site:{asked.site}",
            object=said.root.hex(),
            rule="protocol.log_split",
            reason=reason,
            result="failed",
            origin=said.origin,
            size=said.size,
            note=note.text(),
            held=None if held is None else held.text(),
        )
        return self._say(asked, said, held=held), reason

    def _say(
        self, asked: LogCheckpoint, said: Checkpoint, *, line: str = "", held: Note | None = None
    ) -> LogCosignature:
        return LogCosignature(
            site=self._identity.name,
            receiver=asked.site,
            origin=said.origin,
            size=said.size,
            line=line,
            held="" if held is None else held.text(),
        )

    def _peers(self) -> Peers:
        return read_peers(self._home.peers)

    def _others(self) -> list[Peer]:
        return [peer for peer in self._peers().sites if peer.name != self._identity.name]


def _continues(start: Checkpoint | None, said: Checkpoint, proof: list[str]) -> bool:
    size, root = (0, EMPTY_ROOT) if start is None else (start.size, start.root)
    return verify_consistency(size, said.size, [bytes.fromhex(one) for one in proof], root, said.root)
