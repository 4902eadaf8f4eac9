"""Row 31. Attack: every route with no, expired, wrong-role or self-signed certificate, or forged signature.

Must hold: refused. The routes of the coordinator and of the node's page are discovered from the applications;
a new one is attacked like the others, and one that is open to everyone fails until it is named here.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.routing import BaseRoute, Mount, Route

from plasmid.link.authority import Authority
from plasmid.owner.page.app import COOKIE
from plasmid.owner.page.server import PageServer
from plasmid.protocol.enrolment import check_csr, new_tls_key
from plasmid.protocol.http_signatures import MAX_SKEW_S, sign_request
from plasmid.protocol.identity import Identity, Signer
from support.federation.live_link import LiveLink
from support.federation.owner_site import make_site
from support.servers.found_routes import OPEN, Address, found, guarded, path_of

OPEN_PAGES = {("GET", "/login"), ("POST", "/login")}
ROLE = {"alpha": "site", "ada": "person"}


@dataclass(frozen=True)
class Member:
    """Somebody who is enrolled."""

    folder: Path
    identity: Signer
    password: bytes


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveLink]:
    with LiveLink(tmp_path_factory.mktemp("link")) as link:
        yield link


def enrolled(live: LiveLink, name: str, role: str) -> Member:
    credential, keys = live.member(name, role)
    return Member(credential.folder, keys.identity(), keys.tls_password())


@pytest.fixture(scope="module")
def members(live: LiveLink) -> dict[str, Member]:
    return {name: enrolled(live, name, role) for name, role in ROLE.items()}


NUMBERS = itertools.count()


def fresh(live: LiveLink, role: str) -> Member:
    """Return a new member: what a route does for its caller may be the end of the caller's membership."""
    return enrolled(live, f"new-{next(NUMBERS)}", role)


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, json.loads(response.content)["error"]["code"]


def test_only_what_is_named_here_is_open(live: LiveLink) -> None:
    routes = guarded(live.app)
    assert len(routes) >= 11
    assert {address for address, roles in routes.items() if not roles} == set()
    assert set(found(live.app)) == set(routes) | OPEN


def test_there_is_nothing_beside_the_routes(live: LiveLink) -> None:
    with live.http() as client:
        for path in ("/docs", "/redoc", "/openapi.json", "/", "/v1", "/v1/site", "/v1/../v1/roster/"):
            assert client.get(path).status_code in (404, 405, 307)


# -- certificates ----------------------------------------------------------------------------------


@pytest.mark.promise("pinned-ca")
def test_without_a_certificate_every_route_is_closed(live: LiveLink) -> None:
    with live.http() as client:
        for address in guarded(live.app):
            assert refusal(client.request(address[0], path_of(address))) == (401, "link.not_enrolled"), (
                address
            )


def test_a_role_opens_its_routes_and_no_other(live: LiveLink, members: dict[str, Member]) -> None:
    refused = 0
    for name, role in ROLE.items():
        with live.http(members[name].folder / "tls.pem", password=members[name].password) as client:
            for address, roles in guarded(live.app).items():
                response = client.request(address[0], path_of(address))
                if role in roles:  # the control: the right one gets in
                    assert response.status_code not in (401, 403), address
                else:
                    assert refusal(response) == (403, "link.wrong_role"), address
                    refused += 1
    assert refused >= 9


def leaf(
    issuer: x509.Name, key: Ed25519PrivateKey, signer: Ed25519PrivateKey, *, days: int
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alpha")]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(signer, None)
    )


@pytest.mark.parametrize("kind", ["self-signed", "another CA", "expired"])
def test_a_certificate_that_the_ca_does_not_stand_for_ends_the_connection(
    live: LiveLink, tmp_path: Path, kind: str
) -> None:
    ours = Authority(live.home.folder)
    key, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alpha")])
    certificate = {
        "self-signed": lambda: leaf(name, key, key, days=30),
        "another CA": lambda: leaf(ours._certificate.subject, key, stranger, days=30),
        "expired": lambda: leaf(ours._certificate.subject, key, ours._key, days=-1),
    }[kind]()
    pem = certificate.public_bytes(Encoding.PEM)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "leaf.pem").write_bytes(pem)
    with live.http(tmp_path / "leaf.pem") as client:
        for address in [*guarded(live.app), *OPEN]:
            with pytest.raises(httpx.TransportError):
                client.request(address[0], path_of(address))


