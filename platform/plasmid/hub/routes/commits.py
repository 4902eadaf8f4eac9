"""A commit: first how each file is to be sent, then all of it at once.

Rules
-----
1. Files up to a size come inside the commit (``regular``), which works with every client; larger ones by a
   link (``lfs``). Clients that have ``hf_xet`` want a third way then, which this hub does not speak.
2. The body is read as it comes: contents go to the blob store, and stay unnamed until everything holds. Only
   the last step, which is one transaction, can be seen by others.
3. Every added file is looked at before that (:mod:`plasmid.hub.safety`), and so is the card.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from plasmid.core.errors import HubError
from plasmid.hub import answers, safety
from plasmid.hub.routes.cards import MAX_CARD_BYTES, check_commit
from plasmid.hub.routes.lfs import XET
from plasmid.hub.routes.links import SHA256
from plasmid.hub.routes.ndjson import Item, Lines
from plasmid.hub.routes.request_context import Body, Desk, plain, text_of
from plasmid.hub.routes.streams import read_in_thread
from plasmid.hub.store.names import check_path
from plasmid.hub.store.records import Account, Add, Blob, Commit, Delete, Operation, Repo

LFS_FROM_BYTES = 1_000_000
"""Smaller files are known to clients by Git's SHA-1, larger ones and weights by their SHA-256."""
CARD = "README.md"


def routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/api/models/{owner}/{name}/preupload/{revision}")
    def preupload(
        request: Request, owner: str, name: str, revision: str, body: Body, create_pr: str = ""
    ) -> Response:
        repo, _ = desk.writable(request, owner, name)
        _no_requests(create_pr)
        there = {entry.path: entry for entry in desk.hub.registry.tree(desk.revision(repo, revision))}
        files, problems = body.get("files"), []
        if not isinstance(files, list) or len(files) > desk.limits.commit_operations:
            raise HubError("hub.malformed", "files is not a list of files.")
        said = []
        for file in files:
            path, size, sample = _announced(file)
            _check_size(desk, path, size)
            problems.append(safety.name_problem(path) or safety.sample_problem(path, sample))
            mode = "regular" if size <= desk.limits.regular_bytes else "lfs"
            entry = there.get(path)
            oid = None if entry is None else entry.oid if mode == "regular" else entry.sha256
            said.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        safety.refuse(problem for problem in problems if problem is not None)
        headers = {}
        if any(file["uploadMode"] == "lfs" for file in said):
            warning = XET.format(desk.limits.regular_bytes) + " If that fails, set HF_HUB_DISABLE_XET=1."
            headers["X-HF-Warning"] = f"xet; {warning}"
        return JSONResponse({"files": said, "commitOid": None}, headers=headers)

    @router.post("/api/models/{owner}/{name}/commit/{revision}")
    async def commit(request: Request, owner: str, name: str, revision: str, create_pr: str = "") -> Response:
        _no_requests(create_pr)
        repo, account = await run_in_threadpool(desk.writable, request, owner, name)
        await run_in_threadpool(
            desk.revision, repo, revision
        )  # a branch that is not there, before all the bytes
        work = _Work(desk, repo, account, plain(revision))
        made, warnings = await read_in_thread(desk, request, work)
        url = f"{desk.url}/{repo.id}/commit/{made.id}"
        said = {"success": True, "commitOid": made.id, "commitUrl": url, "hookOutput": ""}
        warned = {"X-HF-Warning": answers.header_text(f"card {repo.id}; {repo.id}: {'; '.join(warnings)}.")}
        return JSONResponse(said, headers=warned if warnings else {})

    return router


def _no_requests(create_pr: str) -> None:
    if create_pr not in ("", "0"):
        raise HubError("hub.kind", "this hub has no pull requests.", "Commit to a branch of its own instead.")


def _announced(file: Any) -> tuple[str, int, bytes]:
    match file:
        case {"path": str(path), "size": int(size), "sample": str(sample)} if size >= 0:
            try:
                return check_path(path), size, base64.b64decode(sample[:4096], validate=True)
            except binascii.Error:
                pass
    raise HubError("hub.malformed", "a file is not announced by its path, size and sample.")


def _check_size(desk: Desk, path: str, size: int) -> None:
    if size > desk.limits.file_bytes:
        raise HubError(
            "hub.too_large", f"{path} has {size} bytes; this hub takes at most {desk.limits.file_bytes}."
        )


