"""Large files: links to upload to, and what comes over them (Git LFS, basic transfer).

https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md

Rules
-----
1. A link is given to those who may write; it carries its own proof (:mod:`plasmid.hub.routes.links`).
2. The bytes are hashed while they arrive. Too few, too many or others than announced leave nothing.
3. Only what this very repository has already needs no upload: whether another has it is nobody's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from plasmid.core.errors import HubError
from plasmid.hub.routes.links import SHA256
from plasmid.hub.routes.request_context import Body, Desk
from plasmid.hub.routes.streams import read_in_thread
from plasmid.hub.store.records import Blob, Repo

_MEDIA = "application/vnd.git-lfs+json"
_MOST_OBJECTS = 1000
_SAYS = "/api/this-hub-does-not-speak-xet/set-HF_HUB_DISABLE_XET=1-and-upload-again"
_WITHOUT_XET = "Set HF_HUB_DISABLE_XET=1 and upload again."
XET = "files of more than {} bytes come to this hub by LFS, not by Xet."


def routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/{owner}/{name}.git/info/lfs/objects/batch")
    def batch(request: Request, owner: str, name: str, body: Body) -> Response:
        repo, _ = desk.writable(request, owner, name)
        objects = body.get("objects")
        if body.get("operation") != "upload" or not isinstance(objects, list) or len(objects) > _MOST_OBJECTS:
            raise HubError("hub.malformed", f"not an upload of at most {_MOST_OBJECTS} objects.")
        if "basic" not in body.get("transfers", ["basic"]):
            raise HubError("hub.xet", XET.format(desk.limits.regular_bytes), _WITHOUT_XET)
        said = [_object(desk, desk.url, repo, one) for one in objects]
        return JSONResponse({"transfer": "basic", "objects": said, "hash_algo": "sha256"}, media_type=_MEDIA)

    @router.put("/api/uploads/{repo_key}/{sha256}")
    async def upload(
        request: Request,
        repo_key: int,
        sha256: str,
        size: Annotated[int, Query(ge=0)],
        until: int,
        signature: str,
    ) -> dict[str, Any]:
        desk.links.check(repo_key, sha256, size, until, signature)
        said = request.headers.get("content-length")
        if said is not None and said != str(size):
            raise HubError(
                "hub.upload_differs",
                f"{said} bytes were announced for an upload of {size}.",
                "Upload it again.",
            )

        def store(pieces: Iterator[bytes]) -> Blob:
            with desk.hub.blobs.writing(size=size, sha256=sha256, max_bytes=size) as writer:
                for piece in pieces:
                    writer.write(piece)
            desk.hub.registry.keep(writer.blob)
            desk.links.came(repo_key, sha256)
            return writer.blob

        blob = await read_in_thread(desk, request, store)
        return {"oid": blob.sha256, "size": blob.size}

    @router.post("/api/models/{owner}/{name}/uploads/verify")
    def verify(request: Request, owner: str, name: str, body: Body) -> dict[str, Any]:
        repo, _ = desk.writable(request, owner, name)
        oid = str(body.get("oid"))
        blob = desk.hub.registry.find_blob(oid) if desk.links.may_name(repo, oid) else None
        if blob is None or blob.size != body.get("size"):
            raise HubError(
                "hub.not_uploaded", f"{oid[:64]} was not uploaded to {repo.id}.", "Upload it again."
            )
        return {"oid": blob.sha256, "size": blob.size}

    @router.get("/api/models/{owner}/{name}/xet-write-token/{revision}")
    @router.get("/api/models/{owner}/{name}/xet-read-token/{revision}")
    def xet() -> Response:
        # hf_xet shows neither the body nor the headers of an error, only the address that it ended at.
        return RedirectResponse(f"{desk.url}{_SAYS}", 307)

    @router.get(_SAYS)
    def no_xet() -> None:
        raise HubError("hub.xet", XET.format(desk.limits.regular_bytes), _WITHOUT_XET)

    return router


def _object(desk: Desk, url: str, repo: Repo, one: Any) -> dict[str, Any]:
    match one:
        case {"oid": str(oid), "size": int(size)} if SHA256.fullmatch(oid) and size >= 0:
            pass
        case _:
            raise HubError("hub.malformed", "an object is not described by its SHA-256 and its size.")
    said: dict[str, Any] = {"oid": oid, "size": size}
    if size > desk.limits.file_bytes:
        message = f"this hub takes files of at most {desk.limits.file_bytes} bytes"
        return said | {"error": {"code": 413, "message": message}}
    if desk.links.may_name(repo, oid):
        return said
    return said | {
        "actions": {
            "upload": {"href": f"{url}{desk.links.path(repo, oid, size)}"},
            "verify": {"href": f"{url}/api/models/{repo.id}/uploads/verify"},
        }
    }
