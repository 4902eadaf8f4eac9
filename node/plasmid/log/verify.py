"""What a stranger can verify of an exported audit log, or of one entry's proof, with the file alone. Pure.

Rules
-----
1. Keys in a file prove nothing about who holds them. A reader who gives a key, or a fingerprint, for a name
   has it compared; every other name is reported as named by the file alone.
2. :class:`Proven` has what is proven and :func:`sentences` the words that may be said of it, with what is not
   proven. What contradicts itself raises.
3. :func:`compare` holds several files against one another wherever they speak of one log.
*Claim*: what the site never wrote down is in no log, and entries that no peer has cosigned are its own word.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from plasmid.core.bounds import parse_json
from plasmid.core.clock import stamp
from plasmid.core.errors import ProtocolError
from plasmid.core.merkle import Frontier, leaf_hash, root_of, verify_inclusion
from plasmid.log.entries import BadEntryError, Entry, parse_entries, parse_entry, split
from plasmid.log.export import PROOF, Extra, Header, Named
from plasmid.protocol.checkpoint import Checkpoint, Note, parse_note
from plasmid.protocol.identity import fingerprint

MAX_HEADER_BYTES = 8 * 2**20
_Form = TypeVar("_Form", bound=Named)


@dataclass(frozen=True)
class Key:
    """The key that was used, and whether the reader gave it."""

    public: str
    given: bool


@dataclass(frozen=True)
class Cosigned:
    """One site's cosignature of the first ``size`` entries; ``time`` is UTC."""

    site: str
    size: int
    time: str
    key: Key


@dataclass
class Proven:
    """What one file proves.

    Attributes
    ----------
    first, last
        The numbers of the first and the last entry that the file holds, (1, 0) for none.
    signed
        Up to which entry the site's own signature covers.
    roots
        The roots that the site signed, by size.
    leaves
        The hashes of all entries, of an export.
    witnessed
        Checkpoints of other sites that this one cosigned.
    entry
        The one entry of a proof, None for an export.
    """

    name: str
    origin: str
    site: str
    key: Key
    cosigned: list[Cosigned]
    roots: dict[int, bytes]
    first: int = 1
    last: int = 0
    leaves: list[bytes] = field(default_factory=list)
    witnessed: list[Checkpoint] = field(default_factory=list)
    entry: Entry | None = None

    @property
    def signed(self) -> int:
        """Up to which entry the site's own signature covers."""
        return max(self.roots)

    def root(self, size: int) -> bytes | None:
        """Return the root of the first *size* entries, None if the file does not have it."""
        if size in self.roots or size > len(self.leaves):
            return self.roots.get(size)
        return root_of(self.leaves[:size])


def parse_export(data: bytes, name: str, given: Mapping[str, str]) -> Proven:
    """Return what the export or proof *data*, called *name*, proves.

    Parameters
    ----------
    given
        The keys that the reader knows, by site: 64 hexadecimal digits, or a fingerprint without dashes.

    Raises
    ------
    ProtocolError
        ``protocol.malformed``: it is neither; ``protocol.signature``; ``protocol.log_false``: entries, roots
        or keys contradict one another.
    """
    try:
        if data.startswith(PROOF.encode()):
            return _proof(data, name, given)
        return _export(data, name, given)
    except BadEntryError as error:
        raise _false(name, str(error)) from None


def compare(files: Sequence[Proven]) -> None:
    """Compare what several files say of the same logs.

    Raises
    ------
    ProtocolError
        ``protocol.log_split``: two roots of one size, both signed by one site.
    """
    seen: dict[tuple[str, int], tuple[bytes, str]] = {}
    for checkpoint, place in _said(files):
        others = [(one.root(checkpoint.size), one.name) for one in files if one.origin == checkpoint.origin]
        for root, where in [(checkpoint.root, place), *others]:
            if root is None:
                continue
            before = seen.setdefault((checkpoint.origin, checkpoint.size), (root, where))
            if before[0] != root:
                raise ProtocolError(
                    "protocol.log_split",
                    f"{checkpoint.origin} has two histories of {checkpoint.size} entries: that of "
                    f"{before[1]} is not that of {where}.",
                    "Keep both files: the site signed both, and they show it. Ask its owner.",
                )


def sentences(proven: Proven) -> list[str]:
    """Return in words what *proven* shows, and what it does not."""

    def named(key: Key) -> str:
        how = "the key that you gave" if key.given else "named by the file alone: compare it with its owner"
        return f"{fingerprint(key.public)}, {how}"

    def span(first: int, last: int) -> str:
        return f"entry {first}" if first == last else f"entries {first} to {last}"

    held = "no entry" if proven.last < proven.first else span(proven.first, proven.last)
    lines = [
        f"{proven.name}: {held} of {proven.origin}",
        f"signed by {proven.site} up to entry {proven.signed} ({named(proven.key)})",
    ]
    lines += [
        f"cosigned by {one.site} up to entry {one.size} at {one.time} ({named(one.key)})"
        for one in proven.cosigned
    ]
    covered = min(proven.last, proven.signed)
    begin = max(proven.first, 1 + max((one.size for one in proven.cosigned), default=0))
    if begin <= covered:
        same = f"that everybody was shown the same {span(begin, covered)}"
        lines.append(f"not proven: {same}; no peer has cosigned that far")
    if covered < proven.last:
        lines.append(f"not proven: {span(covered + 1, proven.last)}, which nobody has signed yet")
    lines.append("never proven: that the site wrote down all that it did")
    return lines


