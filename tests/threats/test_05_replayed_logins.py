"""Row 5. Attack: replay or reorder of a contribution, approval, login, checkpoint.

Must hold: rejected by nonce, round and digest; an empty nonce is a rejection. Here: approvals, invitations,
signed requests, the page's login link, and the checkpoints of logs; ``test_05_replay.py`` has the rounds.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from plasmid.core.clock import now
from plasmid.gateway.approvals.register import Approvals
from plasmid.link import callers
from plasmid.link.authority import Authority
from plasmid.link.engine import open_engine, sqlite_url
from plasmid.link.registry import Registry
from plasmid.owner.page.server import PageServer
from plasmid.protocol.enrolment import new_tls_key, signed_request
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.http_signatures import sign_request
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import LogCheckpoint, LogCosignature, Signed
from support.federation.approving import add_people, allow_approved, revoke, sign
from support.federation.attacks import count_document, private, refusal
from support.federation.cosigners import Cosigners
from support.federation.in_memory import Federation, document_of
from support.federation.live_link import LiveLink
from support.federation.owner_site import make_site

# -- approvals -------------------------------------------------------------------------------------


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """alpha's ann must approve; a run waits for her."""
    made = private(tmp_path)
    allow_approved(made, people=["ann"], quorum=1)
    add_people(made, "ann")
    assert counted(made) == 0
    return made


def approvals_of(federation: Federation) -> Approvals:
    return federation.gateways["alpha"].approvals


def counted(federation: Federation) -> int:
    """Return how many approvals alpha counts for a run; 1 is enough."""
    said = federation.gateways["alpha"].answer(federation.admitting())
    return 1 if said.accepted else said.pending.have if said.pending else 0


def files(federation: Federation) -> dict[Path, bytes]:
    folder = federation.home("alpha").approvals
    return {path: path.read_bytes() for path in folder.rglob("*.approval.json")}


def ann_signs(federation: Federation, **changes: Any) -> Any:
    approvals = approvals_of(federation)
    return sign(approvals, approvals.find(federation.digest), "ann", **changes)


def test_an_approval_that_was_revoked_counts_for_nothing_when_it_is_put_back(federation: Federation) -> None:
    said = ann_signs(federation)
    kept = files(federation)
    assert counted(federation) == 1  # control
    revoke(approvals_of(federation), said, "ann")
    for path, content in kept.items():
        path.write_bytes(content)
        (path.parent / f"{'a' * 64}.approval.json").write_bytes(content)
    federation.new_run("asked for anew")
    assert counted(federation) == 0
    ann_signs(federation)  # control: a new one is another record
    assert counted(federation) == 1


def test_an_approval_that_has_expired_does_not_come_again(federation: Federation) -> None:
    ann_signs(federation, days=30)
    kept = files(federation)
    assert counted(federation) == 1  # control
    federation.gateways["alpha"].audit._clock = lambda: now() + timedelta(days=31)
    for path, content in kept.items():
        path.unlink()
        path.write_bytes(content)
    federation.new_run("a month later")
    assert counted(federation) == 0


def test_an_approval_of_one_recipe_does_not_open_another(federation: Federation) -> None:
    ann_signs(federation)
    (content,) = files(federation).values()
    values, digest = document_of(count_document().model_copy(update={"seed": 1}))
    other = federation.admitting(document=values, digest=digest)
    said = federation.gateways["alpha"].answer(other)
    assert said.pending is not None  # it waits, in a folder of its own
    folder = federation.home("alpha").approvals
    (waiting,) = [path for path in folder.iterdir() if path.name != federation.digest]
    (waiting / next(iter(files(federation))).name).write_bytes(content)
    said = federation.gateways["alpha"].answer(other)
    assert said.pending is not None
    assert said.pending.have == 0
    assert counted(federation) == 1  # control


@pytest.mark.parametrize("nonce", ["", "0" * 31, "0" * 33, "G" * 32])
def test_an_approval_without_a_nonce_is_none(federation: Federation, nonce: str) -> None:
    """ann's own key has signed it: only the nonce is missing."""
    said = ann_signs(federation)
    for path in files(federation):
        path.unlink()
    approvals = approvals_of(federation)
    signer = approvals.people.signer("ann", lambda: "correct horse battery of ann")
    for value, counts in ((nonce, 0), ("1" * 32, 1)):  # the latter is the control
        again = said.approval.model_copy(update={"nonce": value})
        approvals.files.keep_approval(federation.digest, again.digest(), Envelope.of(again).signed(signer))
        assert counted(federation) == counts


# -- enrolment -------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    engine = open_engine(sqlite_url(tmp_path))
    yield Registry(engine)
    engine.dispose()


def test_an_enrolment_that_was_seen_enrols_nobody_again(registry: Registry, tmp_path: Path) -> None:
    """Neither the same request, nor its invitation under another key, which alone it would have admitted."""
    authority = Authority.create(tmp_path)
    how = {"role": "site", "organisation": "A", "csr": new_tls_key("alpha", b"password")[1]}
    invitation = registry.invite(name="alpha", role="site", organisation="A")
    seen = signed_request(Identity.generate("alpha"), invitation=invitation, **how)
    thief = signed_request(Identity.generate("alpha"), invitation=invitation, **how)
    registry.enrol(seen, authority)
    for replayed in (seen, thief):
        with refusal("link.invitation"):
            registry.enrol(replayed, authority)
    assert [site.key for site in registry.sites()] == [seen.key]