def issued(live: LiveLink, folder: Path, name: str, role: str) -> httpx.Client:
    """Return a client with a certificate that the coordinator's CA issued, but nobody enrolled with."""
    key, csr = new_tls_key(name, b"password")
    authority = Authority(live.home.folder)
    made = authority.issue_client(check_csr(csr), name=name, role=role, organisation=f"{name}-org")
    (folder / "leaf.pem").write_bytes(made.public_bytes(Encoding.PEM) + key)
    return live.http(folder / "leaf.pem", password=b"password")


@pytest.mark.parametrize(("name", "role"), [*ROLE.items(), ("nobody", "site"), ("alpha", "coordinator")])
def test_a_certificate_of_the_ca_that_no_member_holds_opens_nothing(
    live: LiveLink, members: dict[str, Member], tmp_path: Path, name: str, role: str
) -> None:
    """For a member's very name and role, too: it counts with the certificate that it enrolled with."""
    with issued(live, tmp_path, name, role) as client:
        for address in guarded(live.app):
            assert refusal(client.request(address[0], path_of(address))) == (401, "link.not_enrolled"), (
                address
            )


def test_the_server_s_own_certificate_opens_nothing(live: LiveLink) -> None:
    folder = live.home.folder
    with (
        live.http(folder / "server.pem", folder / "server.key") as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get("/v1/roster")


# -- signatures ------------------------------------------------------------------------------------


class Signing(httpx.Auth):
    """Signs every request; *spoil* may change what is signed, and the headers that come of it."""

    requires_request_body = True

    def __init__(self, live: LiveLink, signer: Signer, **changes: Any) -> None:
        self.coordinator, self.signer, self.changes = live.identity.public, signer, changes
        self.nonce = ""

    def auth_flow(self, request: httpx.Request) -> Any:
        path, _, query = request.url.raw_path.decode().partition("?")
        said: dict[str, Any] = {
            "method": request.method,
            "path": path,
            "query": query,
            "body": request.content,
            "coordinator": self.coordinator,
            "created": int(time.time()),
            "nonce": self.nonce or secrets.token_hex(16),
        }
        keyid = self.changes.get("keyid")
        headers = sign_request(self.signer, **said | {k: v for k, v in self.changes.items() if k != "keyid"})
        if keyid:
            headers["Signature-Input"] = headers["Signature-Input"].replace(self.signer.public, keyid)
        request.headers.update(headers)
        yield request


@pytest.fixture(scope="module")
def bare(live: LiveLink) -> Iterator[httpx.Client]:
    """A client without a certificate."""
    with live.http() as client:
        yield client


def attack(client: httpx.Client, address: Address, auth: httpx.Auth, **arguments: Any) -> httpx.Response:
    return client.request(address[0], path_of(address), auth=auth, **arguments)


def test_control_a_signature_opens_what_the_role_may(live: LiveLink, bare: httpx.Client) -> None:
    for role in ROLE.values():
        for address, roles in guarded(live.app).items():
            response = attack(bare, address, Signing(live, fresh(live, role).identity))
            if role in roles:
                assert response.status_code not in (401, 403), address
            else:
                assert refusal(response) == (403, "link.wrong_role"), address


FORGED: dict[str, dict[str, Any]] = {
    "another method": {"method": "DELETE"},
    "another path": {"path": "/v1/card"},
    "another query": {"query": "after=1"},
    "another body": {"body": b"other"},
    "another coordinator": {"coordinator": Identity.generate("other").public},
    # Far off: this is computed when tests are collected, long before the last of them runs.
    "too old": {"created": int(time.time()) - 1000 * MAX_SKEW_S},
    "of the future": {"created": int(time.time()) + 1000 * MAX_SKEW_S},
}


@pytest.mark.parametrize("what", FORGED)
def test_a_signature_over_something_else_is_refused(
    live: LiveLink, bare: httpx.Client, members: dict[str, Member], what: str
) -> None:
    for address, roles in guarded(live.app).items():
        member = members["alpha" if "site" in roles else "ada"]
        if what == "another body" and address[0] == "GET":
            continue  # a body that no route reads is no part of what is asked
        arguments = {
            "params": {"run": "run-1", "offset": 0, "total": 9},
            "headers": {"X-Chunk-Digest": "0" * 64},
        }
        response = attack(
            bare, address, Signing(live, member.identity, **FORGED[what]), content=b"this body", **arguments
        )
        assert refusal(response)[1] in ("link.signature", "link.clock"), address
        assert response.status_code == 401


def test_a_stranger_s_signature_opens_nothing(
    live: LiveLink, bare: httpx.Client, members: dict[str, Member]
) -> None:
    stranger = Identity.generate("alpha")
    for address in guarded(live.app):
        assert refusal(attack(bare, address, Signing(live, stranger))) == (401, "link.not_enrolled"), address
        forged = Signing(live, stranger, keyid=members["alpha"].identity.public)
        assert refusal(attack(bare, address, forged)) == (401, "link.signature"), address
        own = Signing(live, live.identity)  # the coordinator is no member
        assert refusal(attack(bare, address, own)) == (401, "link.not_enrolled"), address


def test_a_signature_serves_once(live: LiveLink, bare: httpx.Client) -> None:
    for address, roles in guarded(live.app).items():
        auth = Signing(live, fresh(live, "site" if "site" in roles else "person").identity)
        auth.nonce = secrets.token_hex(16)
        assert attack(bare, address, auth).status_code != 401, address
        code = refusal(attack(bare, address, auth))
        assert code in {(401, "link.signature"), (401, "link.not_enrolled")}, address


def test_certificate_and_signature_must_be_one_member_s(
    live: LiveLink, members: dict[str, Member], tmp_path: Path
) -> None:
    for address, roles in guarded(live.app).items():
        member = fresh(live, "site")
        with live.http(member.folder / "tls.pem", password=member.password) as shown:
            both = attack(shown, address, Signing(live, members["ada"].identity))
            assert refusal(both) == (401, "link.signature"), address
            own = attack(shown, address, Signing(live, member.identity))
            assert (own.status_code not in (401, 403)) == ("site" in roles), address
    with issued(live, tmp_path, "alpha", "site") as unknown:
        for address in guarded(live.app):
            other = attack(unknown, address, Signing(live, members["alpha"].identity))
            assert refusal(other) == (401, "link.not_enrolled"), address


# -- the node's page -------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Iterator[PageServer]:
    server = PageServer(make_site(tmp_path / "site")[0])
    server.start()
    yield server
    server.close()


def addresses(routes: list[BaseRoute]) -> Iterator[Address]:
    """Yield every address of a Starlette application below its mounts."""
    for route in routes:
        if isinstance(route, Mount):
            yield from addresses(list(route.routes or []))
        elif isinstance(route, Route):
            for method in (route.methods or set()) - {"HEAD"}:
                yield method, route.path


def private(page: PageServer) -> list[Address]:
    """Return every address of the page that is not open."""
    every = set(addresses(page.app.routes))
    assert every > OPEN_PAGES
    return sorted(every - OPEN_PAGES)


def cookies() -> dict[str, Callable[[PageServer], str | None]]:
    """Return what an attacker may have in the place of a session."""
    return {
        "none": lambda page: None,
        "empty": lambda page: "",
        "a guess": lambda page: secrets.token_urlsafe(32),
        "the login link's secret": lambda page: page.link().partition("secret=")[2],
    }


@pytest.mark.parametrize("what", cookies())
def test_the_page_is_closed_to_who_has_not_logged_in(page: PageServer, what: str) -> None:
    cookie = cookies()[what](page)
    jar = {} if cookie is None else {COOKIE: cookie}
    with httpx.Client(trust_env=False, cookies=jar) as client:
        for method, path in private(page):
            answer = client.request(
                method, page.base + path_of((method, path)), data={"csrf": "x"} if method == "POST" else None
            )
            assert answer.status_code == 401, (method, path)


def test_control_the_owner_sees_every_page(page: PageServer) -> None:
    with httpx.Client(trust_env=False) as client:
        client.post(f"{page.base}/login", data={"secret": page.link().partition("secret=")[2]})
        for method, path in private(page):
            if method == "GET":
                assert client.get(page.base + path_of((method, path))).status_code not in (401, 403), path


def test_without_the_session_s_own_token_nothing_is_changed(page: PageServer) -> None:
    with httpx.Client(trust_env=False) as client:
        client.post(f"{page.base}/login", data={"secret": page.link().partition("secret=")[2]})
        changing = [address for address in private(page) if address[0] != "GET"]
        assert len(changing) >= 3
        for method, path in changing:
            for token in ({}, {"csrf": ""}, {"csrf": secrets.token_urlsafe(32)}):
                answer = client.request(method, page.base + path_of((method, path)), data=token or {"x": "y"})
                assert answer.status_code == 403, (method, path)