def _said(files: Sequence[Proven]) -> Iterator[tuple[Checkpoint, str]]:
    for one in files:
        for size, root in one.roots.items():
            yield Checkpoint(one.origin, size, root), one.name
        for checkpoint in one.witnessed:
            yield checkpoint, one.name


def _export(data: bytes, name: str, given: Mapping[str, str]) -> Proven:
    (head, *lines), torn = split(data) if b"\n" in data else ([data], b"")
    header = _form(Header, head, name)
    if torn:
        raise _false(name, "its last line is not whole")
    notes = [parse_note(text) for text in header.checkpoints]
    keys = _keys(header, name, given)
    proven = _proven(notes, header, keys, name)
    proven.last = sum(1 for _ in parse_entries(lines))
    proven.leaves = [leaf_hash(line) for line in lines]
    tree, roots = Frontier(), {}
    for leaf in [None, *proven.leaves]:
        if leaf is not None:
            tree.append(leaf)
        if tree.size in proven.roots:
            roots[tree.size] = tree.root()
    if proven.signed > proven.last:
        raise _false(name, f"it has {proven.last} entries, and the site signed {proven.signed}")
    for size, root in proven.roots.items():
        if roots[size] != root:
            raise _false(name, f"the first {size} entries are not those that the site signed")
    for text in header.witnessed:
        note = parse_note(text)
        other = keys.get(note.checkpoint.site)
        if other is not None:
            note.check(note.checkpoint.site, other.public)
            proven.witnessed.append(note.checkpoint)
    return proven


def _proof(data: bytes, name: str, given: Mapping[str, str]) -> Proven:
    try:
        head, _, text = data.decode("utf-8").partition("\n\n")
        first, extra, index, *path = head.split("\n")
        number = int(index.removeprefix("index "))
        if first != PROOF or index != f"index {number}" or not extra.startswith("extra ") or len(path) > 64:
            raise ValueError
        form = _form(Extra, base64.b64decode(extra.removeprefix("extra "), validate=True), name)
        proof = [base64.b64decode(one, validate=True) for one in path]
    except (ValueError, binascii.Error) as error:
        raise _malformed(name) from error
    note = parse_note(text)
    proven = _proven([note], form, _keys(form, name, given), name)
    line = form.entry.encode(errors="replace")
    proven.entry = parse_entry(line, number + 1)
    proven.first = proven.last = number + 1
    if not verify_inclusion(leaf_hash(line), number, note.checkpoint.size, proof, note.checkpoint.root):
        raise _false(name, f"entry {number + 1} is not in the log that the site signed")
    return proven


def _proven(notes: Sequence[Note], named: Named, keys: Mapping[str, Key], name: str) -> Proven:
    owner = named.site
    origin = notes[0].checkpoint.origin
    roots: dict[int, bytes] = {}
    cosigned: dict[str, Cosigned] = {}
    for note in notes:
        said = note.checkpoint
        note.check(owner.name, owner.key)
        if said.origin != origin or roots.setdefault(said.size, said.root) != said.root:
            raise _false(name, "its checkpoints are of two logs")
        for peer in named.peers:
            when = note.cosigned(peer.name, peer.key)
            if when is not None and said.size >= (cosigned[peer.name].size if peer.name in cosigned else 0):
                told = stamp(datetime.fromtimestamp(when, UTC))
                cosigned[peer.name] = Cosigned(peer.name, said.size, told, keys[peer.name])
    return Proven(
        name=name,
        origin=origin,
        site=owner.name,
        key=keys[owner.name],
        cosigned=[cosigned[peer] for peer in sorted(cosigned)],
        roots=roots,
    )


def _keys(named: Named, name: str, given: Mapping[str, str]) -> dict[str, Key]:
    """Return the keys that the file names, compared with those that the reader gave."""
    keys: dict[str, Key] = {}
    for known in (named.site, *named.peers):
        wanted = given.get(known.name)
        if wanted not in (None, known.key, fingerprint(known.key).replace("-", "")):
            raise _false(name, f"it names another key for {known.name} than the one that you gave")
        if known.name in keys:
            raise _false(name, f"it names {known.name} twice")
        keys[known.name] = Key(known.key, given=wanted is not None)
    return keys


def _form(kind: type[_Form], text: bytes, name: str) -> _Form:
    try:
        if len(text) > MAX_HEADER_BYTES:
            raise ValueError
        parse_json(text)
        return kind.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError) as error:
        raise _malformed(name) from error


def _malformed(name: str) -> ProtocolError:
    return ProtocolError(
        "protocol.malformed",
        f"{name} is neither an export nor a proof of an audit log.",
        "Make one with 'plasmid audit export' or 'plasmid audit prove'.",
    )


def _false(name: str, what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.log_false",
        f"{name} is not what it says: {what}.",
        "Ask for the file again, and compare the key with the site's owner.",
    )
