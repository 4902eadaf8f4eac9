"""Row 27, continued. Attack: a body that is too large, at every route that reads one.

Must hold: 413, whether the length is said or not, at bounded memory. The routes are discovered, so a new one
is attacked like the others. Each cap is tested in tests/link/test_routes.py.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from plasmid.link.routes import MAX_MESSAGE_BYTES
from plasmid.protocol.body import CHUNK_BYTES
from support.federation.live_link import LiveLink
from support.servers.found_routes import Address, found, path_of

LARGEST = max(MAX_MESSAGE_BYTES, CHUNK_BYTES)
"""No route takes more at a time."""
TOO_MUCH = 2 * LARGEST
PARAMETERS = {"run": "run-1", "offset": 0, "total": 1}
HEADERS = {"X-Chunk-Digest": "0" * 64}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveLink]:
    with LiveLink(tmp_path_factory.mktemp("link")) as link:
        yield link


@pytest.fixture(scope="module")
def clients(live: LiveLink) -> Iterator[dict[str, httpx.Client]]:
    made = {}
    for name, role in (("alpha", "site"), ("ada", "person")):
        credential, keys = live.member(name, role)
        made[role] = live.http(credential.folder / "tls.pem", password=keys.tls_password())
    yield made
    for client in made.values():
        client.close()


def with_body(live: LiveLink) -> dict[Address, str]:
    """Return the routes that read a body, each with a role that may call it."""
    routes = {address: roles for address, roles in found(live.app).items() if address[0] != "GET"}
    assert len(routes) >= 9
    return {address: next(iter(sorted(roles)), "site") for address, roles in routes.items()}


def parts(size: int, sent: list[int]) -> Iterator[bytes]:
    for _ in range(size // 65536):
        sent.append(65536)
        yield bytes(65536)


def ask(client: httpx.Client, address: Address, content: bytes | Iterator[bytes]) -> httpx.Response:
    arguments = {"params": PARAMETERS, "headers": HEADERS} if "{digest}" in address[1] else {}
    return client.request(address[0], path_of(address), content=content, **arguments)


def test_control_a_body_that_fits_is_read(live: LiveLink, clients: dict[str, httpx.Client]) -> None:
    for address, role in with_body(live).items():
        if "leave" not in address[1]:
            assert ask(clients[role], address, b"{}").status_code not in (401, 403, 413), address


def test_a_body_of_a_length_that_is_too_large_is_refused(
    live: LiveLink, clients: dict[str, httpx.Client]
) -> None:
    for address, role in with_body(live).items():
        try:
            answer = ask(clients[role], address, bytes(TOO_MUCH))
        except httpx.TransportError:  # hung up on before it had sent everything, and read the answer
            continue
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "link.too_large"), address


def test_a_body_without_a_length_is_refused_at_bounded_memory(
    live: LiveLink, clients: dict[str, httpx.Client]
) -> None:
    """Client and server are one process here: what is measured is both."""
    for address, role in with_body(live).items():
        sent: list[int] = []
        tracemalloc.start()
        try:
            answer = ask(clients[role], address, parts(TOO_MUCH, sent))
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "link.too_large"), address
        except httpx.TransportError:
            assert sum(sent) < TOO_MUCH, address
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 1.5 * LARGEST, address


def test_nothing_of_it_was_kept(live: LiveLink) -> None:
    kept = [path for path in Path(live.home.folder).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < 2**20
