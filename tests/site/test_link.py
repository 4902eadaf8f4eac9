"""The client of the link against a real server: chunks, damage, and errors that come back as themselves."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from plasmid.core.bounds import MAX_BODY_BYTES
from plasmid.core.errors import LinkError, PlasmidError, ProtocolError, UsageError
from plasmid.gateway.keys.keystore import KEYS_FILE, Cost, EncryptedFile
from plasmid.link.authority import Authority
from plasmid.protocol.body import CHUNK_BYTES
from plasmid.protocol.enrolment import new_tls_key, signed_card
from plasmid.protocol.identity import Identity, fingerprint
from plasmid.protocol.messages import Heartbeat, StopRequest, sign
from plasmid.secagg.samples import body_root
from plasmid.uplink import enrol as enrol_module
from plasmid.uplink.enrol import Credential, enrol, fetch_card, fetch_roster, keep_certificate
from plasmid.uplink.link import LinkClient, issued_by
from support.federation.live_link import PASSPHRASE, LiveLink

BODY = np.random.default_rng(0).bytes(2 * CHUNK_BYTES + 12_345)
DIGEST = body_root(BODY)


def new_keys(folder: Path, name: str) -> EncryptedFile:
    return EncryptedFile.create(folder / KEYS_FILE, name, lambda: PASSPHRASE, cost=Cost(n=2))


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


@pytest.fixture(scope="module")
def alpha(live: LiveLink) -> tuple[Credential, Identity]:
    credential, keys = live.member("alpha")
    return credential, keys.identity()


@pytest.fixture
def client(live: LiveLink, alpha: tuple[Credential, Identity]) -> Iterator[LinkClient]:
    made = live.client(alpha[0])
    live.run(live.server.open_run("run-1", ["alpha"]))
    live.run(live.server.expect("run-1", len(BODY)))
    yield made
    live.run(live.server.close_run("run-1"))
    made.close()


class Requests:
    """Counts the requests of a client; may change their bytes on the way."""

    def __init__(self, client: LinkClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.damage: Any = None
        request = client._http.request

        def counted(method: str, path: str, **arguments: Any) -> httpx.Response:
            self.seen.append((method, arguments.get("params", {}).get("offset")))
            if self.damage is not None:
                arguments = self.damage(len(self.seen), arguments) or arguments
            return request(method, path, **arguments)

        monkeypatch.setattr(client._http, "request", counted)


@pytest.fixture
def requests(client: LinkClient, monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(client, monkeypatch)


# -- bodies ----------------------------------------------------------------------------------------


def test_a_body_goes_up_in_chunks_once(live: LiveLink, client: LinkClient, requests: Requests) -> None:
    client.upload(DIGEST, BODY, run="run-1")
    assert [offset for _, offset in requests.seen] == [0, CHUNK_BYTES, 2 * CHUNK_BYTES]
    assert live.server._bodies.received("run-1", "alpha", DIGEST).read_bytes() == BODY
    client.upload(DIGEST, BODY, run="run-1")
    assert len(requests.seen) == 4  # the first answer says that all of it is there


def test_an_upload_goes_on_where_it_stopped(live: LiveLink, client: LinkClient, requests: Requests) -> None:
    def fail(count: int, arguments: dict[str, Any]) -> None:
        if count == 2:
            raise httpx.ReadError("the network went away")

    requests.damage = fail
    with refusal("link.unreachable"):
        client.upload(DIGEST, BODY, run="run-1")
    requests.damage = None
    requests.seen.clear()
    client.upload(DIGEST, BODY, run="run-1")
    assert [offset for _, offset in requests.seen] == [0, CHUNK_BYTES, 2 * CHUNK_BYTES]
    assert live.server._bodies.received("run-1", "alpha", DIGEST).read_bytes() == BODY


def test_a_chunk_that_is_damaged_on_the_way_up_is_refused(client: LinkClient, requests: Requests) -> None:
    def damage(count: int, arguments: dict[str, Any]) -> dict[str, Any] | None:
        return {**arguments, "content": b"\0" + arguments["content"][1:]} if count == 2 else None

    requests.damage = damage
    with refusal("protocol.chunk"):
        client.upload(DIGEST, BODY, run="run-1")
    client.upload(DIGEST, BODY, run="run-1")  # sent again


def test_a_body_of_another_size_or_run_is_refused(client: LinkClient) -> None:
    for body, run in ((BODY + b"\0", "run-1"), (BODY[:100], "run-1"), (BODY, "run-2")):
        with refusal("protocol.body_size"):
            client.upload(body_root(body), body, run=run)


def test_a_body_under_another_digest_is_refused(client: LinkClient) -> None:
    with refusal("protocol.chunk"):
        client.upload("0" * 64, BODY, run="run-1")


@pytest.mark.parametrize("size", [1, 1000, CHUNK_BYTES, CHUNK_BYTES + 1, len(BODY)])
def test_a_published_body_comes_down(
    live: LiveLink, client: LinkClient, requests: Requests, size: int
) -> None:
    digest = live.call(live.server._bodies.publish, BODY[:size])
    assert client.download(digest, size) == BODY[:size]
    assert len(requests.seen) == -(-size // CHUNK_BYTES)


@pytest.mark.parametrize("size", [1000, len(BODY)])
def test_a_body_that_was_changed_on_the_server_s_disk_is_refused(
    live: LiveLink, client: LinkClient, size: int
) -> None:
    digest = live.call(live.server._bodies.publish, BODY[-size:])
    path: Path = live.server._bodies.published(digest)
    path.write_bytes(b"\0" * size)
    with refusal("link.body_differs"):
        client.download(digest, size)
    path.write_bytes(BODY[-size:-1])  # cut short
    with refusal("link.body_differs"):
        client.download(digest, size)
    path.unlink()


def test_a_body_of_another_size_than_announced_is_refused(live: LiveLink, client: LinkClient) -> None:
    digest = live.call(live.server._bodies.publish, BODY[:5000])
    for size in (4999, 5001, 0):
        with refusal("link.body_differs"):
            client.download(digest, size)
    with pytest.raises(LinkError, match="is larger than") as caught:
        client.download(digest, MAX_BODY_BYTES + 1)
    assert caught.value.code == "link.body_differs"


def test_a_body_that_is_not_there_is_said(client: LinkClient) -> None:
    with refusal("link.no_body"):
        client.download("0" * 64, 10)


# -- messages --------------------------------------------------------------------------------------


def test_messages_go_both_ways(
    live: LiveLink, client: LinkClient, alpha: tuple[Credential, Identity]
) -> None:
    heartbeat = Heartbeat(run="run-1", site="alpha", round=1, step=2, steps=6)
    client.post(sign(alpha[1], heartbeat))
    assert live.run(live.server.pulses("run-1")) == {"alpha": (1, 2, 6)}
    signed = sign(live.identity, StopRequest(run="run-1"))
    live.run(live.server.send([("alpha", signed)]))
    boot, messages = client.poll("", 0)
    assert [message for _, message in messages] == [signed]
    live.run(live.server.send([("alpha", signed)]))
    assert [seq for seq, _ in client.poll(boot, messages[-1][0])[1]] == [messages[-1][0] + 1]


def test_an_error_comes_back_as_itself(client: LinkClient, alpha: tuple[Credential, Identity]) -> None:
    with pytest.raises(ProtocolError, match="run-9 is over, unknown or not for alpha") as caught:
        client.post(sign(alpha[1], Heartbeat(run="run-9", site="alpha", round=1, step=1, steps=1)))
    assert caught.value.code == "protocol.replay"
    with refusal("link.wrong_role"):
        client.request("GET", "/v1/runs")
    with pytest.raises(LinkError, match="the coordinator answered 404") as unknown:
        client.request("GET", "/v2/anything")
    assert unknown.value.code == "link.refused"


# -- the connection --------------------------------------------------------------------------------


def test_a_request_is_tried_again_until_patience_ends(
    live: LiveLink, alpha: tuple[Credential, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = live.client(alpha[0], patience_s=20.0)
    requests = Requests(patient, monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def fail(count: int, arguments: dict[str, Any]) -> None:
        if count < 4:
            raise httpx.ConnectError("not yet")

    requests.damage = fail
    assert patient.request("GET", "/v1/roster").status_code == 200
    assert len(requests.seen) == 4
    patient.close()


def test_nobody_there_is_said(live: LiveLink, alpha: tuple[Credential, Identity]) -> None:
    lonely = LinkClient(
        "https://localhost:9",
        ca=alpha[0].folder / "ca.pem",
        certificate=alpha[0].certificate,
        password=live.keys(alpha[0]).tls_password(),
        patience_s=0.0,
    )
    with pytest.raises(LinkError, match=r"https://localhost:9 cannot be reached \(ConnectError\)") as caught:
        lonely.request("GET", "/v1/roster")
    assert caught.value.code == "link.unreachable"
    assert "plasmid coordinator start" in caught.value.hint
    lonely.close()


@pytest.mark.promise("pinned-ca")
def test_a_server_of_another_ca_is_refused_at_once(
    live: LiveLink, alpha: tuple[Credential, Identity], tmp_path: Path
) -> None:
    """Trying again would not help: it is somebody else, however long one waits."""
    Authority.create(tmp_path)
    deceived = LinkClient(
        live.url,
        ca=tmp_path / "ca.pem",
        certificate=alpha[0].certificate,
        password=live.keys(alpha[0]).tls_password(),
        patience_s=60.0,
    )
    begun = time.monotonic()
    with refusal("link.unreachable"):
        deceived.request("GET", "/v1/roster")
    assert time.monotonic() - begun < 30.0
    deceived.close()


def test_a_proxy_in_the_environment_is_not_used(
    live: LiveLink, alpha: tuple[Credential, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    direct = live.client(alpha[0])
    assert direct.request("GET", "/v1/roster").status_code == 200
    direct.close()


# -- enrolment -------------------------------------------------------------------------------------


def test_a_credential_is_what_enrolment_left(live: LiveLink, alpha: tuple[Credential, Identity]) -> None:
    credential, identity = alpha
    assert credential.coordinator() == (live.url, live.identity.public)
    assert credential.name == "alpha"
    again = live.keys(credential).identity()
    assert (again.public, again.name) == (identity.public, "alpha")
    found = {path.name: path.stat().st_mode & 0o777 for path in credential.folder.iterdir()}
    assert set(found) == {"keys.json", "tls.pem", "ca.pem", "coordinator.json"}
    assert found["keys.json"] == found["tls.pem"] == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in credential.certificate.read_bytes()


def test_the_roster_says_who_is_connected(live: LiveLink, client: LinkClient) -> None:
    live.run(live.server.send([("alpha", sign(live.identity, StopRequest(run="run-1")))]))
    client.poll("", 0)
    roster, online = fetch_roster(client)
    assert [entry.name for entry in roster] == ["alpha"]
    assert online == ["alpha"]


def test_a_fingerprint_that_the_owner_does_not_confirm_ends_it(live: LiveLink, tmp_path: Path) -> None:
    shown: list[tuple[str, str]] = []

    def confirm(what: str, found: str) -> bool:
        shown.append((what, found))
        return False

    keys = new_keys(tmp_path / "beta", "beta")
    invitation = live.registry.invite(name="beta", role="site", organisation="B")
    with refusal("protocol.fingerprint"):
        enrol(
            tmp_path / "beta",
            keys,
            url=f"{live.url}/",
            role="site",
            organisation="B",
            invitation=invitation,
            confirm=confirm,
        )
    assert shown == [(f"the coordinator at {live.url}", fingerprint(live.identity.public))]
    assert not Credential(tmp_path / "beta").enrolled
    assert [path.name for path in (tmp_path / "beta").iterdir()] == ["keys.json"]


def test_an_invitation_that_is_refused_leaves_no_credential(live: LiveLink, tmp_path: Path) -> None:
    keys = new_keys(tmp_path / "gamma", "gamma")
    with refusal("link.invitation"):
        enrol(
            tmp_path / "gamma",
            keys,
            url=live.url,
            role="site",
            organisation="C",
            invitation="guess",
            confirm=lambda what, found: True,
        )
    credential = Credential(tmp_path / "gamma")
    assert not credential.enrolled
    with pytest.raises(UsageError) as caught:
        credential.connect(keys)
    assert caught.value.code == "usage.not_enrolled"


@pytest.mark.parametrize("ca", ["", "pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_coordinator_without_a_ca_is_refused(
    live: LiveLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ca: str
) -> None:
    """Its card is signed by itself, so that nothing says that a certificate is in it."""
    monkeypatch.setattr(enrol_module, "fetch_card", lambda *_, **__: signed_card(live.identity, ca))
    with pytest.raises(LinkError, match="holds no certificate") as caught:
        enrol(
            tmp_path / "delta",
            new_keys(tmp_path / "delta", "delta"),
            url=live.url,
            role="site",
            organisation="D",
            invitation="none",
            confirm=lambda what, found: True,
        )
    assert caught.value.code == "link.refused"


@pytest.mark.parametrize(
    ("at", "change"), [(b"\x2b\x65\x70", b"\x2b\x69\x70"), (b"\x02\x01\x02", b"\x02\x01\x07")]
)
def test_a_certificate_that_cannot_be_read_is_nobody_s(
    live: LiveLink, alpha: tuple[Credential, Identity], tmp_path: Path, at: bytes, change: bytes
) -> None:
    """A key of an unknown kind, a version that does not exist: found by the fuzzer."""
    ca = x509.load_pem_x509_certificate((alpha[0].folder / "ca.pem").read_bytes())
    leaf = x509.load_pem_x509_certificate(alpha[0].certificate.read_bytes()).public_bytes(Encoding.DER)
    assert issued_by(leaf, ca)
    broken = leaf.replace(at, change)
    assert broken != leaf
    assert not issued_by(broken, ca)
    text = base64.encodebytes(broken).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"
    key, csr = new_tls_key("alpha", b"password")
    with refusal("link.refused"):
        keep_certificate(tmp_path, {"certificate": pem}, key, csr)


def test_what_is_not_a_coordinator_has_no_card(live: LiveLink) -> None:
    for url in ("https://localhost:9", f"{live.url}/v1/roster"):
        with refusal("link.unreachable"):
            fetch_card(url)
