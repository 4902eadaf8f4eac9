"""Row 15. Attack: one party enrols as several: one key twice, an invitation that was never issued to it,
three keys of one organisation.

Must hold: an invitation is for one newcomer, once; a key enrols once, and counts once; the minimum of
contributors counts organisations as this owner confirmed them, whatever the coordinator lists. Requests go
over real TLS to a real link; each is shown to work where nothing is wrong with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from plasmid.core.canonical import sha256_hex
from plasmid.gateway.members.peers import Peer, Peers, read_peers, write_peers
from plasmid.protocol.enrolment import EnrolRequest, new_tls_key, signed_request
from plasmid.protocol.identity import Identity
from plasmid.protocol.project import Project
from plasmid.recipes.query import PingDocument
from plasmid.secagg.ring import decode_sum
from support.federation.attacks import FOUR, never, refusal
from support.federation.in_memory import Federation
from support.federation.live_link import LiveLink

BETA = {"name": "beta", "role": "site", "organisation": "B"}
ENROLLED = (200, None)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveLink]:
    with LiveLink(tmp_path_factory.mktemp("link")) as link:
        yield link


@pytest.fixture(autouse=True)
def _nobody_stays(live: LiveLink) -> Iterator[None]:
    yield
    with live.registry._engine.begin() as connection:
        for table in ("certificates", "members", "invitations"):
            connection.exec_driver_sql(f"DELETE FROM {table}")


def request(identity: Identity, invitation: str, **changes: Any) -> EnrolRequest:
    """Return the request of a newcomer of organisation B, or of another one."""
    csr = new_tls_key(identity.name, b"password")[1]
    values = {"role": "site", "organisation": "B", "csr": csr} | changes
    return signed_request(identity, invitation=invitation, **values)


def send(live: LiveLink, said: EnrolRequest) -> tuple[int, str | None]:
    """Enrol as a stranger does, without a certificate; return the status and the error's code."""
    with live.http() as client:
        answer: httpx.Response = client.post("/v1/enrol", content=said.model_dump_json())
    return answer.status_code, None if answer.is_success else str(answer.json()["error"]["code"])


def enrolled(live: LiveLink) -> list[tuple[str, str]]:
    return [(entry.name, entry.key) for entry in live.registry.sites()]


# -- invitations -----------------------------------------------------------------------------------


def test_an_invitation_enrols_one_newcomer(live: LiveLink) -> None:
    invitation = live.registry.invite(**BETA)
    first, second = Identity.generate("beta"), Identity.generate("beta")
    assert send(live, request(first, invitation)) == ENROLLED
    assert send(live, request(second, invitation)) == (409, "link.invitation")
    assert send(live, request(Identity.generate("gamma"), invitation)) == (409, "link.invitation")
    assert enrolled(live) == [("beta", first.public)]


def test_control_a_coordinator_that_forgets_what_was_used_enrols_several(live: LiveLink) -> None:
    """What single use is worth: with the mark wiped off, one word lets two keys in."""
    invitation = live.registry.invite(**BETA)
    assert send(live, request(Identity.generate("beta"), invitation)) == ENROLLED
    with live.registry._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE invitations SET used = NULL, name = 'gamma'")
    assert send(live, request(Identity.generate("gamma"), invitation)) == ENROLLED
    assert [name for name, _ in enrolled(live)] == ["beta", "gamma"]


@pytest.mark.parametrize(
    "change",
    [{"role": "person"}, {"organisation": "C"}, {"organisation": "b"}, {"organisation": "B "}],
    ids=str,
)
def test_an_invitation_is_for_one_role_and_organisation(live: LiveLink, change: dict[str, Any]) -> None:
    invitation, beta = live.registry.invite(**BETA), Identity.generate("beta")
    assert send(live, request(beta, invitation, **change)) == (409, "link.invitation")
    assert send(live, request(beta, invitation)) == ENROLLED, "it is not spent by a refusal"


