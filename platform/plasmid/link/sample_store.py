"""The bodies of an opened sum in a folder, and the samples of them that sites ask for.

Rules
-----
1. The folder is all there is: the run actor fills it and the link server reads it, restarted or not. What
   opened the sum comes last, so that a folder with it is whole.
2. A sample is read from its place in each body. Memory does not grow with the sites but by a leaf of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plasmid.core.errors import LinkError
from plasmid.core.files import write_atomic
from plasmid.core.merkle import HASH_BYTES
from plasmid.secagg.samples import leaf_bytes, leaf_count

TREE = ".tree"
"""Beside a body: the hashes of its tree, level after level, so that a path is read and not computed."""
_OPENING = "opening"


def keep(folder: Path, bodies: Mapping[str, Path], opening: bytes) -> None:
    """Move *bodies*, by site, and their trees into *folder*."""
    folder.mkdir(exist_ok=True)
    for site, body in bodies.items():
        for path in (body.with_suffix(TREE), body):
            path.replace(folder / f"{site}{path.suffix}")
    write_atomic(folder / _OPENING, opening)


def read(folder: Path, part: str) -> bytes:
    """Return the opening, or the sample at leaf *part*: of each body in the order of sites its leaf and path.

    Raises
    ------
    LinkError
        ``link.no_body``: the sum is not the last that was opened, or has no such part.
    """
    try:
        opening = (folder / _OPENING).read_bytes()
        if part == _OPENING:
            return opening
        index = int(part) if part.isascii() and part.isdecimal() and len(part) < 5 else -1
        return b"".join(
            _leaf(body, index) for body in sorted(folder.glob("*.body"), key=lambda path: path.stem)
        )
    except (FileNotFoundError, ValueError) as error:
        raise LinkError("link.no_body", f"there is no part {part[:20]!r} of such a sum.") from error


def _leaf(body: Path, index: int) -> bytes:
    size = body.stat().st_size
    count, hashes = leaf_count(size), body.with_suffix(TREE).read_bytes()
    if not 0 <= index < count:
        raise ValueError(index)
    with body.open("rb") as file:
        file.seek(index * leaf_bytes(size))
        parts, start = [file.read(leaf_bytes(size))], 0
    while count > 1:
        beside = index ^ 1
        if beside < count:
            parts.append(hashes[start + HASH_BYTES * beside :][:HASH_BYTES])
        start += HASH_BYTES * count
        index, count = index >> 1, (count + 1) >> 1
    return b"".join(parts)