@pytest.mark.limit("an invitation that was not used admits anyone who holds it")
def test_control_an_invitation_that_was_not_used_admits_whoever_holds_it(
    registry: Registry, tmp_path: Path
) -> None:
    how = {"role": "site", "organisation": "A", "csr": new_tls_key("alpha", b"password")[1]}
    invitation = registry.invite(name="alpha", role="site", organisation="A")
    thief = signed_request(Identity.generate("alpha"), invitation=invitation, **how)
    registry.enrol(thief, Authority.create(tmp_path))
    assert [site.key for site in registry.sites()] == [thief.key]


# -- signed requests -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveLink]:
    with LiveLink(tmp_path_factory.mktemp("link")) as link:
        yield link


@pytest.fixture(scope="module")
def ada(live: LiveLink) -> Any:
    return live.member("ada", "person")[1].identity()


def headers(live: LiveLink, signer: Any, nonce: str, **changes: Any) -> dict[str, str]:
    said = {
        "method": "GET",
        "path": "/v1/roster",
        "query": "",
        "body": b"",
        "coordinator": live.identity.public,
        "created": int(time.time()),
        "nonce": nonce,
    }
    return sign_request(signer, **said | changes)


def status(live: LiveLink, given: dict[str, str]) -> tuple[int, str]:
    with live.http() as client:
        answer: httpx.Response = client.get("/v1/roster", headers=given)
    return answer.status_code, "" if answer.is_success else answer.json()["error"]["code"]


def test_a_signed_request_serves_once_in_whatever_order(live: LiveLink, ada: Any) -> None:
    first, second = (headers(live, ada, secrets.token_hex(16)) for _ in range(2))
    assert status(live, second) == (200, "")  # control: each is good
    assert status(live, first) == (200, "")
    for replayed in (first, second, first):
        assert status(live, replayed) == (401, "link.signature")


def test_control_without_its_memory_the_coordinator_takes_it_twice(
    live: LiveLink, ada: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers._Seen, "once", lambda *_: None)
    seen = headers(live, ada, secrets.token_hex(16))
    assert [status(live, seen) for _ in range(2)] == [(200, "")] * 2


@pytest.mark.parametrize("nonce", ["", "0" * 31, "0" * 33, "G" * 32])
def test_a_signed_request_without_a_nonce_is_refused(live: LiveLink, ada: Any, nonce: str) -> None:
    assert status(live, headers(live, ada, nonce)) == (401, "link.signature")


def test_what_was_signed_before_the_coordinator_began_is_refused(live: LiveLink, ada: Any) -> None:
    """It forgets its nonces when it ends: within the minute for which a request is fresh, one would pass."""
    seen = headers(live, ada, secrets.token_hex(16))
    time.sleep(1.1)  # the time of a signature has whole seconds
    state = live.app.state
    before, state.callers = state.callers, callers.Callers(live.registry, live.identity.public)
    try:
        assert status(live, seen) == (401, "link.clock")
        assert status(live, headers(live, ada, secrets.token_hex(16))) == (200, "")  # control: signed since
    finally:
        state.callers = before
    assert status(live, seen) == (200, "")  # control: good where it was meant for


# -- the page's login link -------------------------------------------------------------------------


def test_a_login_link_opens_the_page_once(tmp_path: Path) -> None:
    page = PageServer(make_site(tmp_path / "site")[0])
    page.start()
    try:
        seen, fresh = (page.link().partition("secret=")[2] for _ in range(2))
        for secret, opens in ((seen, True), (seen, False), ("", False), (fresh, True)):  # controls: True
            with httpx.Client(trust_env=False) as client:
                client.post(f"{page.base}/login", data={"secret": secret})
                assert (client.get(f"{page.base}/").status_code == 200) is opens
    finally:
        page.close()


# -- checkpoints of logs ---------------------------------------------------------------------------


@pytest.fixture
def sites(tmp_path: Path) -> Cosigners:
    made = Cosigners(tmp_path)
    made.logs["alpha"].write("started")
    return made


def size_held(sites: Cosigners, peer: str) -> int:
    return sites.logs[peer].files.held()["alpha"].checkpoint.size


def test_an_old_checkpoint_does_not_take_the_place_of_a_newer_one(sites: Cosigners) -> None:
    """In the order in which they were made, the control, and the first once more."""
    seen: list[Signed] = []

    def copied(message: Signed) -> Signed:
        seen.append(message)
        return message

    for size in (1, 2):
        sites.exchange("alpha", asked=copied)
        assert [size_held(sites, peer) for peer in ("beta", "gamma")] == [size, size]
        sites.logs["alpha"].write("released")
    before = len(sites.logs["beta"].entries())
    said = sites.parts["beta"].open(next(one for one in seen if one.payload["receiver"] == "beta"))
    assert isinstance(said, LogCheckpoint)
    answer, _ = sites.parts["beta"].answer(said)
    assert answer.line == ""
    assert (size_held(sites, "beta"), len(sites.logs["beta"].entries())) == (2, before)


def test_a_cosignature_counts_for_the_checkpoint_that_it_is_of(sites: Cosigners) -> None:
    """The coordinator keeps beta's first answer, and gives it in the place of every later one."""
    seen: list[Signed] = []

    def first(message: Signed) -> Signed:
        if message.signer == "beta":
            seen.append(message)
            return seen[0]
        return message

    sites.exchange("alpha", answered=first)
    sites.logs["alpha"].write("released")
    sites.exchange("alpha", answered=first)
    assert isinstance(sites.parts["alpha"].open(seen[0]), LogCosignature)
    assert sites.cosigned("alpha") == {"beta": 1, "gamma": 2}
    sites.exchange("alpha")  # control: beta's own answer counts
    assert sites.cosigned("alpha") == {"beta": 2, "gamma": 2}