def test_an_invitation_that_nobody_issued_enrols_nobody(live: LiveLink) -> None:
    """Nor does what lies in the coordinator's database, for whoever can read that."""
    real = live.registry.invite(**BETA)
    stored = sha256_hex(real.encode())
    for invented in ("", "x" * 43, secrets.token_urlsafe(32), stored, real[:-1], real + "A", real.lower()):
        assert send(live, request(Identity.generate("beta"), invented)) == (409, "link.invitation"), invented
    assert send(live, request(Identity.generate("beta"), real)) == ENROLLED


def test_an_expired_or_withdrawn_invitation_enrols_nobody(live: LiveLink) -> None:
    expired = live.registry.invite(**BETA, hours=0.0)
    withdrawn = live.registry.invite(**BETA)
    live.registry.take_back("beta")
    open_one = live.registry.invite(**BETA, hours=0.1)
    for invitation in (expired, withdrawn):
        assert send(live, request(Identity.generate("beta"), invitation)) == (409, "link.invitation")
    assert send(live, request(Identity.generate("beta"), open_one)) == ENROLLED


def test_a_request_that_its_key_did_not_sign_enrols_nobody(live: LiveLink) -> None:
    """Else somebody's public key could be enrolled under a stranger's name."""
    invitation = live.registry.invite(**BETA)
    beta, mallory = Identity.generate("beta"), Identity.generate("beta")
    said = request(beta, invitation)
    for forged in (
        said.model_copy(update={"signature": "0" * 128}),
        said.model_copy(update={"key": mallory.public}),
        said.model_copy(update={"signature": mallory.sign(said.signed_bytes())}),
        said.model_copy(update={"csr": new_tls_key("beta", b"mallory's")[1]}),
        said.model_copy(update={"name": "gamma"}),
    ):
        assert send(live, forged) == (409, "protocol.signature")
    assert enrolled(live) == []
    assert send(live, said) == ENROLLED


# -- one key twice ---------------------------------------------------------------------------------


def twins() -> tuple[Identity, Identity]:
    """Return two names for one key."""
    key = Ed25519PrivateKey.generate()
    return Identity("beta", key), Identity("gamma", key)


def test_a_key_enrols_once(live: LiveLink) -> None:
    beta, gamma = twins()
    assert send(live, request(beta, live.registry.invite(**BETA))) == ENROLLED
    invitation = live.registry.invite(name="gamma", role="site", organisation="C")
    again = request(gamma, invitation, organisation="C")
    assert send(live, again) == (409, "link.name_taken")
    other = request(Identity.generate("gamma"), invitation, organisation="C")
    assert send(live, other) == ENROLLED, "the invitation was not spent by the refusal"
    assert len({key for _, key in enrolled(live)}) == 2


def listed(*members: Identity) -> dict[str, list[Any]]:
    """Return members as peers and as sites of a project, each of its own organisation."""
    parts = [{"name": one.name, "organisation": f"{one.name} hospital", "key": one.public} for one in members]
    return {"sites": parts}


def test_an_owner_counts_a_key_once_though_the_coordinator_lists_it_twice(tmp_path: Path) -> None:
    beta, gamma = twins()
    pinned = {"coordinator": Identity.generate("coordinator").public}
    with pytest.raises(ValueError, match="beta and gamma have one key"):
        Peers.model_validate(pinned | listed(beta, gamma))
    path = tmp_path / "peers.yaml"
    lines = [f"{{name: {one.name}, organisation: {one.name}, key: '{one.public}'}}" for one in (beta, gamma)]
    path.write_text(f"coordinator: '{pinned['coordinator']}'\nsites: [{', '.join(lines)}]\n")
    with refusal("recipe.invalid"):
        read_peers(path)
    assert len(Peers.model_validate(pinned | listed(beta, Identity.generate("gamma"))).sites) == 2


def test_no_project_has_a_key_twice() -> None:
    beta, gamma = twins()
    person = {"name": "ada", "organisation": "lab", "key": "1" * 64, "roles": ["launch"]}
    rest = {
        "name": "p",
        "purpose": "p",
        "people": [person],
        "first_day": "2026-01-01",
        "last_day": "2026-12-31",
    }
    with pytest.raises(ValueError, match="two members have one key"):
        Project.model_validate(rest | listed(beta, gamma))
    assert Project.model_validate(rest | listed(beta, Identity.generate("gamma"))).sites


