"""An audit log as one file, or one entry of it with its proof, for somebody who has nothing else.

Rules
-----
1. An export is lines: a header of canonical JSON, then the entries as they were written. The header has the
   checkpoints that the site signed, with the cosignatures of its peers, the checkpoints of other sites that
   this one cosigned, and the keys of all of them.
2. A proof is ``c2sp.org/tlog-proof@v1``: index, path and checkpoint; its extra data are the entry and the
   keys.
3. :mod:`plasmid.log.verify` reads both.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from plasmid.core.canonical import canonical_json
from plasmid.core.errors import ProtocolError
from plasmid.core.merkle import inclusion_proof, leaf_hash
from plasmid.log.entries import MAX_LINE_BYTES
from plasmid.log.files import AuditFiles
from plasmid.protocol.checkpoint import MAX_NOTE_BYTES, Note
from plasmid.protocol.identity import PublicKey
from plasmid.secagg.statements import SiteName

PROOF = "c2sp.org/tlog-proof@v1"
MAX_PEERS = 64
NoteText = Annotated[str, Field(max_length=MAX_NOTE_BYTES)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Known(_Part):
    """A site and its key, as a file names it."""

    name: SiteName
    organisation: str
    key: PublicKey


class Named(_Part):
    """Whose log it is, and the peers whose cosignatures may be there."""

    site: Known
    peers: Annotated[list[Known], Field(max_length=MAX_PEERS)]


class Header(Named):
    """The first line of an export."""

    format: Literal["plasmid-audit/1"] = "plasmid-audit/1"
    checkpoints: Annotated[list[NoteText], Field(min_length=1, max_length=MAX_PEERS + 1)]
    witnessed: Annotated[list[NoteText], Field(max_length=MAX_PEERS)]


class Extra(Named):
    """The extra data of a proof; ``entry`` is the line that was hashed."""

    entry: Annotated[str, Field(max_length=MAX_LINE_BYTES)]


def export(files: AuditFiles, named: Named) -> bytes:
    """Return the log in *files* as one file. The caller has verified it.

    Raises
    ------
    ProtocolError
        ``protocol.log_unsigned``: there is no checkpoint yet.
    """
    notes = _notes(files, named)
    if not notes:
        raise _unsigned("the log has no checkpoint yet")
    held = files.held()
    peers = {peer.name for peer in named.peers}
    header = Header(
        site=named.site,
        peers=named.peers,
        checkpoints=[note.text() for note in notes],
        witnessed=[held[name].text() for name in sorted(held.keys() & peers)],
    )
    return b"\n".join([canonical_json(header.model_dump(mode="json")), *files.lines(), b""])


def prove(files: AuditFiles, named: Named, seq: int) -> bytes:
    """Return the proof of entry *seq*, under the checkpoint with the most cosignatures that covers it.

    Raises
    ------
    ProtocolError
        ``protocol.log_unsigned``: no checkpoint covers it, or there is no such entry.
    """
    lines = files.lines()
    covering = [note for note in _notes(files, named) if seq <= note.checkpoint.size <= len(lines)]
    if seq < 1 or not covering:
        raise _unsigned(f"no signed entry has the number {seq}")
    note = max(covering, key=lambda one: (len(one.lines), one.checkpoint.size))
    leaves = [leaf_hash(line) for line in lines[: note.checkpoint.size]]
    path = [base64.b64encode(one).decode() for one in inclusion_proof(leaves, seq - 1)]
    extra = Extra(site=named.site, peers=named.peers, entry=lines[seq - 1].decode())
    encoded = base64.b64encode(canonical_json(extra.model_dump(mode="json"))).decode()
    head = "\n".join([PROOF, f"extra {encoded}", f"index {seq - 1}", *path])
    return f"{head}\n\n{note.text()}".encode()


def _notes(files: AuditFiles, named: Named) -> Sequence[Note]:
    """Return the newest checkpoint and those that a named peer cosigned, each once, with all its lines."""
    newest = files.newest()
    if newest is None:
        return []
    merged = {newest.note.checkpoint: newest.note}
    cosigned, peers = files.cosigned_notes(), {peer.name for peer in named.peers}
    for name in sorted(cosigned.keys() & peers):
        note = cosigned[name]
        if note.checkpoint.origin == newest.note.checkpoint.origin:
            merged[note.checkpoint] = merged.get(note.checkpoint, note).with_lines(note.lines)
    return list(merged.values())


def _unsigned(what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.log_unsigned", f"{what}.", "Start the site once, which signs what is there."
    )
