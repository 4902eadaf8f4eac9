"""Who one is, what one may read, and who asks to read gated files."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from plasmid.core.errors import HubError
from plasmid.hub import answers
from plasmid.hub.routes.request_context import Body, Desk, text_of
from plasmid.hub.store.records import AccessRequest

_STATES = ("pending", "accepted", "rejected")


def routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    gates = desk.hub.registry.gates

    @router.get("/api/whoami-v2")
    def whoami(request: Request) -> dict[str, Any]:
        return answers.whoami(desk.member(request))

    @router.get("/api/models/{owner}/{name}/auth-check")
    def may_read(request: Request, owner: str, name: str) -> dict[str, Any]:
        repo, account = desk.repo(request, owner, name)
        desk.check_gate(repo, account)
        return {"id": str(repo.id)}

    @router.get("/api/models/{owner}/{name}/auth-check/write")
    def may_write(request: Request, owner: str, name: str) -> dict[str, Any]:
        repo, _ = desk.writable(request, owner, name)
        return {"id": str(repo.id)}

    @router.post("/{owner}/{name}/ask-access")
    def ask(request: Request, owner: str, name: str) -> dict[str, Any]:
        desk.member(request)
        repo, account = desk.repo(request, owner, name)
        assert account is not None
        return {"id": str(repo.id), "status": gates.accept(repo, account)}

    @router.get("/api/models/{owner}/{name}/user-access-request/{state}")
    def asked(request: Request, owner: str, name: str, state: str) -> list[dict[str, Any]]:
        repo, _ = desk.repo(request, owner, name, "admin")
        if state not in _STATES:
            raise HubError("hub.malformed", f"a request for access is one of {', '.join(_STATES)}.")
        return [_request(one) for one in gates.requests(repo) if one.state == state]

    @router.post("/api/models/{owner}/{name}/user-access-request/handle")
    def handle(request: Request, owner: str, name: str, body: Body) -> dict[str, Any]:
        repo, _ = desk.repo(request, owner, name, "admin")
        state = text_of(body, "status")
        if state not in ("accepted", "rejected"):
            raise HubError("hub.malformed", "a request for access is accepted or rejected, nothing else.")
        who = text_of(body, "user", default="") or text_of(body, "requestId")
        gates.decide(repo, who, grant=state == "accepted")
        return {"user": who, "status": state}

    @router.post("/api/models/{owner}/{name}/user-access-request/grant")
    def grant(request: Request, owner: str, name: str, body: Body) -> dict[str, Any]:
        repo, _ = desk.repo(request, owner, name, "admin")
        who = text_of(body, "user")
        gates.decide(repo, who, grant=True)
        return {"user": who, "status": "accepted"}

    return router


def _request(one: AccessRequest) -> dict[str, Any]:
    return {
        "requestId": one.account,
        "user": {"user": one.account, "fullname": one.account, "email": one.email},
        "status": one.state,
        "timestamp": answers.time_text(one.asked),
    }
