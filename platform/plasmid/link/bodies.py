"""Bodies on the coordinator's disk, named by their digests: the root of a contribution, else SHA-256.

Rules
-----
1. *Received* bodies come from sites, belong to a run, and are read by its run actor: no route serves them
   whole. *Published* bodies (states, results) are served to members.
2. An upload grows beside the received bodies and takes its place only when it is whole and has its
   digest, with its Merkle tree beside it. A site has one body of a run here: the next one replaces
   it, but not one of the last opened sum (:mod:`plasmid.link.sample_store`), which is served in samples.
3. A run announces how large its bodies may be before a byte is taken.
4. What a person *gives* for a run (an adapter to be judged) is one body a person: the next one replaces
   it. No route serves it.
5. Paths are made from digests and run ids that have passed their patterns, never from other input.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import LinkError, ProtocolError
from plasmid.core.files import storage_error, write_atomic
from plasmid.core.merkle import levels
from plasmid.link import sample_store as kept
from plasmid.protocol.body import CHUNK_BYTES
from plasmid.secagg.samples import leaf_hashes

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SITE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_RUN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Bodies:
    """The body store in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}

    def expect(self, run: str, size: int) -> None:
        """Allow uploads of exactly *size* bytes for *run*."""
        self._sizes[run] = size

    def take_chunk(
        self, run: str, site: str, digest: str, offset: int, total: int, chunk: bytes, sha256: str
    ) -> int:
        """Append one chunk of a site's upload and return how many bytes are held.

        Raises
        ------
        ProtocolError
            ``protocol.chunk``: a damaged chunk, or a whole body without its digest (it is dropped);
            ``protocol.body_size``: the run expects bodies of another size.
        """
        return self._take_chunk(run, site, digest, offset, total, chunk, sha256, rooted=True)

    def _take_chunk(
        self,
        run: str,
        site: str,
        digest: str,
        offset: int,
        total: int,
        chunk: bytes,
        sha256: str,
        *,
        rooted: bool,
    ) -> int:
        if total != self._sizes.get(run) or len(chunk) > CHUNK_BYTES or offset + len(chunk) > total:
            raise ProtocolError("protocol.body_size", f"no body of {total} bytes is expected for {run}.")
        final = self.received(run, site, digest)
        if final.exists():
            return total
        tree = levels(leaf_hashes(chunk)) if rooted and len(chunk) == total else []
        found = tree[-1][0].hex() if tree else sha256_hex(chunk)
        if found != sha256:
            raise ProtocolError("protocol.chunk", "a chunk was damaged on its way.", "Send it again.")
        spool = final.with_suffix(".part")
        try:
            spool.parent.mkdir(parents=True, exist_ok=True)
            have = spool.stat().st_size if spool.exists() else 0
            if have == 0:
                for older in spool.parent.glob(f"{site}.*"):
                    older.unlink()
            if offset != have:
                return have
            with spool.open("ab") as file:
                file.write(chunk)
            if have + len(chunk) < total:
                return have + len(chunk)
            if offset:
                body = spool.read_bytes()
                tree = levels(leaf_hashes(body)) if rooted else []
                found = tree[-1][0].hex() if tree else sha256_hex(body)
            if found != digest:
                spool.unlink()
                raise ProtocolError(
                    "protocol.chunk", "an uploaded body does not have its digest.", "Send it again."
                )
            if rooted:
                final.with_suffix(kept.TREE).write_bytes(b"".join(chain.from_iterable(tree)))
            spool.replace(final)
        except OSError as error:
            raise storage_error(error, spool) from error
        return total

    def take_given(self, person: str, digest: str, offset: int, total: int, chunk: bytes, sha256: str) -> int:
        """Append one chunk of what *person* gives; return how many bytes are held. Raises as the former."""
        place = f"given-by-{person}"
        if self._sizes.setdefault(place, total) != total:
            self.drop_run(place)
            self.expect(place, total)
        return self._take_chunk(place, person, digest, offset, total, chunk, sha256, rooted=False)

    def given(self, digest: str) -> bytes | None:
        """Return what somebody gave under *digest*; None where nobody did."""
        if not _DIGEST.fullmatch(digest):
            return None
        for path in self._folder.glob(f"received/given-by-*/*.{digest}.body"):
            return path.read_bytes()
        return None

    def received(self, run: str, site: str, digest: str) -> Path:
        """Return where the body that *site* sent for *run* is kept."""
        if not (_RUN.fullmatch(run) and _SITE.fullmatch(site) and _DIGEST.fullmatch(digest)):
            raise ProtocolError("protocol.malformed", "a body's run, site or digest does not have its form.")
        return self._folder / "received" / run / f"{site}.{digest}.body"

    def keep(self, run: str, manifest: str, bodies: Mapping[str, Path], opening: bytes) -> None:
        """Put *bodies*, by site, in the place of those of the sum of *run* that was opened before."""
        for older in self.kept(run, "0" * 64).parent.iterdir():
            if older.is_dir() and older.name != manifest:
                shutil.rmtree(older, ignore_errors=True)
        kept.keep(self.kept(run, manifest), bodies, opening)

    def kept(self, run: str, manifest: str) -> Path:
        """Return the folder of the opened sum under a *manifest*."""
        if not (_RUN.fullmatch(run) and _DIGEST.fullmatch(manifest)):
            raise ProtocolError("protocol.malformed", "a sum's run or digest does not have its form.")
        return self._folder / "received" / run / manifest

    def read_sample(self, run: str, manifest: str, part: str, offset: int) -> tuple[bytes, str]:
        """Return a chunk of what :func:`plasmid.link.sample_store.read` returns, and its SHA-256."""
        chunk = kept.read(self.kept(run, manifest), part)[offset : offset + CHUNK_BYTES]
        return chunk, sha256_hex(chunk)

    def publish(self, body: bytes) -> str:
        """Store *body* for members to read and return its digest."""
        digest = sha256_hex(body)
        path = self.published(digest)
        if not path.exists():
            write_atomic(path, body)
        return digest

    def published(self, digest: str) -> Path:
        """Return where a published body is kept."""
        if not _DIGEST.fullmatch(digest):
            raise ProtocolError("protocol.malformed", "a body's digest does not have its form.")
        return self._folder / "published" / digest

    def read_chunk(self, digest: str, offset: int) -> tuple[bytes, str]:
        """Return a published body's chunk and its SHA-256. Raises LinkError (``link.no_body``)."""
        try:
            with self.published(digest).open("rb") as file:
                file.seek(offset)
                chunk = file.read(CHUNK_BYTES)
                whole = offset == 0 and len(chunk) < CHUNK_BYTES
        except FileNotFoundError as error:
            raise LinkError("link.no_body", f"there is no published body {digest}.") from error
        return chunk, digest if whole else sha256_hex(chunk)

    def drop_run(self, run: str) -> None:
        """Delete what was received for *run*."""
        self._sizes.pop(run, None)
        if _RUN.fullmatch(run):
            shutil.rmtree(self._folder / "received" / run, ignore_errors=True)
