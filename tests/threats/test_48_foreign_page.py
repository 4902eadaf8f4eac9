"""Row 48. Attack: a page in the owner's browser posts to a local service, or points its own name at it.

Must hold: content type, Origin, Sec-Fetch-Site and Host are checked on every route, so that nothing is
computed, changed or read. The routes of the endpoint and of the owner's page are discovered, so a new one is
attacked like the others. A hub's links begin with its own address, whatever Host a request names. JSON that
names a key twice, which two readers may read in two ways, is none.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from plasmid.bases.store import BaseModel
from plasmid.endpoint.access import Anybody
from plasmid.endpoint.app import make_app
from plasmid.endpoint.service import Service, Settings
from plasmid.gateway.pause import paused
from plasmid.hub.app import build_app
from plasmid.hub.safety import Content, content_problem
from plasmid.owner.page.server import PageServer
from plasmid.protocol.envelope import parse_envelope
from plasmid.protocol.messages import parse_signed
from plasmid.serving.deploy import known_as
from plasmid.web.request_checks import FOREIGN_PAGE, Guard, named
from support.federation.attacks import refusal
from support.federation.owner_site import make_site
from support.hub.hub_requests import batch, client, new_repo
from support.hub.hub_server import served
from support.servers.asgi import AsgiClient
from support.servers.found_routes import Address, found, path_of
from support.tiny.served import write

EVIL, MINE = "https://evil.example", "scores.example.org"
SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
"""The types that a page may send anywhere without being asked (Fetch, section 2.2.2)."""
OF_A_PAGE: dict[str, dict[str, str]] = {
    "a form, as browsers send it": {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
    "a browser that names no site": {"Origin": EVIL},
    "a page without an origin": {"Origin": "null"},
    "a picture, a link or a script": {"Sec-Fetch-Site": "cross-site"},
    "a page of another port": {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
    "another port, an older browser": {"Origin": "http://localhost:3000"},
    "no address at all": {"Origin": "http://[localhost"},
}
HOSTS = (
    "evil.example",
    "evil.example:80",
    "localhost.evil.example",
    "127.0.0.1.evil.example:8000",
    "evil.example@localhost",
    "localhost:x",
    "localhost/",
    "192.168.0.1",
    "",
)


@dataclass
class Local:
    """A local service: its application, how it is asked, and the one type of body that it takes."""

    app: Starlette
    asked: AsgiClient
    host: str
    takes: str

    def addresses(self) -> list[Address]:
        return sorted({*_addresses(list(self.app.routes)), ("GET", "/nothing"), ("POST", "/nothing")})

    def ask(self, address: Address, headers: dict[str, str]) -> httpx.Response:
        method, _ = address
        said = {"Host": self.host} | ({"Content-Type": self.takes} if method == "POST" else {}) | headers
        return self.asked.request(method, path_of(address), headers=said, content=b"{}")


def _addresses(routes: list[BaseRoute], below: str = "") -> Iterator[Address]:
    for route in routes:
        if isinstance(route, Mount):
            yield from _addresses(list(route.routes or []), below + route.path)
        elif isinstance(route, Route):
            for method in (route.methods or set()) - {"HEAD"}:
                yield method, below + route.path


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def service(
    tiny: dict[str, BaseModel], model_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    folder = write(tmp_path_factory.mktemp("adapter") / "a", tiny["bert"], "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        return Service.open(Settings(base="tiny-bert", adapters={"a": str(folder)}, device="cpu"))


@pytest.fixture(params=["endpoint", "endpoint on Ray", "page"])
def local(
    request: pytest.FixtureRequest, service: Service, runner: asyncio.Runner, tmp_path: Path
) -> Iterator[Local]:
    if request.param == "page":
        server = PageServer(make_site(tmp_path / "site")[0])
        yield Local(server.app, AsgiClient(server.app, runner), f"127.0.0.1:{server.port}", SIMPLE[1])
        server.close()
        return
    known = named(known_as("localhost", None, None)) if "Ray" in request.param else named(["localhost"])
    app = make_app(service, Anybody(), local=request.param == "endpoint", known=known)
    yield Local(app, AsgiClient(app, runner), "localhost", "application/json")


def refused(answer: httpx.Response) -> bool:
    return answer.status_code in (415, 421) or FOREIGN_PAGE.sentence in answer.text


def test_control_its_own_user_is_answered_on_every_route(local: Local) -> None:
    addresses = local.addresses()
    assert len(addresses) >= 11
    for headers in ({}, {"Origin": f"http://{local.host}", "Sec-Fetch-Site": "same-origin"}):
        for address in addresses:
            assert not refused(local.ask(address, headers)), address
    reads = [address for address in addresses if address[0] == "GET"]
    assert not any(refused(local.ask(address, {"Sec-Fetch-Site": "none"})) for address in reads)


@pytest.mark.promise("foreign-pages-refused")
@pytest.mark.parametrize("what", OF_A_PAGE)
def test_a_foreign_page_is_refused_on_every_route(local: Local, what: str) -> None:
    for address in local.addresses():
        assert local.ask(address, OF_A_PAGE[what]).status_code == 403, address


@pytest.mark.promise("foreign-pages-refused")
@pytest.mark.parametrize("host", HOSTS)
def test_a_name_that_is_pointed_here_is_refused_on_every_route(local: Local, host: str) -> None:
    for address in local.addresses():
        assert local.ask(address, {"Host": host, "Origin": f"http://{host}"}).status_code == 421, address


@pytest.mark.promise("foreign-pages-refused")
def test_a_body_that_any_page_may_send_is_refused_on_every_route(local: Local) -> None:
    posts = [address for address in local.addresses() if address[0] == "POST"]
    assert len(posts) >= 4
    for kind in {*SIMPLE, "application/json", "", "application/jsonp"} - {local.takes}:
        for address in posts:
            assert local.ask(address, {"Content-Type": kind}).status_code == 415, (address, kind)


def test_a_route_that_is_added_later_is_behind_the_same_checks(local: Local) -> None:
    async def added(_: Request) -> Response:
        return PlainTextResponse("computed")

    local.app.router.routes.insert(0, Route("/added", added, methods=["GET", "POST"]))
    assert ("POST", "/added") in local.addresses()
    for method in ("GET", "POST"):
        assert local.ask((method, "/added"), {}).text == "computed"  # control
        assert local.ask((method, "/added"), {"Origin": EVIL}).status_code == 403
        assert local.ask((method, "/added"), {"Host": "evil.example"}).status_code == 421


def posted(asked: AsgiClient) -> httpx.Response:
    """Send what a form of a page sends: a question in JSON that calls itself text."""
    headers = {**OF_A_PAGE["a form, as browsers send it"], "Content-Type": "text/plain"}
    body = json.dumps({"model": "a", "input": "CASSF"})
    return asked.post("/v1/predict", content=body, headers=headers)


def test_control_without_the_checks_a_page_has_a_prediction_computed(
    service: Service, runner: asyncio.Runner
) -> None:
    app = make_app(service, Anybody(), local=True)
    assert [layer.cls for layer in app.user_middleware] == [Guard]
    app.user_middleware.clear()
    asked = AsgiClient(app, runner)
    assert posted(asked).json()["data"][0]["object"] == "prediction"
    for path in ("/metrics", "/health", "/ready", "/v1/models"):
        assert asked.get(path, headers={"Host": "evil.example"}).status_code == 200, path


@pytest.mark.promise("foreign-pages-refused")
def test_nothing_is_computed_for_a_foreign_page(
    service: Service, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is an adapter fetched with the token of whoever is logged in here."""
    for what in ("predict", "adapter"):
        monkeypatch.setattr(service, what, lambda *_: pytest.fail("it was asked for"))
    before = dict(service.measured.requests)
    asked = AsgiClient(make_app(service, Anybody(), local=True), runner)
    assert posted(asked).status_code == 403
    foreign = OF_A_PAGE["a picture, a link or a script"]
    assert asked.get("/v1/models/attacker/adapter", headers=foreign).status_code == 403
    assert dict(service.measured.requests) == before


