"""What one request, one caller and one file may take.

Rules
-----
1. A caller is a token, or an address without one. Each has a bucket of requests for files and one for the
   rest; it fills up again evenly over the window. An empty one answers 429, says for how long, takes nothing.
2. An address that shows wrong tokens is slowed down long before it could guess one.
3. A body that is read whole has a cap. Uploads are streamed, and have theirs where they are written.
4. Buckets are kept in memory, for so many callers at most; the one that was idle longest goes first. Each
   process of a hub counts by itself: behind a proxy that spreads requests over two, a caller may do twice as
   much.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plasmid.core.errors import HubError

Kind = Literal["files", "requests", "wrong tokens"]


@dataclass(frozen=True)
class Limits:
    """The hub's caps. Sizes are bytes.

    Attributes
    ----------
    window_s
        The time in which *files*, *requests* and *wrong_tokens* are allowed to each caller.
    regular_bytes
        Files up to this come inside the commit, which every client can do. Clients with ``hf_xet`` want
        another protocol beyond it, and have to be told ``HF_HUB_DISABLE_XET=1``.
    licence
        ``warn`` about a card without one, or ``require`` it. Stock ``push_to_hub`` writes cards without one.
    link_s
        For how long a link to upload to is good.
    uploads
        That are read at the same time; further ones wait.
    session_s
        For how long a log-in on the pages is good.
    """

    window_s: float = 300.0
    files: int = 12_000
    requests: int = 4_000
    wrong_tokens: int = 30
    callers: int = 50_000
    body_bytes: int = 8 * 2**20
    regular_bytes: int = 512 * 2**20
    file_bytes: int = 64 * 2**30
    commit_operations: int = 10_000
    licence: Literal["warn", "require"] = "warn"
    link_s: float = 6 * 3600.0
    uploads: int = 32
    session_s: float = 12 * 3600.0


class TooManyRequests(HubError):
    """A caller's bucket is empty; *wait_s* is after how many whole seconds it holds one request again."""

    wait_s: int = 1


@dataclass
class Buckets:
    """Who may still ask how much. *clock* tells seconds, monotonic."""

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    _left: OrderedDict[tuple[Kind, str], tuple[float, float]] = field(default_factory=OrderedDict)

    def check(self, kind: Kind, caller: str) -> None:
        """Raise TooManyRequests (``hub.too_many_requests``) if *caller* has none left; count nothing."""
        self.take(kind, caller, count=0)

    def take(self, kind: Kind, caller: str, *, count: int = 1) -> None:
        """Count a request of *caller*. Raises TooManyRequests (``hub.too_many_requests``)."""
        size = self._size(kind)
        left, seen = self._left.pop((kind, caller), (float(size), self.clock()))
        now = self.clock()
        left = min(size, left + (now - seen) * size / self.limits.window_s)
        short = left < 1
        self._left[kind, caller] = (left if short else left - count, now)
        while len(self._left) > self.limits.callers:
            self._left.popitem(last=False)
        if short:
            wait_s = math.ceil((1 - left) * self.limits.window_s / size)
            said = f"more than {size} {kind} in {self.limits.window_s:.0f} s."
            error = TooManyRequests("hub.too_many_requests", said, f"Wait {wait_s} s.")
            error.wait_s = wait_s
            raise error

    def _size(self, kind: Kind) -> int:
        sizes = {"files": self.limits.files, "requests": self.limits.requests}
        return sizes.get(kind, self.limits.wrong_tokens)


def caller_of(scope: Scope) -> str:
    """Return what a caller's buckets are kept under: a digest of its token, or its address."""
    shown = Headers(scope=scope).get("authorization")
    if shown:
        return hashlib.sha256(shown.encode()).hexdigest()
    return address_of(scope)


def address_of(scope: Scope) -> str:
    """Return the address that the connection comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class Limited:
    """Counts requests and caps bodies, before anything else is done. ASGI middleware.

    Parameters
    ----------
    tell
        Makes an error into an answer.
    """

    def __init__(self, app: ASGIApp, *, buckets: Buckets, tell: Callable[[HubError], ASGIApp]) -> None:
        self._app, self._buckets, self._tell = app, buckets, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._buckets.take("files" if "/resolve/" in scope["path"] else "requests", caller_of(scope))
            self._check_length(scope)
        except HubError as error:
            await self._tell(error)(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._buckets.limits.body_bytes:
                raise _too_long(self._buckets.limits.body_bytes)
            return message

        await self._app(scope, receive if streamed(scope) else counted, send)

    def _check_length(self, scope: Scope) -> None:
        said = Headers(scope=scope).get("content-length", "0")
        if not (said.isascii() and said.isdecimal() and len(said) < 20):
            raise HubError("hub.malformed", "the length of the body is not a number.")
        if not streamed(scope) and int(said) > self._buckets.limits.body_bytes:
            raise _too_long(self._buckets.limits.body_bytes)


def streamed(scope: Scope) -> bool:
    """Return whether the body of a request is an upload, which its route reads and caps by itself."""
    path = scope["path"]
    return bool(path.startswith("/api/") and ("/commit/" in path or path.startswith("/api/uploads/")))


def _too_long(most: int) -> HubError:
    return HubError("hub.too_large", f"a request of more than {most} bytes is not taken here.")