class _Work:
    """One commit, read and made in a thread."""

    def __init__(self, desk: Desk, repo: Repo, account: Account, branch: str) -> None:
        self.desk, self.repo, self.account, self.branch = desk, repo, account, branch
        self.header: dict[str, Any] = {}
        self.operations: list[Operation] = []
        self.stored: dict[str, Blob] = {}  # what is added, by its path

    def __call__(self, pieces: Iterator[bytes]) -> tuple[Commit, tuple[str, ...]]:
        """Return the commit, and the warnings about its card. Raises HubError; nothing is published then."""
        limits, blobs = self.desk.limits, self.desk.hub.blobs
        lines = Lines(pieces, lambda: blobs.writing(max_bytes=limits.regular_bytes))
        for item in lines:
            self._take(lines, item)
            if len(self.operations) > limits.commit_operations:
                raise HubError(
                    "hub.too_large", f"a commit of more than {limits.commit_operations} files is not taken."
                )
        if not self.header:
            raise HubError("hub.malformed", "the commit has no header.")
        warnings = self._check()
        parent = self.header.get("parentCommit")
        made = self.desk.hub.registry.commit(
            self.repo,
            self.branch,
            self.operations,
            title=text_of(self.header, "summary"),
            description=text_of(self.header, "description", most=100_000, default=""),
            by=self.account,
            parent=parent if parent is None else text_of(self.header, "parentCommit", most=40),
        )
        return made, warnings

    def _take(self, lines: Lines, item: Item) -> None:
        value = item.value
        if item.key == "header":
            self.header = value
            return
        if not self.header:
            raise HubError("hub.malformed", "the commit does not begin with its header.")
        path = text_of(value, "path", most=1000)
        match item.key:
            case "file":
                check_path(path)
                blob = self.stored[path] = item.blob or lines.store_short(value)
                self.operations.append(Add(path, blob.sha256, _is_lfs(path, blob.size)))
            case "lfsFile":
                self.operations.append(self._large(check_path(path), value))
            case "deletedFile" | "deletedEntry" | "deletedFolder":
                self.operations.append(Delete(path.rstrip("/"), folder=item.key == "deletedFolder"))
            case _:
                raise HubError("hub.malformed", f"a commit cannot do {item.key[:40]!r} here.")

    def _large(self, path: str, value: dict[str, Any]) -> Add:
        sha256 = text_of(value, "oid", most=64)
        known = SHA256.fullmatch(sha256) and self.desk.links.may_name(self.repo, sha256)
        blob = self.desk.hub.registry.find_blob(sha256) if known else None
        if blob is None or value.get("size", blob.size) != blob.size:
            raise HubError(
                "hub.not_uploaded",
                f"the bytes of {path} ({sha256}) were not uploaded to {self.repo.id}.",
                "Run the same upload again.",
            )
        self.stored[path] = blob
        return Add(path, sha256, _is_lfs(path, blob.size))

    def _check(self) -> tuple[str, ...]:
        """Return the warnings about the card. Raises HubError (``hub.unsafe_file``, ``hub.card``)."""
        found = (safety.name_problem(path) or self._problem(path, blob) for path, blob in self.stored.items())
        safety.refuse(problem for problem in found if problem is not None)
        self.desk.hub.registry.keep(*self.stored.values())
        added = {path: blob.sha256 for path, blob in self.stored.items()}
        before = self.desk.hub.registry.tree(self.desk.hub.registry.resolve(self.repo, self.branch))
        there = {entry.path: entry.sha256 for entry in before} | added
        if CARD not in there or not added:
            return ()
        card = self.desk.hub.blobs.load(there[CARD], max_bytes=MAX_CARD_BYTES)
        require = self.desk.limits.licence == "require"
        long = b" " * (MAX_CARD_BYTES + 1)
        warnings = check_commit(long if card is None else card, paths=there, require_licence=require)
        return warnings if CARD in added else ()

    def _problem(self, path: str, blob: Blob) -> str | None:
        read = self.desk.hub.blobs.read
        content = safety.Content(blob.size, lambda start, stop: b"".join(read(blob.sha256, start, stop)))
        return safety.content_problem(path, content)


def _is_lfs(path: str, size: int) -> bool:
    return path.lower().endswith(safety.WEIGHTS) or size > LFS_FROM_BYTES