def test_a_foreign_page_does_not_pause_a_site_though_it_had_cookie_and_token(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    home, _ = make_site(tmp_path / "site")
    server = PageServer(home)
    cookie = server.sessions.open(server.link().partition("secret=")[2])
    session = server.sessions.find(cookie)
    assert session is not None
    asked = AsgiClient(server.app, runner)
    path = f"{server.base.removeprefix(f'http://127.0.0.1:{server.port}')}/pause"
    fields = {"csrf": session.token, "who": "Ada", "reason": "an incident"}
    own = {"Host": f"127.0.0.1:{server.port}", "Cookie": f"plasmid_page={cookie}"}
    try:
        for headers in OF_A_PAGE.values():
            assert asked.post(path, data=fields, headers=own | headers).status_code == 403
        assert paused(home) is None
        assert asked.post(path, data=fields, headers=own).status_code == 303  # control
        assert paused(home) is not None
    finally:
        server.close()


# -- a server on a network -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "url", "answers", "refuses"),
    [
        ("127.0.0.1", None, ["localhost:8000", "127.0.0.1", "[::1]:80"], [MINE]),
        (MINE, None, [f"{MINE}:8000", MINE.title(), "10.0.0.7:8000"], ["evil.example", "localhost"]),
        ("0.0.0.0", f"https://{MINE}", [MINE, "10.0.0.7"], ["evil.example", f"x.{MINE}"]),
        ("127.0.0.1", f"https://{MINE}/", [MINE, "localhost"], ["evil.example"]),
    ],
)
def test_a_server_answers_under_the_names_that_its_operator_gave_it(
    service: Service,
    runner: asyncio.Runner,
    host: str,
    url: str | None,
    answers: list[str],
    refuses: list[str],
) -> None:
    """An address in figures will do: no page can have its own name there."""
    known = named(known_as(host, None, url), addresses=True)
    asked = AsgiClient(make_app(service, Anybody(), local=False, known=known), runner)
    for path in ("/metrics", "/v1/models"):
        for name, status in [*((name, 200) for name in answers), *((name, 421) for name in refuses)]:
            assert asked.get(path, headers={"Host": name}).status_code == status, name


