"""The bytes of a file: HEAD and GET, whole or a part.

Rules
-----
1. Bytes come from here, never by a redirect: a client keeps its token when it is sent to the public hub.
2. The headers are the same for HEAD and GET: commit, digest (quoted), size. A missing file names its commit,
   too, so that clients remember that it is missing.
3. A hosted file is never shown as a page of this hub: no type that a browser runs, and a sandbox.
4. Bytes are read in pieces, as fast as the client takes them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from io import RawIOBase
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from plasmid.core.errors import HubError
from plasmid.hub import answers
from plasmid.hub.routes.request_context import Desk, plain
from plasmid.hub.store.blobs import BlobStore, missing
from plasmid.hub.store.records import Commit, FileEntry, Repo

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_TYPES = {
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".yaml": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}
PIECE_BYTES = 128 * 1024
"""Of a file that lies here. A connection holds about two of them."""
_COUNTED = frozenset({"config.json", "adapter_config.json"})
"""A download is counted once a snapshot: by the file that every loader reads."""


def routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    def found(
        request: Request, owner: str, name: str, revision: str, path: str
    ) -> tuple[Repo, Commit, FileEntry]:
        account = desk.viewer(request)
        repo = desk.repo_for(account, owner, name, "read")
        desk.check_gate(repo, account)
        commit = desk.revision(repo, revision)
        try:
            return repo, commit, desk.hub.registry.file(commit, plain(path))
        except HubError as error:
            request.state.repo_commit = commit.id
            raise error from None

    @router.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    @router.api_route("/{owner}/{name}/raw/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(request: Request, owner: str, name: str, revision: str, path: str) -> Response:
        try:
            repo, commit, entry = await run_in_threadpool(found, request, owner, name, revision, path)
        except HubError as error:
            at = getattr(request.state, "repo_commit", None)
            return answers.problem(error, headers={"X-Repo-Commit": at} if at else None)
        headers = _headers(repo, commit, entry)
        part = _part(request.headers.get("range"), entry.size)
        if part is None:
            headers["Content-Range"] = f"bytes */{entry.size}"
            return Response(status_code=416, headers=headers)
        start, end = part
        headers["Content-Length"] = str(end - start)
        status = 200
        if request.headers.get("range") and (start, end) != (0, entry.size):
            headers["Content-Range"], status = f"bytes {start}-{end - 1}/{entry.size}", 206
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        if entry.path in _COUNTED and start == 0:
            await run_in_threadpool(desk.hub.registry.count_download, repo)
        try:
            pieces = await run_in_threadpool(_pieces, desk.hub.blobs, entry.sha256, start, end)
        except HubError:
            raise HubError(
                "hub.blob_lost",
                f"the bytes of {entry.path} are not in the hub's store.",
                "Tell its operator.",
            ) from None
        return StreamingResponse(_sent(pieces), status, headers)

    return router


def _headers(repo: Repo, commit: Commit, entry: FileEntry) -> dict[str, str]:
    ending = "." + entry.path.rsplit(".", 1)[-1].lower()
    name = quote(entry.path.rsplit("/", 1)[-1])
    headers = {
        "X-Repo-Commit": commit.id,
        "ETag": f'"{entry.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": _TYPES.get(ending, "application/octet-stream"),
        "Content-Disposition": f"inline; filename*=UTF-8''{name}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-cache",
        **answers.retired(repo),
    }
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    return headers


def _part(header: str | None, size: int) -> tuple[int, int] | None:
    """Return which bytes a Range header asks for; None if the file has none of them (RFC 9110, 14.1.2)."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return 0, size  # none, several, or not understood: the whole file is always a right answer
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None


def _pieces(blobs: BlobStore, sha256: str, start: int, end: int) -> Iterator[bytes]:
    """Return bytes [start, end) in pieces. Raises HubError (``hub.blob_missing``) at the call."""
    path = blobs.path(sha256)
    if path is None:
        return blobs.read(sha256, start, end)
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise missing(sha256) from None
    file.seek(start)
    return _of_file(file, end - start)


def _of_file(file: RawIOBase, left: int) -> Iterator[bytes]:
    with file:
        while left > 0 and (piece := file.read(min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece


async def _sent(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    try:
        while (piece := await to_thread.run_sync(next, pieces, b"")) != b"":
            yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
