"""Row 27. Attack: oversized and slow messages, slow-loris, 10^6 keys.

Must hold: 413 or a time-out, at bounded memory. Caps on a body are tested in tests/link/test_routes.py.
"""

from __future__ import annotations

import gzip
import json
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from plasmid.core.bounds import MAX_JSON_VALUES
from plasmid.link.connection_limits import GuardedProtocol, Limits, guarded
from plasmid.link.routes import MAX_MESSAGE_BYTES
from plasmid.protocol.messages import parse_signed
from plasmid.uplink.capped_response import CappedTransport
from support.federation.attacks import refusal
from support.federation.live_link import LiveLink
from support.servers.slow_server import Unguarded, serving

LIMITS = Limits(handshake_s=0.6, head_s=0.6, grace_s=0.6, bytes_per_s=50_000, per_address=4)
WATCHED_S = 2.5
PAUSE_S = 0.1
Protocol = type[HttpToolsProtocol]


@pytest.fixture(scope="module")
def ours() -> Protocol:
    return guarded(LIMITS)


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 5)
    connection.settimeout(PAUSE_S)
    return connection


def drip(port: int, head: bytes, drop: bytes) -> float | None:
    """Send *head*, then *drop* ten times a second; return when the other end hung up, None if it did not."""
    begun = time.monotonic()
    with connect(port) as connection:
        connection.sendall(head)
        while time.monotonic() - begun < WATCHED_S:
            try:
                connection.sendall(drop)
                if connection.recv(4096) == b"":
                    return time.monotonic() - begun
            except TimeoutError:
                continue
            except OSError:
                return time.monotonic() - begun
    return None