def test_of_a_certificate_with_a_star_one_label_is_known() -> None:
    known = named(["*.example.org"])
    assert known("scores.example.org:443")
    assert not any(map(known, ("example.org", "a.b.example.org", "evil.example", "*.example.com")))


def test_a_socket_of_the_web_is_closed(runner: asyncio.Runner) -> None:
    """Browsers open them across origins without asking; there is none today."""
    said: list[Any] = []

    async def talk() -> None:
        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            said.append(message)

        async def within(*_: Any) -> None:
            pytest.fail("it was let in")

        guard = Guard(within, known=named(["localhost"]), takes="x/y", refuse=lambda _: Response())
        await guard({"type": "websocket", "headers": [(b"host", b"localhost")]}, receive, send)

    runner.run(talk())
    assert said == [{"type": "websocket.close", "code": 1008}]


# -- a hub -----------------------------------------------------------------------------------------


def test_no_link_of_a_hub_is_made_from_the_host_that_a_request_names(tmp_path: Path) -> None:
    """Every route, discovered; a shared cache, or a client behind one, would keep such a link."""
    with served(tmp_path) as live:
        live.user("ada")
        with client(live, "ada") as own, client(live, "ada", Host="evil.example") as lied:
            repo = new_repo(own)
            there = batch(lied, repo, b"x" * 100_000)["actions"]
            assert {action["href"].startswith(f"{live.url}/") for action in there.values()} == {True}
            assert lied.put(there["upload"]["href"], content=b"x" * 100_000).status_code == 200  # it works
            addresses = set(found(build_app(live.hub)))
            assert len(addresses) > 40
            linked = 0
            for method, path in sorted(addresses, key=lambda address: ("delete" in address[1], address)):
                answer = lied.request(method, f"{_filled(path, repo)}?limit=1", json={})
                said = answer.text + str(dict(answer.headers))
                assert "evil.example" not in said, path
                linked += live.url in said
            assert linked >= 5  # control: there are links to look at


def _filled(path: str, repo: str) -> str:
    owner, name = repo.split("/")
    known = {"owner": owner, "name": name, "revision": "main", "path": "README.md"}
    return re.sub(r"\{(\w+)(?::path)?\}", lambda found: known.get(found[1], "alpha"), path)


# -- a key twice -----------------------------------------------------------------------------------


def test_json_that_names_a_key_twice_is_none() -> None:
    """Readers differ in which of the two they take: what one has checked another does not use."""
    twice = b'{"auto_map": {"AutoModel": "evil.Model"}, "auto_map": null}'
    assert json.loads(twice) == {"auto_map": None}  # control: the first one is passed over
    assert "is not JSON" in str(content_problem("config.json", Content.of(twice)))
    assert content_problem("config.json", Content.of(b'{"auto_map": null}')) is None  # control
    with refusal("protocol.malformed"):
        parse_signed(b'{"payload":{"a":1,"a":2},"signer":"a","signature":"%s"}' % (b"0" * 128))
    assert parse_signed(b'{"payload":{"a":2},"signer":"a","signature":"%s"}' % (b"0" * 128)).signer == "a"
    with refusal("protocol.malformed"):
        parse_envelope(b'{"payloadType":"a","payloadType":"b","payload":"","signatures":[]}')


def test_a_question_that_names_a_key_twice_is_refused(service: Service, runner: asyncio.Runner) -> None:
    asked = AsgiClient(make_app(service, Anybody(), local=True), runner)
    body = b'{"model": "a", "input": "CASSF", "input": "CASSW"}'
    answer = asked.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_control_a_guard_alone_says_what_it_refuses() -> None:
    layer = Middleware(
        Guard, known=named(["localhost"]), takes="application/json", refuse=lambda _: Response()
    )
    guard = layer.cls(lambda *_: None, **layer.kwargs)  # type: ignore[call-arg]
    assert (
        guard.refusal("POST", {"host": "localhost", "content-type": "Application/JSON; charset=utf-8"})
        is None
    )
    assert guard.refusal("GET", {"host": "localhost:80"}) is None
