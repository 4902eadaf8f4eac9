"""What every request to a service goes through, at whatever address: no web page speaks for its reader.

A browser sends requests for any page to any address that it reaches, loopback included. What it says of where
they come from no page can change (Fetch, sections 2.2.2 and 4.6; RFC 9110, section 7.2).

Rules
-----
1. The ``Host`` header must be one that the service is known by: a page may point its own name at this machine
   (DNS rebinding), and then counts as of one origin with it.
2. A request that a page of another origin has made is refused: by ``Sec-Fetch-Site``, and by ``Origin``, port
   included, which older browsers send too. An address that a person has typed or kept is nobody's page.
3. What may change something (anything but GET, HEAD and OPTIONS) has the one type that the service takes. A
   form of another page has three types to choose from, none of them JSON; of any other a browser asks first,
   and rule 2 says no.
4. Sockets of the web are closed: browsers open them across origins without asking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Known = Callable[[str], bool]
"""Whether a ``Host`` header is one of the service's own."""
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")
_READS = ("GET", "HEAD", "OPTIONS")


class Refusal(NamedTuple):
    """Status, a word for programs, and a sentence."""

    status: int
    code: str
    sentence: str


WRONG_HOST = Refusal(421, "wrong_host", "This service answers under its own addresses only.")
FOREIGN_PAGE = Refusal(403, "foreign_page", "This request was made by a page of another site.")


class Guard:
    """An ASGI layer round a whole application, so that a route which is added later is behind it, too.

    Parameters
    ----------
    known
        See :func:`named`.
    takes
        The media type of rule 3.
    refuse
        Makes the answer to a request that is refused.
    """

    def __init__(
        self, app: ASGIApp, *, known: Known, takes: str, refuse: Callable[[Refusal], Response]
    ) -> None:
        self._app, self._known, self._takes, self._refuse = app, known, takes, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self.refusal(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        await (self._app if refusal is None else self._refuse(refusal))(scope, receive, send)

    def refusal(self, method: str, headers: Mapping[str, str]) -> Refusal | None:
        """Return why a request may not go on, None if it may."""
        host, origin, site = (headers.get(name) for name in ("host", "origin", "sec-fetch-site"))
        if host is None or not self._known(host):
            return WRONG_HOST
        own = (None, "same-origin", "none") if method in _READS else (None, "same-origin")
        if site not in own or (origin is not None and _netloc(origin) != host.lower()):
            return FOREIGN_PAGE
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method not in _READS and kind != self._takes:
            return Refusal(415, "unsupported_media_type", f"Send the body as Content-Type: {self._takes}.")
        return None


def named(names: Collection[str], *, addresses: bool = False) -> Known:
    """Return whether a ``Host`` header, at any port, has one of *names*; ``*.`` stands for one label.

    Parameters
    ----------
    addresses
        An address in figures will do as well: no page can point that elsewhere.
    """
    known = frozenset(name.lower() for name in names)

    def is_known(host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].lower()
        return name in known or f"*.{name.partition('.')[2]}" in known or (addresses and _is_address(name))

    return is_known


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # no address at all
        return ""
