"""The addresses that people open: the list, and a repository at a revision.

Rules
-----
1. A page is for everyone: it shows what somebody without a token may see, unless the request shows one.
2. Addresses that clients print (``/tree/``, ``/blob/``, ``/commit/``) lead to the page of that revision.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response

from plasmid.core.bounds import check_json
from plasmid.core.errors import HubError
from plasmid.hub import answers, pages
from plasmid.hub.finding import Query
from plasmid.hub.limits import address_of
from plasmid.hub.records import Account, Commit, Repo
from plasmid.hub.routes.cards import MAX_CARD_BYTES, split
from plasmid.hub.routes.desk import Desk

ROWS = 50
FILES = 500
EDGES = 200
_FORM_BYTES = 16 * 1024


def routes(desk: Desk, renderer: pages.Renderer) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/")
    @router.get("/models")
    def models(request: Request, search: str = "", cursor: str | None = None) -> Response:
        return shown(request, lambda: listed(request, None, search, cursor))

    @router.get("/{owner}")
    def of_owner(request: Request, owner: str, search: str = "", cursor: str | None = None) -> Response:
        return shown(request, lambda: listed(request, owner, search, cursor))

    @router.get("/{owner}/{name}")
    @router.get("/{owner}/{name}/tree/{revision}")
    @router.get("/{owner}/{name}/tree/{revision}/{path:path}")
    @router.get("/{owner}/{name}/blob/{revision}/{path:path}")
    @router.get("/{owner}/{name}/commit/{revision}")
    def repository(request: Request, owner: str, name: str, revision: str = "main") -> Response:
        if owner == "api":
            raise HubError("hub.route", f"this hub does not know GET /api/{name[:100]}.")
        return shown(request, lambda: page(request, owner, name, revision))

    @router.post("/{owner}/{name}/accept")
    async def accept(request: Request, owner: str, name: str) -> Response:
        body = await request.body()
        form = dict(parse_qsl(body[:_FORM_BYTES].decode("utf-8", "replace"), max_num_fields=8))
        return await run_in_threadpool(
            shown, request, lambda: accepted(request, owner, name, form.get("token", ""))
        )

    def shown(request: Request, made: Callable[[], str]) -> Response:
        try:
            return HTMLResponse(made())
        except HubError as error:
            if "text/html" not in request.headers.get("accept", ""):
                return answers.problem(error)
            text = renderer.page(
                "message.html", "Not shown", message=error.message, hint=error.hint, bad=True, back="/"
            )
            return HTMLResponse(text, answers.STATUS.get(error.code, 400))

    def listed(request: Request, owner: str | None, search: str, cursor: str | None) -> str:
        query = Query(search=search[:200], author=owner)
        found = desk.hub.finding.search(query, viewer=desk.caller(request), limit=ROWS, cursor=cursor)
        further = urlencode({"search": search[:200], "cursor": found.cursor}) if found.cursor else ""
        title = f"Models of {owner}" if owner else "Models"
        return renderer.page("list.html", title, rows=found.found, search=search[:200], next=further)

    def page(request: Request, owner: str, name: str, revision: str) -> str:
        repo, account = desk.repo(request, owner, name)
        commit = desk.revision(repo, revision)
        return renderer.page(
            "repo.html", str(repo.id), **_values(desk, desk.url(request), repo, commit, account)
        )

    def accepted(request: Request, owner: str, name: str, token: str) -> str:
        account = desk.hub.accounts.who(token)
        if account is None:
            desk.buckets.take("wrong tokens", address_of(request.scope))
            raise HubError("hub.token", "that is not a token of this hub, or it was revoked or has expired.")
        repo = desk.repo_for(account, owner, name, "read")
        said = {
            "open": "It has no terms to accept: its files can be downloaded.",
            "accepted": "You accepted the terms. Its files can be downloaded with a token of yours.",
            "pending": "You accepted the terms. The owners have been asked to let you in.",
            "rejected": "The owners did not let you in.",
        }[desk.hub.registry.gates.accept(repo, account)]
        return renderer.page(
            "message.html", str(repo.id), message=said, hint="", bad=False, back=f"/{repo.id}"
        )

    return router


def _values(desk: Desk, url: str, repo: Repo, commit: Commit, viewer: Account | None) -> dict[str, Any]:
    registry, finding = desk.hub.registry, desk.hub.finding
    files = registry.tree(commit)
    by_path = {file.path: file.sha256 for file in files}
    found = finding.about(repo)
    parents = finding.parents(repo, viewer=viewer)
    adapter = "adapter_config.json" in by_path
    base = next((edge.name for edge in parents if edge.kind == "base" and edge.repo is not None), None)

    def text(path: str) -> str:
        data = desk.hub.blobs.load(by_path[path], max_bytes=MAX_CARD_BYTES) if path in by_path else None
        return (data or b"").decode("utf-8", "replace")

    return {
        "repo": repo,
        "commit": commit,
        "found": found,
        "files": files[:FILES],
        "more": max(0, len(files) - FILES),
        "parents": parents,
        "children": finding.children(repo, viewer=viewer, limit=EDGES),
        "refs": registry.refs(repo),
        "privacy": pages.privacy_line(found.epsilon, _object(text("provenance.json"))),
        "commands": pages.commands(repo, commit, url=url, base=base, adapter=adapter),
        "card": pages.card_html(split(text("README.md"))[1], repo=repo, commit=commit),
    }


def _object(text: str) -> dict[str, Any] | None:
    try:
        check_json(text.encode())
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
