"""What every request and every answer of the page goes through, before and after its own code.

Rules
-----
1. The ``Host`` header must name this loopback address and port: a name that an attacker points at 127.0.0.1
   (DNS rebinding) is refused.
2. What changes something (anything but GET and HEAD) must come from this very origin: the ``Origin`` header,
   port included, where there is one, and ``Sec-Fetch-Site``. Cookies know no ports, origins do.
3. A body is at most :data:`MAX_BODY_BYTES`, a form at most :data:`MAX_FIELDS` fields.
4. Every answer forbids scripts, frames, sniffing, caching and everything from elsewhere; the one style sheet
   is in the page and named by its digest (CSP level 3, section 6.7.3.3).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plasmid.core.errors import UsageError

MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 64
MAX_URL_BYTES = 4096
MAX_HEADER_BYTES = 16 * 1024

Refusal = tuple[int, str]
"""Status and sentence."""


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], style: str) -> None:
        self._app, self._hosts = app, frozenset(hosts)
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

        refusal = _too_long(scope) or self.refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            status, sentence = refusal
            await PlainTextResponse(sentence + "\n", status)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def refusal(self, method: str, headers: Mapping[str, str]) -> Refusal | None:
        """Return why a request may not go on, None if it may."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return 421, "This page answers only under the address that 'plasmid site page' printed."
        if method in ("GET", "HEAD"):
            return None
        if headers.get("origin") not in (None, f"http://{host}"):
            return 403, "The form came from another page."
        if headers.get("sec-fetch-site") not in (None, "same-origin"):
            return 403, "The form came from another page."
        return None


def _too_long(scope: Scope) -> Refusal | None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL_BYTES:
        return 414, "The address is too long."
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        return 431, "The headers are too long."
    return None


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; the last of two with one name counts.

    Raises
    ------
    UsageError
        ``usage.form``: not a form, too long, or too many fields.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    try:
        if kind != "application/x-www-form-urlencoded" or len(body) > MAX_BODY_BYTES:
            raise ValueError
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
        return dict(fields)
    except ValueError:
        raise UsageError(
            "usage.form",
            f"this is not a form of the page, of at most {MAX_BODY_BYTES} bytes.",
            "Go back, load the page anew and fill it in again.",
        ) from None  # the cause would quote the body, and with it perhaps a passphrase