# -- three keys of one organisation ----------------------------------------------------------------


def believe(federation: Federation, site: str, **organisations: str) -> None:
    """Have the owner of *site* confirm its peers under these organisations."""
    path = federation.home(site).peers
    known = read_peers(path)
    peers = [
        Peer(name=peer.name, organisation=organisations.get(peer.name, peer.organisation), key=peer.key)
        for peer in known.sites
    ]
    write_peers(path, Peers(coordinator=known.coordinator, sites=peers))


def federation_of_four(folder: Path) -> Federation:
    """The coordinator, and the project that it passes on, list four sites of four organisations."""
    made = Federation(folder, document=PingDocument(length=6, rounds=1), sites=FOUR, c=2)
    made.admit_all()
    return made


THREE_OF_ONE = dict.fromkeys(("beta", "delta", "gamma"), "Company X")


def test_three_keys_of_one_organisation_are_one_contributor(tmp_path: Path) -> None:
    """Four keys, two organisations: there is no c at which alpha takes part."""
    federation = federation_of_four(tmp_path)
    believe(federation, "alpha", **THREE_OF_ONE)
    for c in range(4):
        with refusal("protocol.colluders"):
            federation.gateways["alpha"].begin_epoch(federation.epoch(c=c))
    with refusal("protocol.manifest"):
        federation.gateways["alpha"].contribute(federation.manifest(rho="0" * 64), never)
    assert not federation.home("alpha").runs.exists()


def test_control_by_the_coordinator_s_list_the_same_sites_read_alpha_s_vector(tmp_path: Path) -> None:
    """What the owner's own word is worth: by the list they are four organisations, and alpha takes part.

    Company X holds beta, delta and gamma, which send zeros: the opened sum is what alpha has sent.
    """
    federation = federation_of_four(tmp_path)
    federation.key_epoch(c=2)
    manifest = federation.manifest()
    secret = manifest.bound * np.array([1.0, -0.5, 0.25, 0.0, 0.75, -1.0])
    vectors = {site: secret if site == "alpha" else np.zeros(6) for site in FOUR}
    typed = {site: vector.astype(np.float32) for site, vector in vectors.items()}
    total = federation.open_sum(list(federation.answers(manifest, typed).values()), manifest)
    found = decode_sum(total, manifest.encoding(), len(FOUR))
    np.testing.assert_allclose(found, secret, atol=1e-4 * manifest.bound)


@pytest.mark.parametrize(
    "spelt",
    [
        {"beta": "Company X", "delta": "company x", "gamma": "COMPANY  X"},
        {"beta": "Company X", "delta": " Company X", "gamma": "Company\u00a0X "},
        {"beta": "Company X", "delta": "\uff23ompany X", "gamma": "Company X"},
    ],
    ids=["case", "spaces", "width"],
)
def test_one_name_in_three_spellings_is_one_organisation(tmp_path: Path, spelt: dict[str, str]) -> None:
    federation = federation_of_four(tmp_path)
    believe(federation, "alpha", **spelt)
    with refusal("protocol.colluders"):
        federation.gateways["alpha"].begin_epoch(federation.epoch(c=2))


def test_organisations_are_counted_where_colluders_would_let_it_pass(tmp_path: Path) -> None:
    """Alpha's own organisation has a second site, and X two: three organisations' minimum is not met."""
    federation = federation_of_four(tmp_path)
    believe(federation, "alpha", beta="alpha hospital", delta="Company X", gamma="Company X")
    with refusal("policy.min_organisations"):
        federation.gateways["alpha"].begin_epoch(federation.epoch(c=2))
    believe(federation, "alpha", beta="alpha hospital", delta="Company X", gamma="Company Y")
    assert federation.gateways["alpha"].begin_epoch(federation.epoch(c=2)) is not None, "the control"
