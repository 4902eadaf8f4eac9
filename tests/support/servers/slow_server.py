"""A small HTTP server in a thread, with a protocol class to be attacked: no TLS, no members."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from plasmid.link.connection_limits import GuardedServer


class Unguarded(HttpToolsProtocol):
    """What uvicorn does by itself: the positive control."""


def application() -> FastAPI:
    """Return an application that reads bodies and sends one of 16 MiB."""
    app = FastAPI(openapi_url=None)

    @app.post("/read")
    async def read(request: Request) -> dict[str, int]:
        return {"read": len(await request.body())}

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(16 * 2**20))

    return app


@contextlib.contextmanager
def serving(protocol: type[HttpToolsProtocol]) -> Iterator[int]:
    """Serve on a free port of this host while the block runs; yield the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        application(), http=protocol, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
    )
    kind = uvicorn.Server if protocol is Unguarded else GuardedServer
    server = kind(config)

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    done = run(server.serve(sockets=[listening]))
    try:
        while not server.started:
            run(asyncio.sleep(0.01)).result(5)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        done.result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
