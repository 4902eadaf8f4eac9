"""New certificates without a new enrolment, leaving, and what a revocation ends; over real TLS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import update
from sqlalchemy.orm import Session

from plasmid.core.clock import now
from plasmid.core.errors import PlasmidError
from plasmid.link import authority, membership
from plasmid.link.tables import CertificateRow
from plasmid.protocol.enrolment import new_tls_key
from plasmid.protocol.messages import Revoked, open_signed
from plasmid.protocol.revocation import Revocation, open_revocation
from plasmid.uplink.link import LinkClient
from plasmid.uplink.membership import leave, renew, validity
from plasmid.uplink.signing import SignedRequests
from support.federation.attacks import refusal
from support.federation.live_link import LiveLink


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveLink]:
    with LiveLink(tmp_path) as link:
        yield link


def roster(client: LinkClient) -> list[str]:
    return [entry["name"] for entry in client.request("GET", "/v1/roster").json()["sites"]]


def until(condition: Callable[[], Any], seconds: float = 20.0) -> float:
    """Wait for *condition*; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def revoke(live: LiveLink, name: str, reason: str = "its disk was stolen") -> Revocation:
    """Revoke as the verb does: another process writes into the database."""
    return live.registry.revoke(name, reason=reason, by=live.identity)


# -- new certificates ------------------------------------------------------------------------------


def test_a_new_certificate_takes_the_place_of_the_old_one(live: LiveLink, tmp_path: Path) -> None:
    credential, keys = live.member("alpha")
    old = tmp_path / "old.pem"
    old.write_bytes(credential.certificate.read_bytes())
    before = live.client(credential)
    assert roster(before) == ["alpha"]
    made = renew(credential, keys)
    assert made == validity(credential.certificate)
    assert credential.certificate.read_bytes() != old.read_bytes()
    assert credential.certificate.stat().st_mode & 0o777 == 0o600
    assert roster(before) == ["alpha"], "the new one has not been used yet"
    before.reload()
    assert roster(before) == ["alpha"]
    with live.http(old, password=keys.tls_password()) as late:
        assert late.get("/v1/roster").status_code == 200, "the grace"
        live.registry._certificates._clock = lambda: now() + timedelta(minutes=11)
        assert late.get("/v1/roster").status_code == 401, "out"
    assert roster(before) == ["alpha"]
    before.close()


