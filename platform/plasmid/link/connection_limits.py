"""What a connection to the coordinator may take: time, bytes of a head, and how many there may be.

Rules
-----
1. A TLS handshake, and the head of a request, must be whole within seconds; a body must come at a least rate
   once its grace is over, and so must the peer take an answer. Who falls behind is cut off.
2. A head has a cap in bytes. (The parser has none: it would keep a header without end.)
3. A certificate may hold a number of connections, an address without one another, and all together a third.
   One more is closed before a byte of it is read.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from plasmid.core.canonical import sha256_hex

_RESERVED_FILES = 256
"""Of the process's open files: the database, bodies, Ray."""


@dataclass(frozen=True)
class Limits:
    """What one connection, one peer and all peers together may take.

    Attributes
    ----------
    grace_s, bytes_per_s
        A body that is on its way for longer than *grace_s* must have come at *bytes_per_s* since.
    per_address
        Connections without a certificate, as from a proxy that terminates TLS for many.
    """

    handshake_s: float = 10.0
    head_s: float = 10.0
    head_bytes: int = 32 * 1024
    grace_s: float = 30.0
    bytes_per_s: int = 4096
    per_certificate: int = 64
    per_address: int = 256
    connections: int = 2048


@dataclass
class Book:
    """Who has how many connections."""

    limits: Limits
    by_peer: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(self.limits.connections, max(16, files - _RESERVED_FILES))

    def enter(self, peer: str, most: int) -> bool:
        """Count a connection of *peer*, which may have *most*; return whether it may stay."""
        if self.by_peer.total() >= self._most or self.by_peer[peer] >= most:
            return False
        self.by_peer[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        """Count a connection of *peer* no more."""
        self.by_peer[peer] -= 1
        if self.by_peer[peer] <= 0:
            del self.by_peer[peer]


class GuardedProtocol(HttpToolsProtocol):
    """HTTP/1.1 of one connection; adds the client's certificate (DER) to the state of its requests."""

    limits = Limits()
    book = Book(limits)

    def connection_made(self, transport: Any) -> None:
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(True) if tls is not None else None
        self._timer: asyncio.TimerHandle | None = None
        self._reading_head = True
        self._size = 0
        self._began = self.loop.time()
        self._entered = ""
        self._cut = False
        address = (transport.get_extra_info("peername") or ("",))[0]
        peer = sha256_hex(certificate) if certificate else address
        most = self.limits.per_certificate if certificate else self.limits.per_address
        self.app_state = {**self.app_state, "peer_certificate": certificate}
        super().connection_made(transport)
        if self.book.enter(peer, most):
            self._entered = peer
            self._begin_head()
        else:
            self._cut = True
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._entered:
            self.book.leave(self._entered)
            self._entered = ""
        super().connection_lost(exc)

    # -- how long it takes -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._cut:
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._timer is None:
            self._begin_head()  # also for a byte that begins no request, such as an empty line
        super().data_received(data)
        if self._reading_head and not self._cut:
            self._size += len(data)
            if self._size > 2 * self.limits.head_bytes:
                self._refuse(431)

    def on_message_begin(self) -> None:
        if not self._reading_head:
            self._begin_head()
        self._size = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reading_head = False
        if self._size > self.limits.head_bytes:
            self._refuse(431)
        if self._cut:
            return
        self._size, self._began = 0, self.loop.time()
        self._start_timer(self.limits.grace_s, self._check_body)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._cut:
            self._size += len(body)
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._cut:
            self._stop_timer()
            super().on_message_complete()

    def _begin_head(self) -> None:
        self._reading_head, self._size = True, 0
        self._start_timer(self.limits.head_s, lambda: self._refuse(408))

    def _check_body(self) -> None:
        late_s = self.loop.time() - self._began - self.limits.grace_s
        if self._size < late_s * self.limits.bytes_per_s:
            self._refuse(408)
        else:
            self._start_timer(1.0, self._check_body)

    def pause_writing(self) -> None:
        """Give the peer time for what is waiting to be sent: an answer that nobody takes is memory."""
        waiting = self.transport.get_write_buffer_size()
        self._start_timer(self.limits.grace_s + waiting / self.limits.bytes_per_s, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stop_timer()
        super().resume_writing()

    def _start_timer(self, delay_s: float, then: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(delay_s, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int) -> None:
        """Answer *status* if no answer has begun, and end the connection."""
        self._stop_timer()
        self._cut = True
        if self.cycle is None or self.cycle.response_complete:
            words = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
            self.transport.write(
                f"HTTP/1.1 {status} {words}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()
            )
            self.transport.close()
        else:
            self.transport.abort()


def guarded(limits: Limits) -> type[GuardedProtocol]:
    """Return the protocol with *limits* and a book of its own."""

    class Guarded(GuardedProtocol):
        pass

    Guarded.limits, Guarded.book = limits, Book(limits)
    return Guarded


class GuardedServer(uvicorn.Server):
    """uvicorn's server, with a time-out of the TLS handshake that is not a minute."""

    async def startup(self, sockets: Sequence[socket] | None = None) -> None:
        """Listen on *sockets*."""
        await self.lifespan.startup()
        config, protocol = self.config, self.config.http_protocol_class
        assert issubclass(protocol, GuardedProtocol)

        def connection() -> GuardedProtocol:
            return protocol(config=config, server_state=self.server_state, app_state=self.lifespan.state)

        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                connection,
                sock=listening,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=protocol.limits.handshake_s if config.ssl else None,
            )
            for listening in sockets or []
        ]
        self.started = True
