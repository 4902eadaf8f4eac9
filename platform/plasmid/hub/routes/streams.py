"""Uploads, read in a thread of their own while they arrive.

Rules
-----
1. So many threads at a time and no more; another upload waits, and its client with it (TCP). They are not
   those that answer short requests, so slow uploads keep nobody else waiting.
2. A body that ends early is an error, whatever came before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from anyio import from_thread, to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from plasmid.core.errors import HubError
from plasmid.hub.routes.request_context import Desk

T = TypeVar("T")


async def read_in_thread(desk: Desk, request: Request, work: Callable[[Iterator[bytes]], T]) -> T:
    """Return what *work* makes of the pieces of the body, in a thread.

    Raises
    ------
    HubError
        ``hub.truncated``: the client went away before the end; and whatever *work* raises.
    """
    stream = request.stream()

    async def following() -> bytes:
        return await anext(stream, b"")

    def pieces() -> Iterator[bytes]:
        while True:
            try:
                piece = from_thread.run(following)
            except ClientDisconnect:
                raise HubError("hub.truncated", "the upload ended early.", "Send it again.") from None
            if not piece:
                return
            yield piece

    return await to_thread.run_sync(lambda: work(pieces()), limiter=desk.uploads)
