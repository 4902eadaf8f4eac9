"""The hub's application: the Hugging Face protocol, and a plain page for each repository.

Rules
-----
1. Clients are not changed: ``HF_ENDPOINT`` is all that they are told. No answer ever sends them elsewhere:
   every link begins with the hub's own URL, which is known before anything is served.
2. A slash inside one segment of an address (``%2F``, as in the branch ``feature/x``) stays in it while routes
   are matched; only then is it a slash again.
3. Only known errors are told; anything else is 500, and logged as where it happened, without its text.
4. No answer may be shown in a frame, sniffed or scripted; pages load nothing from elsewhere.
"""

from __future__ import annotations

import logging
from urllib.parse import unquote_to_bytes

from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plasmid.core.errors import HubError, PlasmidError, place
from plasmid.hub import answers
from plasmid.hub.accounts.keys import hub_key
from plasmid.hub.accounts.limits import Buckets, Limited, Limits
from plasmid.hub.pages.pages import Renderer
from plasmid.hub.routes import access, cards, commits, files, lfs, plasmid_api, reading, writing
from plasmid.hub.routes import pages as shown
from plasmid.hub.routes.links import Links
from plasmid.hub.routes.request_context import SLASH, Desk
from plasmid.hub.routes.sessions import Sessions
from plasmid.hub.settings import Hub

log = logging.getLogger(__name__)


def build_app(hub: Hub, *, limits: Limits | None = None, name: str = "Plasmid hub") -> FastAPI:
    """Return the application of *hub*.

    Parameters
    ----------
    name
        What its pages call it.

    Raises
    ------
    HubError
        ``hub.url``: the hub's settings do not say under which URL it is reached.
    """
    hub.settings.known_as()
    limits = limits or Limits()
    buckets = Buckets(limits)
    key = hub_key(hub.engine)
    desk = Desk(
        hub=hub,
        limits=limits,
        buckets=buckets,
        links=Links(key, limits.link_s, hub.engine),
        sessions=Sessions(key, limits.session_s, hub.accounts),
        uploads=CapacityLimiter(limits.uploads),
        name=name,
    )
    renderer = Renderer(name)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, PlasmidError)
        return answers.problem(error)

    async def malformed(_: Request, __: Exception) -> Response:
        return answers.problem(HubError("hub.malformed", "a parameter is missing or wrong."))

    async def unknown(request: Request, _: Exception) -> Response:
        asked = f"{request.method} {request.url.path.replace(SLASH, '/')[:200]}"
        return answers.problem(HubError("hub.route", f"this hub does not know {asked}."))

    app.add_exception_handler(PlasmidError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, unknown)
    for router in (
        access.routes(desk),
        cards.routes(desk),
        writing.routes(desk),
        lfs.routes(desk),
        commits.routes(desk),
        reading.routes(desk),
        plasmid_api.routes(desk),
        files.routes(desk),
        shown.routes(desk, renderer),
    ):
        app.include_router(router)
    app.add_middleware(Limited, buckets=buckets, tell=answers.problem)
    app.add_middleware(KeepSlashes)
    app.add_middleware(Careful, style=renderer.style_digest)
    return app


class KeepSlashes:
    """Marks slashes that belong to a segment. ASGI middleware; see rule 2."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            raw = scope["raw_path"].partition(b"?")[0]
            mark = SLASH.encode()
            try:
                path = unquote_to_bytes(raw.replace(b"%2F", mark).replace(b"%2f", mark)).decode()
            except UnicodeDecodeError:
                path = ""
            if not path or mark in unquote_to_bytes(raw):
                error = HubError("hub.malformed", "the address is not UTF-8, or holds a control character.")
                await answers.problem(error)(scope, receive, send)
                return
            scope["path"] = path
        await self._app(scope, receive, send)


class Careful:
    """Gives every answer the headers of rule 4, and answers what nothing else caught. ASGI middleware."""

    def __init__(self, app: ASGIApp, *, style: str) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def careful(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, careful)
        except Exception as error:  # noqa: BLE001 - its text could quote a token or a file
            log.error("%s failed: %s", scope["method"], place(error))
            if begun:
                raise ConnectionAbortedError from None  # the client sees an answer that is cut off
            answer = Response("The hub failed; its log says where.\n", 500, media_type="text/plain")
            await answer(scope, receive, careful)
