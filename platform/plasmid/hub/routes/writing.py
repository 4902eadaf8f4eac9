"""Making, changing and taking away: repositories, branches, tags."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from plasmid.core.errors import HubError
from plasmid.hub import answers
from plasmid.hub.routes.request_context import Body, Desk, plain, text_of
from plasmid.hub.store.names import RepoId, check_revision
from plasmid.hub.store.records import Account, Gate, Repo

_NO_TERMS = "Use of these files is subject to the licence in the model card."


def routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    registry = desk.hub.registry

    @router.post("/api/repos/create")
    def create(request: Request, body: Body) -> Response:
        account = desk.member(request)
        repo = RepoId.parse(f"{_owner(body, account)}/{text_of(body, 'name')}")
        _models_only(body)
        url = f"{desk.url}/{repo}"
        try:
            found: Repo | None = registry.get(repo)
        except HubError:
            found = None
        if not desk.hub.accounts.may_create(account, repo.owner):
            raise HubError(
                "hub.forbidden",
                f"{account.name} may not create repositories of {repo.owner} with this token, "
                f"which is for: {account.scope}.",
                "Use your own name or an organisation's that you may write for, and the scope write.",
            )
        if found is None:
            private = _private(body) or False
            try:
                found = registry.create(repo, by=account, private=private)
                return JSONResponse({"url": url, "id": f"{found.key:024x}", "name": str(found.id)})
            except HubError as error:
                if error.code != "hub.exists":
                    raise
        there = HubError("hub.exists", f"You already created this model repo: {repo}")
        said = {"error": there.message, "code": there.code, "url": url}
        return JSONResponse(said, 409, {"X-Error-Message": answers.header_text(there.message)})

    @router.delete("/api/repos/delete")
    def delete(request: Request, body: Body) -> dict[str, str]:
        account = desk.member(request)
        _models_only(body)
        repo, _ = desk.repo(request, _owner(body, account), text_of(body, "name"), "admin")
        registry.delete(repo.id)
        return {"deleted": str(repo.id)}

    @router.put("/api/models/{owner}/{name}/settings")
    def settings(request: Request, owner: str, name: str, body: Body) -> dict[str, Any]:
        repo, _ = desk.repo(request, owner, name, "admin")
        gated, terms = _gate(body), body.get("terms")
        if terms is not None:
            terms = text_of(body, "terms", most=100_000)
        if gated and terms is None and not repo.terms:
            prompt = registry.card(repo).get("extra_gated_prompt")
            terms = prompt if isinstance(prompt, str) and prompt.strip() else _NO_TERMS
        changed = registry.update(repo.id, private=_private(body), gated=gated, terms=terms)
        return {"private": changed.private, "gated": changed.gated or False}

    @router.post("/api/models/{owner}/{name}/branch/{branch}")
    def branch(request: Request, owner: str, name: str, branch: str, body: Body) -> Response:
        repo, _ = desk.writable(request, owner, name)
        start = text_of(body, "startingPoint", default="main")
        registry.branch(repo, check_revision(plain(branch)), start)
        return JSONResponse({"branch": plain(branch)}, 201)

    @router.delete("/api/models/{owner}/{name}/branch/{branch}")
    def delete_branch(request: Request, owner: str, name: str, branch: str) -> dict[str, str]:
        repo, _ = desk.writable(request, owner, name)
        registry.delete_branch(repo, plain(branch))
        return {"deleted": plain(branch)}

    @router.post("/api/models/{owner}/{name}/tag/{revision}")
    def tag(request: Request, owner: str, name: str, revision: str, body: Body) -> Response:
        repo, _ = desk.writable(request, owner, name)
        said = text_of(body, "tag")
        message = text_of(body, "message", default="")
        registry.tag(repo, check_revision(said), plain(revision), message=message)
        return JSONResponse({"tag": said}, 201)

    @router.delete("/api/models/{owner}/{name}/tag/{tag}")
    def delete_tag(request: Request, owner: str, name: str, tag: str) -> dict[str, str]:
        repo, _ = desk.writable(request, owner, name)
        registry.delete_tag(repo, plain(tag))
        return {"deleted": plain(tag)}

    return router


def _owner(body: dict[str, Any], account: Account) -> str:
    return text_of(body, "organization", default=account.name)


def _models_only(body: dict[str, Any]) -> None:
    kind = body.get("type") or "model"
    if kind != "model":
        raise HubError("hub.kind", f"this hub has models only, no {str(kind)[:20]}.", "Leave the type out.")


def _private(body: dict[str, Any]) -> bool | None:
    """Return what a body says of visibility: clients say ``private`` or, later ones, ``visibility``."""
    visibility = body.get("visibility")
    if visibility in ("public", "private"):
        return bool(visibility == "private")
    if visibility is not None:
        raise HubError("hub.malformed", "visibility is neither public nor private.")
    private = body.get("private")
    return private if isinstance(private, bool) else None


def _gate(body: dict[str, Any]) -> Gate | None:
    gated = body.get("gated")
    if gated is None:
        return None
    if gated in (False, ""):
        return ""
    if gated not in ("auto", "manual"):
        raise HubError("hub.malformed", "gated is none of auto, manual and false.")
    return cast(Gate, gated)
