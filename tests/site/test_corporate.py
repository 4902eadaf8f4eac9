"""A company's network in between: a tunnel, a password, a CA of its own, a proxy that ends TLS and lies."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.bounds import MAX_JSON_VALUES
from plasmid.core.errors import LinkError, PlasmidError, UsageError
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.members.peers import Peers, write_peers
from plasmid.gateway.node import Node
from plasmid.link.callers import MAX_HELD_BYTES, MAX_NONCES
from plasmid.link.connection_limits import Limits
from plasmid.link.routes import MAX_ENROL_BYTES, MAX_MESSAGE_BYTES, MAX_PROJECT_BYTES
from plasmid.protocol.body import CHUNK_BYTES
from plasmid.protocol.http_signatures import MAX_SKEW_S
from plasmid.protocol.messages import Heartbeat, StopRequest, sign
from plasmid.secagg.samples import body_root
from plasmid.uplink import link as link_module
from plasmid.uplink.enrol import Credential, fetch_card
from plasmid.uplink.link import MAX_ANSWER_BYTES, LinkClient
from plasmid.uplink.network import Network, read_network
from support.federation.in_memory import flat, log_text
from support.federation.live_link import LiveLink
from support.servers.proxies import CompanyCa, Passed, Proxy

BODY = np.random.default_rng(0).bytes(CHUNK_BYTES + 1234)
DIGEST = body_root(BODY)
PASSWORD = "alice:correct horse"


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> CompanyCa:
    return CompanyCa(tmp_path_factory.mktemp("company"))


@pytest.fixture(scope="module")
def alpha(live: LiveLink) -> Any:
    return live.member("alpha")


@pytest.fixture
def run(live: LiveLink) -> Iterator[str]:
    live.run(live.server.open_run("run-1", ["alpha"]))
    live.run(live.server.expect("run-1", len(BODY)))
    yield "run-1"
    live.run(live.server.close_run("run-1"))


@pytest.fixture
def use(alpha: Any, tmp_path: Path) -> Iterator[Callable[..., LinkClient]]:
    """Return a client of alpha with network settings, as its owner would write them."""
    folder = alpha[0].folder
    made: list[LinkClient] = []

    def connect(network: Network, *, url: str | None = None) -> LinkClient:
        (folder / "network.yaml").write_text(json.dumps(network.model_dump()))
        made.append(alpha[0].connect(alpha[1], url=url, patience_s=0.0))
        return made[-1]

    yield connect
    for client in made:
        client.close()
    (folder / "network.yaml").unlink()


def terminating(live: LiveLink, company: CompanyCa, **options: Any) -> Proxy:
    return Proxy(company=company, coordinator_ca=live.home.folder / "ca.pem", **options)


def everything(live: LiveLink, client: LinkClient, identity: Any) -> None:
    """Do all that a site does over its link: poll, say, upload, download."""
    signed = sign(live.identity, StopRequest(run="run-1"))
    live.run(live.server.send([("alpha", signed)]))
    _, messages = client.poll("", 0)
    assert messages[-1][1] == signed
    client.post(sign(identity, Heartbeat(run="run-1", site="alpha", round=1, step=2, steps=6)))
    assert live.run(live.server.pulses("run-1")) == {"alpha": (1, 2, 6)}
    client.upload(DIGEST, BODY, run="run-1")
    assert live.server._bodies.received("run-1", "alpha", DIGEST).read_bytes() == BODY
    published = live.call(live.server._bodies.publish, BODY[::-1])
    assert client.download(published, len(BODY)) == BODY[::-1]
    with refusal("link.wrong_role"):
        client.request("GET", "/v1/runs")


# -- a tunnel --------------------------------------------------------------------------------------


def test_a_tunnel_carries_everything_end_to_end(
    live: LiveLink, alpha: Any, use: Callable[..., LinkClient], run: str
) -> None:
    with Proxy() as proxy:
        client = use(Network(proxy=proxy.url))
        everything(live, client, alpha[1].identity())
        assert client.end_to_end is True
    assert {allowed for _, allowed in proxy.asked} == {True}
    assert {target for target, _ in proxy.asked} == {live.url.removeprefix("https://")}
    assert live.registry.intercepted() == []


def password_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "proxy-password"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_proxy_with_a_password(live: LiveLink, use: Callable[..., LinkClient], tmp_path: Path) -> None:
    with Proxy(password=PASSWORD) as proxy:
        client = use(Network(proxy=proxy.url, proxy_auth=password_file(tmp_path, PASSWORD + "\n")))
        assert client.request("GET", "/v1/roster").status_code == 200
        for wrong in (None, password_file(tmp_path, "alice:wrong")):
            with pytest.raises(LinkError, match="answers 407 instead") as caught:
                use(Network(proxy=proxy.url, proxy_auth=wrong)).request("GET", "/v1/roster")
            assert caught.value.code == "link.proxy"
    assert [allowed for _, allowed in proxy.asked] == [True, False, False]


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (PASSWORD, 0o644, "others may read it"),
        ("no colon", 0o600, "not one line"),
        ("a:b\nc:d", 0o600, "not one line"),
        ("", 0o600, "not one line"),
    ],
)
def test_credentials_that_cannot_be_used(
    use: Callable[..., LinkClient], tmp_path: Path, text: str, mode: int, why: str
) -> None:
    path = password_file(tmp_path, text, mode)
    with pytest.raises(UsageError, match=why) as caught:
        use(Network(proxy="http://localhost:9", proxy_auth=path))
    assert caught.value.code == "usage.network"
    assert "correct horse" not in str(caught.value)


def test_a_proxy_that_is_not_there(use: Callable[..., LinkClient]) -> None:
    with refusal("link.unreachable"):
        use(Network(proxy="http://127.0.0.1:9")).request("GET", "/v1/roster")


@pytest.mark.parametrize(
    "settings",
    ["proxy: alice:secret@proxy:3128", "proxy: http://alice:secret@proxy:3128", "porxy: x", "ca: ''"],
)
def test_settings_are_strict(tmp_path: Path, settings: str) -> None:
    (tmp_path / "network.yaml").write_text(settings)
    with refusal("recipe.invalid"):
        read_network(tmp_path / "network.yaml")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_that_cannot_be_used(
    use: Callable[..., LinkClient], tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with refusal("usage.network"):
        use(Network(ca=str(tmp_path / "ca.pem")))


# -- a proxy that terminates TLS -------------------------------------------------------------------


def test_control_without_the_company_s_ca_nothing_is_said(
    live: LiveLink, use: Callable[..., LinkClient], company: CompanyCa
) -> None:
    with terminating(live, company) as proxy:
        with refusal("link.unreachable"):
            use(Network(proxy=proxy.url)).request("GET", "/v1/roster")
        assert proxy.passed == []


@pytest.mark.parametrize("reverse", [False, True])
def test_a_terminating_proxy_carries_everything_and_it_is_known(
    live: LiveLink, alpha: Any, use: Callable[..., LinkClient], company: CompanyCa, run: str, reverse: bool
) -> None:
    """Forward: the company's, asked by CONNECT. Reverse: in front of the coordinator."""
    port = int(live.url.rpartition(":")[2])
    with terminating(live, company, reverse=port if reverse else None) as proxy:
        network = Network(ca=str(company.ca), proxy=None if reverse else proxy.url)
        client = use(network, url=f"https://localhost:{proxy.port}" if reverse else None)
        everything(live, client, alpha[1].identity())
        assert client.end_to_end is False
        assert live.registry.intercepted() == ["alpha"]
        assert any(said.body.startswith(b"{") for said in proxy.passed)  # it reads all that is said
    assert all("signature" in map(str.lower, said.headers) for said in proxy.passed)
    direct = use(Network(ca=str(company.ca)))  # the same settings without a proxy: end to end after all
    direct.request("GET", "/v1/roster")
    assert direct.end_to_end is True
    assert live.registry.intercepted() == []


