"""The page's application: who may see it, and which function answers which address.

Rules
-----
1. Every address but ``/login`` needs a session; without one the answer is 401 and the log-in page.
2. What changes something is a POST with the session's token, and calls the same function as the verb does.
3. All addresses begin with a random part of this process. Browsers send cookies to every port of a host, but
   only below the cookie's path: so no other server on this machine is sent the session's cookie.
4. A known problem is shown in full, for this is the owner's own page; an unknown one as where it happened.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from plasmid.core.errors import PlasmidError, place
from plasmid.gateway.home import SiteHome
from plasmid.owner.page.forms import Action, Asked, Page, Shown, problem
from plasmid.owner.page.pages import ACTIONS, NAVIGATION, PAGES
from plasmid.owner.page.request_checks import FORM, Bounds, read_form, refused
from plasmid.owner.page.sessions import Session, Sessions
from plasmid.web.render import Renderer
from plasmid.web.request_checks import Guard

COOKIE = "plasmid_page"
log = logging.getLogger(__name__)
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(
    home: SiteHome, sessions: Sessions, *, beginning: str, hosts: Collection[str], site: str
) -> Starlette:
    """Return the application for the *site* in *home*.

    Parameters
    ----------
    beginning
        The random part that addresses begin with, without slashes.
    hosts
        The ``Host`` headers that are this page's own.
    """
    base = f"/{beginning}"
    renderer = Renderer(site=site, base=base, pages=NAVIGATION)
    desk = _Desk(home, sessions, renderer, base)
    routes = [
        Route("/login", desk.log_in_form, methods=["GET"]),
        Route("/login", desk.log_in, methods=["POST"]),
        Route("/log-out", desk.private(desk.log_out), methods=["POST"]),
        *(Route(path, desk.private(desk.show(path, page)), methods=["GET"]) for path, page in PAGES.items()),
        *(Route(path, desk.private(desk.do(action)), methods=["POST"]) for path, action in ACTIONS.items()),
    ]
    bounds = Middleware(Bounds, style=renderer.style_digest)
    guard = Middleware(Guard, known=frozenset(hosts).__contains__, takes=FORM, refuse=refused)
    return Starlette(routes=[Mount(base, routes=routes)], middleware=[bounds, guard])


Private = Callable[[Request, Session, Asked], Awaitable[Response]]


class _Desk:
    """Answers requests."""

    def __init__(self, home: SiteHome, sessions: Sessions, renderer: Renderer, base: str) -> None:
        self._home, self._sessions, self._renderer, self._base = home, sessions, renderer, base

    async def log_in_form(self, request: Request) -> Response:
        """Show the button that uses the link up; a browser that only looks ahead must not."""
        return self._login(200, secret=request.query_params.get("secret", ""))

    async def log_in(self, request: Request) -> Response:
        """Open a session for an unused secret."""
        try:
            cookie = self._sessions.open((await read_form(request)).get("secret", ""))
        except PlasmidError as error:
            return self._login(400, said=error.message)
        if cookie is None:
            return self._login(403, said="This link was used before, or has expired.")
        response = RedirectResponse(f"{self._base}/", status_code=303)
        response.set_cookie(COOKIE, cookie, path=f"{self._base}/", httponly=True, samesite="strict")
        return response

    async def log_out(self, request: Request, _session: Session, _asked: Asked) -> Response:
        """End the session."""
        self._sessions.end(request.cookies.get(COOKIE))
        response = self._login(200, said="You are logged out.")
        response.delete_cookie(COOKIE, path=f"{self._base}/")
        return response

    def private(self, answer: Private) -> Endpoint:
        """Return *answer* for those who are logged in, and for a form only with their own token."""

        async def endpoint(request: Request) -> Response:
            session = self._sessions.find(request.cookies.get(COOKIE))
            if session is None:
                return self._login(401)
            form: dict[str, str] = {}
            try:
                if request.method == "POST":
                    form = await read_form(request)
                    if not session.owns(form.pop("csrf", "")):
                        return self._page(session, problem(403, "The form was not this session's own."))
                asked = Asked(self._home, dict(request.path_params), dict(request.query_params), form)
                return await answer(request, session, asked)
            except PlasmidError as error:
                return self._page(
                    session,
                    problem(409, error.message, hint=error.hint, code=error.code, back=form.get("back")),
                )
            except Exception as error:  # noqa: BLE001 - its text could quote a cell or a passphrase
                log.error("the page failed: %s", place(error))
                return self._page(session, problem(500, f"The page failed: {place(error)}."))

        return endpoint

    def show(self, path: str, page: Page) -> Private:
        """Return the endpoint of a page."""

        async def endpoint(_request: Request, session: Session, asked: Asked) -> Response:
            return self._page(session, await run_in_threadpool(page, asked), here=path)

        return endpoint

    def do(self, action: Action) -> Private:
        """Return the endpoint of what changes something; it leads to the page that shows the change."""

        async def endpoint(_request: Request, _session: Session, asked: Asked) -> Response:
            return RedirectResponse(f"{self._base}{await run_in_threadpool(action, asked)}", status_code=303)

        return endpoint

    def _page(self, session: Session, shown: Shown, *, here: str = "") -> Response:
        text = self._renderer.page(
            shown.template, title=shown.title, here=here, token=session.token, values=shown.values
        )
        return HTMLResponse(text, shown.status)

    def _login(self, status: int, *, secret: str = "", said: str = "") -> Response:
        values = {"secret": secret, "problem": said}
        text = self._renderer.page("login.html", title="Log in", here="", token=None, values=values)
        return HTMLResponse(text, status)