SLOW = {
    "a head": (b"GET /large HTTP/1.1\r\nHost: x\r\n", b"X-a: b\r\n"),
    "a header's value": (b"GET /large HTTP/1.1\r\nX-a: ", b"b"),
    "silence": (b"", b""),
    "empty lines": (b"", b"\r\n"),
    "a body": (b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", b"0123456789"),
    "chunks": (b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}


def drip_all(protocol: Protocol) -> dict[str, float | None]:
    """Attack with everything in ``SLOW`` at once; return when each was cut off."""
    with serving(protocol) as port, ThreadPoolExecutor(len(SLOW)) as pool:
        running = {what: pool.submit(drip, port, *how) for what, how in SLOW.items()}
        return {what: done.result(30) for what, done in running.items()}


def test_who_is_slow_is_cut_off() -> None:
    ended = drip_all(guarded(replace(LIMITS, per_address=len(SLOW))))
    assert all(after is not None and after < WATCHED_S for after in ended.values()), ended


def test_control_without_the_guard_a_drip_holds_the_connection() -> None:
    assert drip_all(Unguarded) == dict.fromkeys(SLOW)


def post(port: int, body: bytes, *, pieces: int, pause_s: float) -> bytes:
    with connect(port) as connection:
        connection.settimeout(10)
        connection.sendall(f"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        step = len(body) // pieces
        for start in range(0, len(body), step):
            connection.sendall(body[start : start + step])
            time.sleep(pause_s)
        return connection.recv(4096)


def test_a_body_that_is_only_slower_than_usual_arrives(ours: Protocol) -> None:
    """200 kB over two seconds, well beyond the grace, at twice the least rate."""
    with serving(ours) as port:
        assert post(port, bytes(200_000), pieces=20, pause_s=0.1).startswith(b"HTTP/1.1 200")


def test_a_connection_may_rest_between_requests(ours: Protocol) -> None:
    """The keep-alive of uvicorn, 75 s here, ends it; the time-out of a head does not."""
    with serving(ours) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for _ in range(2):
            assert client.post("/read", content=b"abc").json() == {"read": 3}
            time.sleep(2 * LIMITS.head_s)
        assert len(guarded_book(ours)) == 1


def guarded_book(protocol: Any) -> dict[str, int]:
    """Return the open connections by peer."""
    return dict(protocol.book.by_peer)


def flood(port: int, size: int) -> tuple[int, int]:
    """Send a header of up to *size* bytes; return (bytes sent, peak of the memory that Python took)."""
    block, sent = b"x" * 65536, 0
    tracemalloc.start()
    try:
        with connect(port) as connection:
            connection.settimeout(1)
            connection.sendall(b"GET /large HTTP/1.1\r\nX-a: ")
            try:
                while sent < size:
                    connection.sendall(block)
                    sent += len(block)
            except OSError:
                pass
        return sent, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_header_without_end_is_not_kept(ours: Protocol) -> None:
    size = 16 * 2**20
    with serving(Unguarded) as port:
        control_sent, _ = flood(port, size)
    assert control_sent == size  # the control: the parser takes all of it
    with serving(ours) as port:
        sent, peak = flood(port, size)
    assert sent < size
    assert peak < 4 * 2**20


def test_many_headers_are_not_kept(ours: Protocol) -> None:
    head = b"GET /large HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % index for index in range(20_000)) + b"\r\n"
    for protocol, expected in ((Unguarded, b"HTTP/1.1 200"), (ours, b"HTTP/1.1 431")):
        with serving(protocol) as port, connect(port) as connection:
            connection.settimeout(5)
            connection.sendall(head)
            assert connection.recv(12) == expected


def still_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def test_one_address_has_only_so_many_connections() -> None:
    """Limits with a long time for a head, so that only their number counts."""
    protocol: Any = guarded(Limits(head_s=60, per_address=4))
    for kind, kept in ((Unguarded, 7), (protocol, 4)):
        with serving(kind) as port:
            held = [connect(port) for _ in range(7)]
            time.sleep(0.3)
            assert sum(map(still_open, held)) == kept
            for connection in held:
                connection.close()
            until(lambda: not guarded_book(protocol))  # of the control there is none
            with connect(port) as again:  # there is room again
                assert still_open(again)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_answer_that_nobody_takes_is_dropped() -> None:
    protocol: Any = guarded(Limits(head_s=60, grace_s=0.3, bytes_per_s=2**24))
    with serving(protocol) as port, connect(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: bool(guarded_book(protocol)))
        until(lambda: not guarded_book(protocol))
    with serving(protocol) as port, connect(port) as connection:  # one that is taken arrives
        connection.settimeout(10)
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size = 0
        while part := connection.recv(2**20):
            size += len(part)
        assert size > 16 * 2**20


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveLink]:
    with LiveLink(tmp_path, limits=LIMITS) as link:
        yield link


def test_a_handshake_that_is_not_finished_is_ended(live: LiveLink) -> None:
    port = httpx.URL(live.url).port
    assert port is not None
    begun = time.monotonic()
    with connect(port) as connection:
        connection.settimeout(10)
        connection.sendall(b"\x16\x03\x01\x02\x00")  # the head of a record that never comes
        assert connection.recv(1) == b""
    assert 0.5 * LIMITS.handshake_s < time.monotonic() - begun < 5
    assert GuardedProtocol.limits.handshake_s < 60  # what asyncio would wait


# -- what is in a message --------------------------------------------------------------------------


def bombs() -> dict[str, bytes]:
    """Return messages that fit the cap in bytes and take many times as much when they are parsed."""
    keys = json.dumps({f"k{index}": index for index in range(10**6)})
    return {
        "a million keys": f'{{"payload":{keys},"signer":"a","signature":"{"0" * 128}"}}'.encode(),
        "empty lists": b'{"payload":{"a":[' + b"[]," * (MAX_MESSAGE_BYTES // 3 - 100) + b"[]]}}",
        "deep lists": b'{"payload":{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}}",
        "deep objects": b'{"payload":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}",
    }


@pytest.fixture(scope="module")
def made_bombs() -> dict[str, bytes]:
    return bombs()


@pytest.mark.promise("sizes-capped")
@pytest.mark.parametrize("what", ["a million keys", "empty lists", "deep lists", "deep objects"])
def test_a_bomb_of_values_is_refused_at_bounded_memory(made_bombs: dict[str, bytes], what: str) -> None:
    bomb = made_bombs[what]
    assert len(bomb) <= MAX_MESSAGE_BYTES
    tracemalloc.start()
    try:
        with refusal("protocol.malformed"):
            parse_signed(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20  # as many as its text, which is at most so long


def test_control_the_parser_alone_takes_a_hundred_megabytes(made_bombs: dict[str, bytes]) -> None:
    tracemalloc.start()
    try:
        json.loads(made_bombs["a million keys"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak > 64 * 2**20


def test_what_may_be_parsed_stays_small() -> None:
    """The dearest message below the cap: every value an object with one key of its own."""
    values = ",".join(f'{{"k{index}":{{}}}}' for index in range(MAX_JSON_VALUES // 4))
    message = f'{{"payload":{{"a":[{values}]}},"signer":"a","signature":"{"0" * 128}"}}'.encode()
    tracemalloc.start()
    try:
        assert parse_signed(message).signer == "a"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 160 * 2**20


# -- what a site reads of a coordinator that lies --------------------------------------------------


class Endless(httpx.SyncByteStream):
    """A body without an end."""

    def __init__(self) -> None:
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        while self.sent < 2**30:
            self.sent += 65536
            yield bytes(65536)


def answering(stream: httpx.SyncByteStream, **headers: str) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(200, headers=headers, stream=stream))


@pytest.mark.promise("sizes-capped")
def test_an_answer_without_end_is_read_to_the_cap() -> None:
    stream = Endless()
    transport = CappedTransport(answering(stream), 2**20)
    with httpx.Client(transport=transport) as client, refusal("link.refused"):
        client.get("http://coordinator")
    assert stream.sent <= 2**20 + 65536


def test_an_answer_that_swells_is_refused() -> None:
    packed = gzip.compress(bytes(64 * 2**20))
    assert len(packed) < 2**17
    control = answering(httpx.ByteStream(packed), **{"Content-Encoding": "gzip"})
    with httpx.Client(transport=control) as client:  # the control: the client unpacks it by itself
        assert len(client.get("http://coordinator").content) == 64 * 2**20
    transport = CappedTransport(answering(httpx.ByteStream(packed), **{"Content-Encoding": "gzip"}), 2**20)
    with httpx.Client(transport=transport) as client, refusal("link.refused"):
        client.get("http://coordinator")
