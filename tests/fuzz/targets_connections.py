"""What the coordinator's server makes of the bytes of a connection, in pieces of several sizes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from fuzz.registry import maker, new_loop
from fuzz.runner import Target
from plasmid.core.errors import ProtocolError
from plasmid.link.connection_limits import Limits, guarded


class _Pipe(asyncio.Transport):
    """A transport that swallows what is sent."""

    closing = False
    sent = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def write(self, data: Any) -> None:
        self.sent += bytes(data)[:100]

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        """Go on."""

    resume_reading = pause_reading


class _Failures(logging.Handler):
    """Keeps what the server logs as errors: an exception that it caught is one nevertheless."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self.logger = logging.Logger("of a connection")
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


class Connections:
    """Guarded connections in front of an application that reads what there is."""

    def __init__(self) -> None:
        self._loop = new_loop()
        self._failures = _Failures()
        self._loop.set_exception_handler(lambda _, context: self._failures.found.append(str(context)))
        self.protocol = guarded(Limits())
        self._config = uvicorn.Config(
            self._read, http=self.protocol, interface="asgi3", ws="none", lifespan="off", log_config=None
        )
        self._config.load()

    async def _read(self, _: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def feed(self, data: bytes) -> bytes:
        """Return how each part of the answers to *data* begins, after the connection has ended."""
        return self._loop.run_until_complete(self._fed(data))

    async def _fed(self, data: bytes) -> bytes:
        step = (len(data) + 1, 7, 100, 1000)[len(data) % 4]
        pipe, state = _Pipe(), ServerState()
        connection = self.protocol(config=self._config, server_state=state, app_state={})
        connection.logger = self._failures.logger
        connection.connection_made(pipe)
        for start in range(0, len(data), step):
            if pipe.closing:
                break
            connection.data_received(data[start : start + step])
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.gather(*state.tasks)
        assert not self.protocol.book.by_peer
        assert connection._timer is None
        assert not self._failures.found, self._failures.found.pop()
        return pipe.sent


_SENT = (
    b"GET /v1/card HTTP/1.1\r\nhost: localhost:8443\r\naccept: */*\r\n\r\n",
    b"POST /v1/enrol HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345GET / HTTP/1.1\r\n\r\n",
    b"POST /v1/enrol HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n{}",
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n\r\nGET /?q HTTP/1.1\r\nhost: b\r\nx: %s\r\n\r\n"
    % (b"y" * 3000),
)


@maker
def _connections() -> Iterator[Target]:
    connections = Connections()

    def run(data: bytes) -> None:
        sent = connections.feed(data)
        if b"HTTP/1.1 200" not in sent:
            raise ProtocolError(f"http.{sent[9:12].decode() or 'nothing'}", "refused")

    yield Target("bytes of a connection", list(_SENT), run, structured=False, cost=4)