def test_what_the_system_trusts(
    live: LiveLink, use: Callable[..., LinkClient], company: CompanyCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminating(live, company) as proxy:
        network = Network(proxy=proxy.url, ca="system")
        monkeypatch.setenv(
            "SSL_CERT_FILE", str(live.home.folder / "ca.pem")
        )  # a system without the company's CA
        with refusal("link.unreachable"):
            use(network).request("GET", "/v1/roster")
        monkeypatch.setenv("SSL_CERT_FILE", str(company.ca))
        client = use(network)
        assert client.request("GET", "/v1/roster").status_code == 200
        assert client.end_to_end is False


REQUESTS: dict[str, Callable[[Passed], None]] = {
    "another path": lambda said: setattr(said, "path", said.path.replace("/v1/roster", "/v1/projects")),
    "another method": lambda said: setattr(said, "method", "POST"),
    "a longer query": lambda said: setattr(said, "path", said.path + "?after=7"),
    "no signature": lambda said: drop(said.headers, "signature"),
    "no signature at all": lambda said: drop(said.headers, "signature", "signature-input", "content-digest"),
    "another key": lambda said: swap(said.headers, "signature-input", 'keyid="', "0" * 64),
    "another nonce": lambda said: swap(said.headers, "signature-input", 'nonce="', "0" * 32),
    "another time": lambda said: swap(said.headers, "signature-input", "created=", "1764064800"),
}


def drop(headers: dict[str, str], *names: str) -> None:
    for name in [key for key in headers if key.lower() in names]:
        del headers[name]


def swap(headers: dict[str, str], name: str, after: str, by: str) -> None:
    key = next(key for key in headers if key.lower() == name)
    head, _, tail = headers[key].partition(after)
    headers[key] = head + after + by + tail[len(by) :]


@pytest.mark.parametrize("what", REQUESTS)
def test_a_request_that_the_proxy_changes_is_refused(
    live: LiveLink, use: Callable[..., LinkClient], company: CompanyCa, what: str
) -> None:
    with terminating(live, company) as proxy:
        client = use(Network(proxy=proxy.url, ca=str(company.ca)))
        assert client.request("GET", "/v1/roster").status_code == 200  # the control: unchanged it passes
        proxy.on_request = REQUESTS[what]
        with pytest.raises(LinkError) as caught:
            client.request("GET", "/v1/roster")
        assert caught.value.code in ("link.signature", "link.not_enrolled", "link.clock", "link.refused")


def test_a_body_that_the_proxy_changes_is_refused(
    live: LiveLink, alpha: Any, use: Callable[..., LinkClient], company: CompanyCa, run: str
) -> None:
    """A valid message of another time in its place: the signature inside holds, the request's does not."""
    old = sign(alpha[1].identity(), Heartbeat(run="run-1", site="alpha", round=1, step=1, steps=6))
    with terminating(live, company) as proxy:
        client = use(Network(proxy=proxy.url, ca=str(company.ca)))
        proxy.on_request = lambda said: setattr(said, "body", old.model_dump_json().encode())
        with refusal("link.signature"):
            client.post(
                sign(alpha[1].identity(), Heartbeat(run="run-1", site="alpha", round=1, step=2, steps=6))
            )
        assert live.run(live.server.pulses("run-1")) == {}


def test_a_request_that_the_proxy_repeats_is_refused(
    live: LiveLink, use: Callable[..., LinkClient], company: CompanyCa
) -> None:
    kept: list[Passed] = []
    with terminating(live, company) as proxy:
        client = use(Network(proxy=proxy.url, ca=str(company.ca)))
        proxy.on_answer = lambda said: kept.append(replace(said))
        client.request("GET", "/v1/roster")
        first = kept[0]

        def again(said: Passed) -> None:
            said.headers, said.path = dict(first.headers), first.path

        proxy.on_request = again
        with refusal("link.signature"):
            client.request("GET", "/v1/roster")
        assert json.loads(kept[1].answer)["error"]["message"] == "a signed request was used before."


ANSWERS: dict[str, Callable[[Passed], None]] = {
    "another body": lambda said: setattr(said, "answer", said.answer.replace(b"[", b'["x",', 1)),
    "another status": lambda said: setattr(said, "status", 201),
    "no signature": lambda said: drop(said.answer_headers, "signature"),
    "made up": lambda said: (
        said.answer_headers.clear(),
        setattr(said, "answer", b'{"sites":[],"online":[]}'),
    )[1],
    "an error of ours": lambda said: (
        setattr(said, "status", 409),
        setattr(said, "answer", b'{"error":{"code":"run.stopped","message":"x","hint":""}}'),
    )[1],
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_that_the_proxy_changes_is_refused(
    live: LiveLink, use: Callable[..., LinkClient], company: CompanyCa, what: str
) -> None:
    with terminating(live, company) as proxy:
        client = use(Network(proxy=proxy.url, ca=str(company.ca)))
        proxy.on_answer = ANSWERS[what]
        with refusal("link.signature"):
            client.request("GET", "/v1/roster")


def test_an_earlier_answer_in_the_place_of_this_one_is_refused(
    live: LiveLink, use: Callable[..., LinkClient], company: CompanyCa
) -> None:
    with terminating(live, company) as proxy:
        client = use(Network(proxy=proxy.url, ca=str(company.ca)))
        client.request("GET", "/v1/roster")
        first = replace(proxy.passed[0])

        def earlier(said: Passed) -> None:
            said.answer, said.answer_headers = first.answer, first.answer_headers

        proxy.on_answer = earlier
        with refusal("link.signature"):
            client.request("GET", "/v1/roster")


def test_a_proxy_that_cannot_reach_the_coordinator_is_an_unreachable_coordinator(
    live: LiveLink, use: Callable[..., LinkClient], company: CompanyCa
) -> None:
    with terminating(live, company) as proxy:
        client = use(Network(proxy=proxy.url, ca=str(company.ca)), url="https://localhost:9")
        with pytest.raises(LinkError, match="a proxy answered 502") as caught:
            client.request("GET", "/v1/roster")
        assert caught.value.code == "link.unreachable"


def test_a_page_of_the_proxy_s_own_is_no_answer(
    live: LiveLink, use: Callable[..., LinkClient], company: CompanyCa
) -> None:
    def blocked(said: Passed) -> None:
        said.status, said.answer, said.answer_headers = 403, b"<html>blocked by policy</html>", {}

    with terminating(live, company) as proxy:
        client = use(Network(proxy=proxy.url, ca=str(company.ca)))
        proxy.on_answer = blocked
        with pytest.raises(LinkError, match="the coordinator answered 403") as caught:
            client.request("GET", "/v1/roster")
        assert caught.value.code == "link.refused"


def test_the_card_is_fetched_through_a_proxy(live: LiveLink, company: CompanyCa, tmp_path: Path) -> None:
    for proxy in (Proxy(password=PASSWORD), terminating(live, company)):
        auth = password_file(tmp_path, PASSWORD) if proxy.password else None
        with proxy:
            network = Network(proxy=proxy.url, proxy_auth=auth, ca=str(company.ca))
            assert fetch_card(live.url, network=network).key == live.identity.public
        assert len(proxy.asked) == 1


def test_somebody_enrols_through_a_terminating_proxy(live: LiveLink, company: CompanyCa) -> None:
    with terminating(live, company) as proxy:
        folder = live.folder / "beta"
        folder.mkdir(mode=0o700)
        (folder / "network.yaml").write_text(json.dumps({"proxy": proxy.url, "ca": str(company.ca)}))
        credential, keys = live.member("beta")
        assert [said.path for said in proxy.passed] == ["/v1/card", "/v1/enrol"]
        client = credential.connect(keys, patience_s=0.0)
        assert client.request("GET", "/v1/roster").status_code == 200
        client.close()
    assert Credential(folder).enrolled


# -- what is written down --------------------------------------------------------------------------


class NoLauncher:
    level = "none"

    def launch(self, log: Path, **_: Any) -> Any:
        raise AssertionError("there is nothing to run")


def actions(home: SiteHome, action: str) -> list[dict[str, Any]]:
    """Return the entries of the site's log about *action*."""
    if not (home.audit / "log.jsonl").exists():
        return []
    entries = [
        flat(json.loads(line)) for line in log_text(home).splitlines(keepends=True) if line[-1] == "\n"
    ]
    return [entry for entry in entries if entry["action"] == action]


@pytest.mark.parametrize("terminated", [True, False])
def test_a_node_logs_where_its_tls_ends(
    live: LiveLink, company: CompanyCa, monkeypatch: pytest.MonkeyPatch, terminated: bool
) -> None:
    """In the site's own log, signed and cosigned like the rest; the coordinator keeps a note of its own."""
    monkeypatch.setattr(link_module, "POLL_S", 0.2)
    name = "read" if terminated else "unread"
    credential, keys = live.member(name)
    home = SiteHome(credential.folder)
    with terminating(live, company) if terminated else Proxy() as proxy:
        network = Network(proxy=proxy.url, ca=str(company.ca) if terminated else None)
        home.write_config(SiteConfig(name=name, organisation=f"{name}-org", network=network))
        write_peers(home.peers, Peers(coordinator=live.identity.public))
        node = Node(home, keys, launcher=NoLauncher())  # type: ignore[arg-type]
        serving = threading.Thread(target=node.serve, daemon=True)
        serving.start()
        deadline = time.monotonic() + 30
        while not actions(home, "connected") and time.monotonic() < deadline:
            time.sleep(0.05)
        node.close()
        serving.join(20)
        node.link.close()
    assert [entry["end_to_end"] for entry in actions(home, "connected")] == [not terminated]
    assert (name in live.registry.intercepted()) is terminated


# -- what the document says ------------------------------------------------------------------------

DOCUMENT = (Path(__file__).parents[2] / "docs/gateway/networks.md").read_text(encoding="utf-8")


def test_the_settings_of_the_document_are_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "site.yaml").write_text("name: alpha\norganisation: A\n" + example)
    network = SiteHome(tmp_path).config().network
    assert network.may_be_intercepted
    assert None not in network.model_dump().values()


def test_the_figures_of_the_document_are_those_of_the_code() -> None:
    limits, kib, mib = Limits(), 1024, 1024 * 1024
    assert limits.handshake_s == limits.head_s
    assert MAX_SKEW_S == 60
    for figures in (
        f"| {limits.head_s:.0f} s each; {limits.head_bytes // kib} KiB |",
        f"| {limits.grace_s:.0f} s, then {limits.bytes_per_s // kib} KiB a second |",
        f"| {MAX_MESSAGE_BYTES // mib} MiB; {CHUNK_BYTES // mib} MiB; {MAX_PROJECT_BYTES // kib} KiB;",
        f"; {MAX_ENROL_BYTES // kib} KiB; more is a 413 |",
        f"| {MAX_JSON_VALUES:,}, counted before it is parsed |",
        f"| {limits.per_certificate} of one certificate, {limits.per_address} of one address without one,",
        f" {limits.connections:,} in all",
        f"| {MAX_HELD_BYTES // mib} MiB |",
        f"{MAX_NONCES:,} at a time |",
        f"| {MAX_ANSWER_BYTES // mib} MiB, uncompressed;",
    ):
        assert figures in DOCUMENT, figures
    assert f"{len(REQUESTS)} changes to requests and {len(ANSWERS)} to answers" in words(DOCUMENT)


def words(text: str) -> str:
    """Return *text* in one line, small numbers as digits."""
    digits = {"eight": "8", "five": "5"}
    return " ".join(digits.get(word, word) for word in text.split())
