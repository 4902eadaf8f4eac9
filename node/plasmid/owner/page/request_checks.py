"""What every request and every answer of the page goes through, beside :mod:`plasmid.web.request_checks`.

Rules
-----
1. An address, its headers and a body are bounded (:data:`MAX_BODY_BYTES`), a form has at most
   :data:`MAX_FIELDS` fields.
2. Every answer forbids scripts, frames, sniffing, caching and everything from elsewhere; the one style sheet
   is in the page and named by its digest (CSP level 3, section 6.7.3.3).
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plasmid.core.errors import UsageError
from plasmid.web.request_checks import Refusal

MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 64
FORM = "application/x-www-form-urlencoded"
MAX_URL_BYTES = 4096
MAX_HEADER_BYTES = 16 * 1024


class Bounds:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, style: str) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "same-origin",  # no-referrer would blank the Origin of our own forms
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            "Cache-Control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
            await send(message)

        refusal = _too_long(scope)
        await (self._app if refusal is None else refused(refusal))(scope, receive, guarded)


def refused(refusal: Refusal) -> Response:
    """Return the answer to a request that may not go on."""
    return PlainTextResponse(refusal.sentence + "\n", refusal.status)


def _too_long(scope: Scope) -> Refusal | None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL_BYTES:
        return Refusal(414, "too_long", "The address is too long.")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        return Refusal(431, "too_long", "The headers are too long.")
    return None


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; the last of two with one name counts.

    Raises
    ------
    UsageError
        ``usage.form``: not a form, too long, or too many fields.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    try:
        if len(body) > MAX_BODY_BYTES:
            raise ValueError
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
        return dict(fields)
    except ValueError:
        raise UsageError(
            "usage.form",
            f"this is not a form of the page, of at most {MAX_BODY_BYTES} bytes.",
            "Go back, load the page anew and fill it in again.",
        ) from None  # the cause would quote the body, and with it perhaps a passphrase
