"""The addresses that people open: the list, a repository at a revision, the log-in that private ones need.

Rules
-----
1. A page shows what somebody without a token may see, and to who has logged in, or shows a token, what that
   account may see (:mod:`plasmid.hub.routes.sessions`).
2. Addresses that clients print (``/tree/``, ``/blob/``, ``/commit/``) lead to the page of that revision.
3. What is shown to one person is kept by no cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from plasmid.core.bounds import parse_json
from plasmid.core.errors import HubError
from plasmid.hub import answers
from plasmid.hub.pages import pages
from plasmid.hub.routes.cards import MAX_CARD_BYTES, split
from plasmid.hub.routes.request_context import Desk
from plasmid.hub.routes.sessions import Session, check_form, check_own_page, form_of, here_of, local
from plasmid.hub.store.finding import Query
from plasmid.hub.store.records import Account, Commit, Repo

ROWS = 50
FILES = 500
EDGES = 200
_PRIVATE = ("hub.repo_missing", "hub.log_in")
"""What somebody who has not logged in may be told because of that."""
Made = Callable[["_Visit"], str]


@dataclass(frozen=True)
class _Visit:
    """Somebody looks at a page."""

    desk: Desk
    renderer: pages.Renderer
    request: Request
    session: Session | None

    @property
    def viewer(self) -> Account | None:
        """As whom: by a token that a program shows, else by a session."""
        return self.desk.caller(self.request) or (self.session.account if self.session else None)

    def page(self, template: str, title: str, **values: Any) -> str:
        """Return a page with its frame."""
        frame = {"session": self.session, "here": here_of(self.request)}
        return self.renderer.page(template, title, **frame, **values)

    def answer(self, made: Made) -> Response:
        """Return the page that *made* makes, or one that says what is wrong."""
        try:
            return self.sent(made(self))
        except HubError as error:
            if "text/html" not in self.request.headers.get("accept", ""):
                return answers.problem(error)
            private = self.session is None and error.code in _PRIVATE
            said = {
                "message": error.message,
                "hint": error.hint,
                "bad": True,
                "back": "/",
                "private": private,
            }
            text = self.page("message.html", "Not shown", **said)
            return self.sent(text, answers.STATUS.get(error.code, 400))

    def sent(self, text: str, status: int = 200) -> Response:
        """Return the answer with the page *text*. Forms name this hub as where they come from."""
        kept = "no-cache" if self.session is None else "private, no-store"
        headers = {"Cache-Control": kept, "Vary": "Cookie", "Referrer-Policy": "same-origin"}
        return HTMLResponse(text, status, headers)


def routes(desk: Desk, renderer: pages.Renderer) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    def visit(request: Request) -> _Visit:
        return _Visit(desk, renderer, request, desk.session(request))

    @router.get("/login")
    def log_in_page(request: Request, next: str = "/") -> Response:  # noqa: A002 - the page's own word
        return visit(request).answer(lambda seen: _log_in(seen, local(next), ""))

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        return await run_in_threadpool(begun, request, await form_of(request))

    @router.post("/logout")
    async def log_out(request: Request) -> Response:
        return await run_in_threadpool(ended, request, await form_of(request))

    @router.get("/")
    @router.get("/models")
    def models(request: Request, search: str = "", cursor: str | None = None) -> Response:
        return visit(request).answer(lambda seen: _listed(seen, None, search, cursor))

    @router.get("/{owner}")
    def of_owner(request: Request, owner: str, search: str = "", cursor: str | None = None) -> Response:
        return visit(request).answer(lambda seen: _listed(seen, owner, search, cursor))

    @router.get("/{owner}/{name}")
    @router.get("/{owner}/{name}/tree/{revision}")
    @router.get("/{owner}/{name}/tree/{revision}/{path:path}")
    @router.get("/{owner}/{name}/blob/{revision}/{path:path}")
    @router.get("/{owner}/{name}/commit/{revision}")
    def repository(request: Request, owner: str, name: str, revision: str = "main") -> Response:
        if owner == "api":
            raise HubError("hub.route", f"this hub does not know GET /api/{name[:100]}.")
        return visit(request).answer(lambda seen: _repository(seen, owner, name, revision))

    @router.post("/{owner}/{name}/accept")
    async def accept(request: Request, owner: str, name: str) -> Response:
        form = await form_of(request)
        return await run_in_threadpool(
            lambda: visit(request).answer(lambda seen: _accepted(seen, owner, name, form))
        )

    def begun(request: Request, form: dict[str, str]) -> Response:
        """Begin a session, or show the form again."""
        seen, url = visit(request), desk.url
        back, secret = local(form.get("next", "/")), form.get("token", "").strip()
        problem: HubError
        try:
            check_own_page(request, url)
            desk.token_of_form(request, secret)
        except HubError as error:
            problem = error
        else:
            answer = RedirectResponse(back, 303, {"Cache-Control": "no-store"})
            desk.sessions.begin(answer, url, secret)
            return answer
        said = f"{problem.message} {problem.hint}".strip()
        return seen.sent(_log_in(seen, back, said), answers.STATUS.get(problem.code, 400))

    def ended(request: Request, form: dict[str, str]) -> Response:
        seen = visit(request)

        def checked(_: _Visit) -> str:
            if seen.session is not None:
                check_form(seen.session, form.get("form", ""))
            return ""

        refused = seen.answer(checked)
        if refused.status_code != 200:
            return refused
        answer = RedirectResponse("/", 303, {"Cache-Control": "no-store"})
        desk.sessions.end(answer, desk.url)
        return answer

    return router


def _log_in(seen: _Visit, back: str, problem: str) -> str:
    return seen.page("login.html", "Log in", next=back, problem=problem)


def _listed(seen: _Visit, owner: str | None, search: str, cursor: str | None) -> str:
    query = Query(search=search[:200], author=owner)
    found = seen.desk.hub.finding.search(query, viewer=seen.viewer, limit=ROWS, cursor=cursor)
    further = urlencode({"search": search[:200], "cursor": found.cursor}) if found.cursor else ""
    title = f"Models of {owner}" if owner else "Models"
    return seen.page("list.html", title, rows=found.found, search=search[:200], next=further)


def _repository(seen: _Visit, owner: str, name: str, revision: str) -> str:
    desk, viewer = seen.desk, seen.viewer
    repo = desk.repo_for(viewer, owner, name, "read")
    commit = desk.revision(repo, revision)
    values = _values(desk, desk.url, repo, commit, viewer)
    writes = desk.hub.accounts.may(viewer, repo, "write")
    access = desk.hub.registry.gates.access(repo, viewer, writes=writes)
    return seen.page("repo.html", str(repo.id), access=access, **values)


def _accepted(seen: _Visit, owner: str, name: str, form: dict[str, str]) -> str:
    """Accept terms, for who has logged in, or with a token that is in the form and is not kept."""
    desk = seen.desk
    if seen.session is not None and not form.get("token"):
        check_form(seen.session, form.get("form", ""))
        account = seen.session.account
    else:
        account = desk.token_of_form(seen.request, form.get("token", "").strip())
    repo = desk.repo_for(account, owner, name, "read")
    said = {
        "open": "It has no terms to accept: its files can be downloaded.",
        "accepted": "You accepted the terms. Its files can be downloaded with a token of yours.",
        "pending": "You accepted the terms. The owners have been asked to let you in.",
        "rejected": "The owners did not let you in.",
    }[desk.hub.registry.gates.accept(repo, account)]
    return seen.page(
        "message.html", str(repo.id), message=said, hint="", bad=False, back=f"/{repo.id}", private=False
    )


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
        value = parse_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