def test_a_certificate_that_has_expired_is_renewed_without_an_invitation(
    live: LiveLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(authority, "LEAF_DAYS", 0)
        credential, keys = live.member("alpha")
    time.sleep(1.1)
    client = live.client(credential)
    with refusal("link.unreachable"):
        roster(client)
    renew(credential, keys)
    client.reload()
    assert roster(client) == ["alpha"]
    client.close()


def test_the_same_request_again_gets_the_same_certificate(live: LiveLink) -> None:
    """An answer that was lost is asked for again."""
    _, keys = live.member("alpha")
    _, csr = new_tls_key("alpha", keys.tls_password())
    member = live.registry.by_key(keys.public)
    assert member is not None
    ca = authority.Authority(live.home.folder)
    assert live.registry.renew(member, csr, ca) == live.registry.renew(member, csr, ca)


def test_certificates_that_nobody_used_do_not_pile_up(live: LiveLink) -> None:
    credential, keys = live.member("alpha")
    for _ in range(5):
        renew(credential, keys)
    with Session(live.registry._engine) as session:
        assert session.query(CertificateRow).count() == 1
    client = live.client(credential)
    assert roster(client) == ["alpha"]
    client.close()


@pytest.mark.parametrize("path", ["/v1/renew", "/v1/leave"])
def test_a_certificate_alone_neither_renews_nor_leaves(live: LiveLink, path: str) -> None:
    """Whoever has stolen a TLS key does not stay for longer than its certificate."""
    credential, keys = live.member("alpha")
    _, csr = new_tls_key("alpha", b"stolen")
    body = csr if path == "/v1/renew" else "alpha leaves"
    with live.http(credential.certificate, password=keys.tls_password()) as thief:
        answer = thief.post(path, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "link.identity")
    auth = SignedRequests(keys.identity(), live.identity.public)
    with live.http() as owner:
        assert owner.post(path, content=body, auth=auth).status_code == 200, "the control"


def test_a_replayed_request_for_a_certificate_is_refused(live: LiveLink) -> None:
    """Threat 5: what signs the request is used once."""
    _, keys = live.member("alpha")
    _, csr = new_tls_key("alpha", b"password")
    sent: list[httpx.Request] = []
    auth = SignedRequests(keys.identity(), live.identity.public)
    with live.http() as client:
        client.event_hooks["request"] = [sent.append]
        assert client.post("/v1/renew", content=csr, auth=auth).status_code == 200
        (request,) = sent
        again = client.post("/v1/renew", content=csr, headers=dict(request.headers))
        assert (again.status_code, again.json()["error"]["code"]) == (401, "link.signature")
        other = client.post("/v1/renew", content=new_tls_key("alpha", b"x")[1], headers=dict(request.headers))
        assert other.status_code in (401, 409)


@pytest.mark.parametrize("csr", ["", "not a request", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END"])
def test_what_is_no_request_gets_no_certificate(live: LiveLink, csr: str) -> None:
    _, keys = live.member("alpha")
    auth = SignedRequests(keys.identity(), live.identity.public)
    with live.http() as client:
        answer = client.post("/v1/renew", content=csr, auth=auth)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "protocol.malformed")


def test_an_answer_for_another_key_is_not_kept(live: LiveLink, monkeypatch: pytest.MonkeyPatch) -> None:
    credential, keys = live.member("alpha")
    before = credential.certificate.read_bytes()
    _, other = new_tls_key("alpha", b"password")
    monkeypatch.setattr("plasmid.uplink.membership._post", lambda *_: {"certificate": certified(live, other)})
    with refusal("link.refused"):
        renew(credential, keys)
    assert credential.certificate.read_bytes() == before


def certified(live: LiveLink, csr: str) -> str:
    ca = authority.Authority(live.home.folder)
    made = ca.issue_client(x509.load_pem_x509_csr(csr.encode()), name="alpha", role="site", organisation="A")
    return made.public_bytes(Encoding.PEM).decode()


# -- revocation ------------------------------------------------------------------------------------


def test_a_revoked_site_is_out_at_once_and_the_others_are_told(live: LiveLink) -> None:
    credential, _ = live.member("alpha")
    other, _ = live.member("beta")
    out, stays = live.client(credential), live.client(other)
    assert roster(out) == roster(stays) == ["alpha", "beta"]
    boot, _ = stays.poll("", 0)
    said = revoke(live, "alpha")
    with refusal("link.not_enrolled"):
        roster(out)
    assert roster(stays) == ["beta"]
    _, messages = stays.poll(boot, 0)
    (notice,) = [open_signed(signed, live.identity.public) for _, signed in messages]
    assert isinstance(notice, Revoked)
    assert open_revocation(notice.statement, live.identity.public) == said
    out.close()
    stays.close()


def test_its_open_poll_ends(live: LiveLink) -> None:
    credential, _ = live.member("alpha")
    client = live.client(credential)
    errors: list[PlasmidError] = []

    def poll() -> None:
        try:
            client.poll(boot, 0)
        except PlasmidError as error:
            errors.append(error)

    boot, _ = client.poll("", 0)
    polls = live.server._switchboard._polls["alpha"]
    first, thread = polls.begun, threading.Thread(target=poll)
    thread.start()
    until(lambda: polls.begun > first)
    revoke(live, "alpha")
    assert until(lambda: errors) < 5.0, "the poll would have waited for 20 s"
    assert errors[0].code == "link.revoked"
    assert live.run(live.server.online()) == []
    thread.join(5)
    client.close()


def test_a_revoked_person_s_runs_are_stopped(live: LiveLink) -> None:
    credential, _ = live.member("ada", "person")
    client = live.client(credential)
    revoke(live, "ada")
    with refusal("link.not_enrolled"):
        client.request("GET", "/v1/runs")
    until(lambda: ("expel", "ada") in live.asked)
    client.close()


def test_a_signature_of_a_revoked_key_opens_nothing_either(live: LiveLink) -> None:
    credential, keys = live.member("alpha")
    auth = SignedRequests(keys.identity(), live.identity.public)
    with live.http() as client:
        assert client.get("/v1/roster", auth=auth).status_code == 200
        revoke(live, "alpha")
        assert client.get("/v1/roster", auth=auth).status_code == 401
    with refusal("link.not_enrolled"):
        renew(credential, keys)


def test_a_site_that_comes_later_is_told_too(live: LiveLink) -> None:
    for name in ("alpha", "gamma"):
        live.member(name)
        revoke(live, name)
    late, _ = live.member("beta")
    client = live.client(late)
    time.sleep(2 * membership.LOOK_S)
    _, messages = client.poll("", 0)
    names = [
        open_signed(signed, live.identity.public).statement.open(Revocation).name for _, signed in messages
    ]
    assert names == ["alpha", "gamma"]
    client.close()


def test_a_coordinator_that_starts_anew_knows_them(live: LiveLink) -> None:
    live.member("alpha")
    live.member("ada", "person")
    revoke(live, "alpha")
    revoke(live, "ada")
    until(lambda: ("expel", "ada") in live.asked)
    live.asked.clear()
    live.run(live.server.close())
    again = type(live.server)(str(live.home.folder), live.home.database_url)
    live.run(again.start("127.0.0.1", 0))
    assert again._switchboard.expelled(["alpha", "beta"]) == ["alpha"]
    assert live.asked == [("expel", "ada")]
    live.run(again.close())
    live.server._serving = None
    again._registry._engine.dispose()


def test_a_name_and_a_key_stay_taken(live: LiveLink) -> None:
    _, keys = live.member("alpha")
    revoke(live, "alpha")
    with refusal("link.name_taken"):
        live.registry.invite(name="alpha", role="site", organisation="A")
    with refusal("link.no_member"):
        revoke(live, "alpha")
    with refusal("link.no_member"):
        revoke(live, "nobody")
    assert live.registry.by_key(keys.public) is None


def test_who_leaves_is_revoked(live: LiveLink) -> None:
    credential, keys = live.member("alpha")
    client = live.client(credential)
    leave(credential, keys)
    with refusal("link.not_enrolled"):
        roster(client)
    (found,) = live.registry.revocations()
    assert (found.said.name, found.said.reason) == ("alpha", "left by itself")
    assert found.said.key == keys.public
    client.close()


def test_nobody_makes_another_leave(live: LiveLink) -> None:
    _, keys = live.member("alpha")
    live.member("beta")
    auth = SignedRequests(keys.identity(), live.identity.public)
    with live.http() as client:
        answer = client.post("/v1/leave", content="beta leaves", auth=auth)
    assert answer.json()["error"]["code"] == "protocol.malformed"
    assert [entry.name for entry in live.registry.sites()] == ["alpha", "beta"]


def test_a_certificate_of_the_database_s_past_is_out(live: LiveLink) -> None:
    """The retirement is in the database: a server that starts anew knows of it."""
    credential, _ = live.member("alpha")
    client = live.client(credential)
    assert roster(client) == ["alpha"]
    with Session(live.registry._engine) as session, session.begin():
        past = now().replace(tzinfo=None) - timedelta(seconds=1)
        session.execute(update(CertificateRow).values(retires=past))
    with refusal("link.not_enrolled"):
        roster(client)
    client.close()
