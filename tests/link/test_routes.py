"""The routes, over real TLS: how much is read, and what is said. Who may call which is a threat of its own.

The routes are discovered from the application; one that reads a body and is not in the table fails.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import LinkError, ProtocolError
from plasmid.link.routes import MAX_ENROL_BYTES, MAX_MESSAGE_BYTES, MAX_PROJECT_BYTES, read_body
from plasmid.protocol.body import CHUNK_BYTES
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import (
    Blobs,
    Bundles,
    End,
    Heartbeat,
    RunRequest,
    StopRequest,
    sign,
    wire,
)
from plasmid.secagg.samples import body_root
from plasmid.secagg.statements import (
    MAX_SLOTS,
    SECRET_BYTES,
    Advert,
    Bundle,
    Contribution,
    Recovery,
)
from plasmid.uplink.enrol import Credential
from support.federation.live_link import LiveLink
from support.federation.sampling import contributions
from support.servers.found_routes import Address, found, path_of

D = "d" * 64
REQUEST = RunRequest(
    document={"computation": "ping"},
    digest=D,
    project=D,
    requested="2026-11-25T10:00:00Z",
    nonce="0" * 32,
)


@dataclass
class Party:
    """A member with its client."""

    credential: Credential
    identity: Identity
    password: bytes
    http: httpx.Client


@pytest.fixture(scope="module")
def parties(live: LiveLink) -> Iterator[dict[str, Party]]:
    made = {}
    for name, role in (("alpha", "site"), ("beta", "site"), ("ada", "person")):
        credential, keys = live.member(name, role)
        folder = credential.folder
        http = live.http(folder / "tls.pem", password=keys.tls_password())
        made[name] = Party(credential, keys.identity(), keys.tls_password(), http)
    yield made
    for party in made.values():
        party.http.close()


def error(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "hint"}
    return response.status_code, body["error"]["code"]


def test_older_tls_is_refused(live: LiveLink) -> None:
    context = ssl.create_default_context(cafile=str(live.home.folder / "ca.pem"))
    with httpx.Client(base_url=live.url, verify=context, trust_env=False) as client:
        assert client.get("/v1/card").status_code == 200
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        httpx.Client(base_url=live.url, verify=context, trust_env=False) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get("/v1/card")


# -- what is read ----------------------------------------------------------------------------------

WITH_BODY = {
    ("POST", "/v1/enrol"): MAX_ENROL_BYTES,
    ("POST", "/v1/site/messages"): MAX_MESSAGE_BYTES,
    ("PUT", "/v1/site/bodies/{digest}"): CHUNK_BYTES,
    ("PUT", "/v1/given/{digest}"): CHUNK_BYTES,
    ("POST", "/v1/projects"): MAX_PROJECT_BYTES,
    ("POST", "/v1/renew"): MAX_ENROL_BYTES,
    ("POST", "/v1/leave"): MAX_ENROL_BYTES,
    ("POST", "/v1/plan"): MAX_MESSAGE_BYTES,
    ("POST", "/v1/runs"): MAX_MESSAGE_BYTES,
    ("POST", "/v1/runs/{run}/stop"): MAX_MESSAGE_BYTES,
}


def test_every_route_that_reads_a_body_has_a_cap(live: LiveLink) -> None:
    assert {route for route in found(live.app) if route[0] != "GET"} == set(WITH_BODY)


@pytest.mark.parametrize("route", WITH_BODY, ids=lambda route: " ".join(route))
def test_a_body_over_the_cap_is_refused_by_its_length(
    live: LiveLink, parties: dict[str, Party], route: Address
) -> None:
    """Only the head is sent: the server answers without waiting for a byte of the body."""
    party = parties["ada" if found(live.app)[route] == {"person"} else "alpha"]
    folder = party.credential.folder
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "tls.pem", password=party.password)
    query = "?run=run-1&offset=0&total=1" if "{digest}" in route[1] else ""
    head = (
        f"{route[0]} {path_of(route)}{query} HTTP/1.1\r\nHost: localhost\r\n"
        f"X-Chunk-Digest: {D}\r\nContent-Length: {WITH_BODY[route] + 1}\r\n\r\n"
    )
    port = httpx.URL(live.url).port
    assert port is not None
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(head.encode())
        while b"}}" not in answer and (part := tls.recv(65536)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"link.too_large"' in answer


def test_a_body_without_a_length_is_read_to_the_cap_and_no_further(live: LiveLink) -> None:
    with live.http() as client:
        parts = (b"x" * 8192 for _ in range(40))
        assert error(client.post("/v1/enrol", content=parts)) == (413, "link.too_large")
        assert error(client.post("/v1/enrol", content=b"x" * MAX_ENROL_BYTES)) == (409, "protocol.malformed")


def test_an_endless_body_is_read_at_bounded_memory() -> None:
    taken = 0

    async def endless() -> Any:
        nonlocal taken
        while True:
            taken += 65536
            yield bytes(65536)

    request: Any = SimpleNamespace(headers={}, stream=endless, state=SimpleNamespace())
    tracemalloc.start()
    try:
        with pytest.raises(LinkError, match="more than 4194304 bytes") as caught:
            asyncio.run(read_body(request, CHUNK_BYTES))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == "link.too_large"
    assert taken == CHUNK_BYTES + 65536
    assert peak < CHUNK_BYTES + 2**20


@pytest.mark.parametrize("length", ["77=", "1e999", "-1", "+5", "0x10", "\u0663", "9" * 20, "9" * 5000, " "])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    """The server in front lets none through; found by the fuzzer, which has no server in front."""
    request: Any = SimpleNamespace(headers={"content-length": length}, state=SimpleNamespace())
    with pytest.raises(ProtocolError, match="is not a number") as caught:
        asyncio.run(read_body(request, CHUNK_BYTES))
    assert caught.value.code == "protocol.malformed"


def test_a_request_that_is_malformed_is_answered_like_every_error(parties: dict[str, Party]) -> None:
    alpha = parties["alpha"].http
    assert error(alpha.put(f"/v1/site/bodies/{D}", content=b"x")) == (409, "protocol.malformed")
    for offset in ("-1", "x", "9" * 30):
        assert error(alpha.get(f"/v1/bodies/{D}", params={"offset": offset}))[0] in (404, 409)


# -- what is said ----------------------------------------------------------------------------------


@pytest.fixture
def run(live: LiveLink) -> Iterator[str]:
    live.run(live.server.open_run("run-1", ["alpha"]))
    yield "run-1"
    live.run(live.server.close_run("run-1"))


def heartbeat(site: str, **changes: Any) -> Heartbeat:
    return Heartbeat(**{"run": "run-1", "site": site, "round": 1, "step": 2, "steps": 6} | changes)


def contribution(site: str) -> Contribution:
    return Contribution(
        run="run-1",
        site=site,
        epoch=1,
        round=1,
        slot=2,
        manifest=D,
        body=D,
        body_bytes=9,
        tag=bytes(8),
        ledger_counter=0,
        ledger_head=D,
        isolation="none",
    )


def say(party: Party, content: bytes) -> httpx.Response:
    return party.http.post("/v1/site/messages", content=content)


def test_a_site_speaks_for_itself_alone(parties: dict[str, Party], live: LiveLink, run: str) -> None:
    alpha, beta = parties["alpha"], parties["beta"]
    assert say(alpha, wire(sign(alpha.identity, heartbeat("alpha")))).status_code == 204
    assert live.run(live.server.pulses(run)) == {"alpha": (1, 2, 6)}
    signed = sign(alpha.identity, heartbeat("alpha", step=5))
    for bad in (
        sign(beta.identity, heartbeat("alpha")),  # another's signature
        sign(alpha.identity, heartbeat("beta")),  # about another
        sign(beta.identity, heartbeat("beta")),  # another's, relayed
        signed.model_copy(update={"signer": "beta"}),
        signed.model_copy(update={"payload": {**signed.payload, "step": 6}}),
        sign(alpha.identity, End(run=run, state="FAILED")),  # the coordinator's to say
        sign(alpha.identity, StopRequest(run=run)),  # a person's to say
        sign(alpha.identity, contribution("beta")),  # another's, about another's body
    ):
        assert error(say(alpha, wire(bad))) == (409, "protocol.signature")
    assert live.run(live.server.pulses(run)) == {"alpha": (1, 2, 6)}


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"payload":{}}'])
def test_what_is_not_a_message_is_refused(parties: dict[str, Party], run: str, content: bytes) -> None:
    assert error(say(parties["alpha"], content)) == (409, "protocol.malformed")


def test_a_message_for_a_run_that_is_over_is_refused(parties: dict[str, Party]) -> None:
    alpha = parties["alpha"]
    assert error(say(alpha, wire(sign(alpha.identity, heartbeat("alpha"))))) == (409, "protocol.replay")


def test_what_was_said_may_be_repeated_and_not_changed(
    parties: dict[str, Party], live: LiveLink, run: str
) -> None:
    alpha = parties["alpha"]
    live.run(live.server.move_on(run, 1, 2))
    said = contribution("alpha")
    first = wire(sign(alpha.identity, said))
    assert [say(alpha, first).status_code for _ in range(3)] == [204, 204, 204]
    other = wire(sign(alpha.identity, said.model_copy(update={"body": "e" * 64})))
    assert error(say(alpha, other)) == (409, "protocol.replay")
    late = wire(sign(alpha.identity, said.model_copy(update={"slot": 1})))
    assert error(say(alpha, late)) == (409, "protocol.late")
    kept = live.run(live.server.collect(run, "contribution", ["alpha"], 5.0, None))
    assert kept.got["alpha"].payload["body"] == D


def test_messages_reach_the_site_that_they_are_for(parties: dict[str, Party], live: LiveLink) -> None:
    signed = [sign(live.identity, StopRequest(run=f"run-{index}")) for index in range(3)]
    live.run(live.server.send([("alpha", message) for message in signed]))
    with_alpha = parties["alpha"].http.get("/v1/site/messages").json()
    assert [item["signed"] for item in with_alpha["messages"]] == [
        message.model_dump(mode="json") for message in signed
    ]
    last = with_alpha["messages"][-1]["seq"]
    boot = with_alpha["boot"]
    assert parties["beta"].http.get("/v1/site/messages").json()["messages"] == []

    def after(seq: int, boot: str = boot) -> int:
        answer = parties["alpha"].http.get("/v1/site/messages", params={"boot": boot, "after": seq})
        return len(answer.json()["messages"])

    assert after(last - 1) == 1
    assert after(last) == 0
    assert after(0) == 0  # acknowledged, so gone


def test_a_person_s_request_reaches_the_controller_as_itself(
    parties: dict[str, Party], live: LiveLink
) -> None:
    ada = parties["ada"]
    request = REQUEST
    live.asked.clear()
    signed = wire(sign(ada.identity, request))
    for path in ("/v1/plan", "/v1/runs"):
        assert ada.http.post(path, content=signed).json() == {"answered": True}
    for path in ("/v1/runs", "/v1/runs/run-1", "/v1/runs/run-1/log?after=7"):
        assert ada.http.get(path).status_code == 200
    stop = wire(sign(ada.identity, StopRequest(run="run-1")))
    assert ada.http.post("/v1/runs/run-1/stop", content=stop).json() == {"answered": True}
    assert live.asked == [
        ("plan", sign(ada.identity, request), ada.identity.public),
        ("create", sign(ada.identity, request), ada.identity.public),
        ("runs", ada.identity.public),
        ("show", "run-1", ada.identity.public),
        ("log", "run-1", 7, ada.identity.public),
        ("stop", "run-1", ada.identity.public),
    ]


def test_a_request_that_is_not_the_person_s_own_is_refused(parties: dict[str, Party], live: LiveLink) -> None:
    ada, alpha = parties["ada"], parties["alpha"]
    live.asked.clear()
    request = REQUEST
    stop = StopRequest(run="run-1")
    for path, message, code in (
        ("/v1/runs", sign(alpha.identity, request), "protocol.signature"),
        ("/v1/runs", sign(ada.identity, request).model_copy(update={"signer": "bo"}), "protocol.signature"),
        ("/v1/runs", sign(ada.identity, stop), "protocol.malformed"),
        ("/v1/plan", sign(ada.identity, heartbeat("ada")), "protocol.malformed"),
        ("/v1/runs/run-2/stop", sign(ada.identity, stop), "protocol.malformed"),
        ("/v1/runs/run-1/stop", sign(ada.identity, request), "protocol.malformed"),
    ):
        assert error(ada.http.post(path, content=wire(message))) == (409, code)
    assert live.asked == []


def test_large_statements_fit(parties: dict[str, Party], live: LiveLink, run: str) -> None:
    """The most that one site says in a set-up: 64 sites, 256 slots."""
    alpha = parties["alpha"]
    place = {"run": run, "epoch": 1}
    live.run(live.server.move_on(run, 1, 0))
    slots = MAX_SLOTS * SECRET_BYTES
    advert = Advert(
        **place,
        site="alpha",
        document=D,
        x25519=bytes(32),
        mlkem768=bytes(1184),
        key_commitments=bytes(slots),
        self_commitments=bytes(slots),
        group_commitment=bytes(32),
    )
    assert say(alpha, wire(sign(alpha.identity, advert))).status_code == 204
    bundle = Bundle(
        **place, sender="alpha", receiver="beta", rho=D, kem=bytes(1088), sealed=bytes(3 * slots + 16)
    )
    bundles = Bundles(**place, site="alpha", statements=[sign(alpha.identity, bundle)] * 63)
    assert len(wire(sign(alpha.identity, bundles))) < MAX_MESSAGE_BYTES
    assert say(alpha, wire(sign(alpha.identity, bundles))).status_code == 204
    recovery = Recovery(**place, site="alpha", rho=D, blob=D)
    blobs = Blobs(
        **place,
        site="alpha",
        statement=sign(alpha.identity, recovery),
        sealed=[bytes(16 + 63 * SECRET_BYTES)] * MAX_SLOTS,
    )
    assert say(alpha, wire(sign(alpha.identity, blobs))).status_code == 204


# -- the open routes -------------------------------------------------------------------------------


def test_the_card_is_signed_by_the_coordinator(live: LiveLink) -> None:
    from plasmid.uplink.enrol import fetch_card

    card = fetch_card(live.url)
    assert card.key == live.identity.public
    assert card.ca == (live.home.folder / "ca.pem").read_text()


def test_the_roster_names_the_sites_and_no_person(parties: dict[str, Party]) -> None:
    sites = parties["ada"].http.get("/v1/roster").json()["sites"]
    assert sites == [
        {"name": name, "organisation": f"{name}-org", "key": parties[name].identity.public}
        for name in ("alpha", "beta")
    ]


def test_no_answer_names_the_software(live: LiveLink) -> None:
    with live.http() as client:
        headers = client.get("/v1/card").headers
    assert "server" not in headers


def test_a_received_body_is_served_to_nobody(parties: dict[str, Party], live: LiveLink, run: str) -> None:
    body = b"masked words"
    digest = body_root(body)
    live.run(live.server.expect(run, len(body)))
    params = {"run": run, "offset": 0, "total": len(body)}
    answer = parties["alpha"].http.put(
        f"/v1/site/bodies/{digest}", params=params, headers={"X-Chunk-Digest": digest}, content=body
    )
    assert answer.json() == {"have": len(body)}
    for name in ("alpha", "beta", "ada"):
        assert error(parties[name].http.get(f"/v1/bodies/{digest}")) == (404, "link.no_body")


def test_samples_of_an_opened_sum_are_for_the_sites_of_the_run(
    parties: dict[str, Party], live: LiveLink, run: str
) -> None:
    bodies, made = (
        live.server._bodies,
        contributions(np.arange(40, dtype="<u4"), ["alpha", "delta"], "a1" * 32),
    )
    paths = {}
    for site, body in made.bodies.items():
        live.run(live.server.expect(run, len(body)))
        digest = body_root(body)
        bodies.take_chunk(run, site, digest, 0, len(body), body, digest)
        paths[site] = bodies.received(run, site, digest)
    bodies.keep(run, "a1" * 32, paths, made.opening)
    for part in ("opening", "0"):
        path = f"/v1/site/sums/{run}/{'a1' * 32}/{part}"
        answer = parties["alpha"].http.get(path)
        assert (answer.content, answer.status_code) == (made.part(part), 200)
        assert answer.headers["X-Chunk-Digest"] == sha256_hex(answer.content)
        assert parties["alpha"].http.get(path, params={"offset": 7}).content == made.part(part)[7:]
        assert error(parties["beta"].http.get(path)) == (404, "link.no_body")  # it is not of that run
        assert error(parties["ada"].http.get(path)) == (403, "link.wrong_role")
    for name in (f"{run}/{'b2' * 32}/0", f"{run}/{'a1' * 32}/9", f"another-run/{'a1' * 32}/0"):
        assert error(parties["alpha"].http.get(f"/v1/site/sums/{name}")) == (404, "link.no_body")
    assert error(parties["alpha"].http.get(f"/v1/site/sums/{run}/x/0"))[1] == "protocol.malformed"
    live.run(live.server.close_run(run))
    assert error(parties["alpha"].http.get(f"/v1/site/sums/{run}/{'a1' * 32}/0")) == (404, "link.no_body")


def test_what_a_person_gives_is_one_body_whole_or_not_at_all(
    parties: dict[str, Party], live: LiveLink
) -> None:
    ada, bodies = parties["ada"].http, live.server._bodies
    first, second = b"an adapter's numbers", b"another one's"
    for body in (first, second):
        digest, half = sha256_hex(body), len(body) // 2
        for start, end in ((0, half), (half, len(body))):
            assert bodies.given(digest) is None
            part = body[start:end]
            answer = ada.put(
                f"/v1/given/{digest}",
                params={"offset": start, "total": len(body)},
                headers={"X-Chunk-Digest": sha256_hex(part)},
                content=part,
            )
            assert answer.json() == {"have": end}
        assert bodies.given(digest) == body
        assert error(ada.get(f"/v1/bodies/{digest}")) == (404, "link.no_body")
    assert bodies.given(sha256_hex(first)) is None  # the next one replaces it
    wrong = sha256_hex(b"something else")
    answer = ada.put(
        f"/v1/given/{wrong}",
        params={"offset": 0, "total": 5},
        headers={"X-Chunk-Digest": sha256_hex(b"12345")},
        content=b"12345",
    )
    assert error(answer) == (409, "protocol.chunk")
    assert bodies.given(wrong) is None
    assert parties["alpha"].http.put(f"/v1/given/{wrong}", content=b"12345").status_code == 403


@pytest.mark.parametrize("digest", ["..%2f..%2fidentity.key", "%2e%2e", "A" * 64, "0" * 63, "0" * 65])
def test_no_path_is_made_from_a_digest_that_is_none(parties: dict[str, Party], digest: str) -> None:
    response = parties["ada"].http.get(f"/v1/bodies/{digest}")
    assert response.status_code in (404, 409)
    assert "PRIVATE" not in response.text
    if re.fullmatch(r"[0-9A]{63,65}", digest):
        assert error(response) == (409, "protocol.malformed")


def test_errors_are_json_and_short(live: LiveLink) -> None:
    with live.http() as client:
        text = client.get("/v1/roster").text
    assert json.loads(text)["error"]["code"] == "link.not_enrolled"
    assert len(text) < 300
