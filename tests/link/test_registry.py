"""Invitations and members."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError
from sqlalchemy import create_engine, text

from plasmid.core.errors import PlasmidError
from plasmid.link.authority import Authority
from plasmid.link.registry import Member, Registry
from plasmid.protocol.enrolment import RosterEntry, new_tls_key, signed_request
from plasmid.protocol.identity import Identity
from plasmid.protocol.revocation import open_revocation


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    engine = create_engine(f"sqlite:///{tmp_path / 'state.db'}")
    yield Registry(engine)
    engine.dispose()


ALPHA = Identity.generate("alpha")
BETA = Identity.generate("beta")
INVITED = {"name": "alpha", "role": "site", "organisation": "A"}


def new_csr() -> str:
    return new_tls_key("alpha", b"password")[1]


def enrol(
    registry: Registry, authority: Authority, invitation: str, identity: Identity = ALPHA, **changes: Any
) -> str:
    values: dict[str, Any] = {"role": "site", "organisation": "A", "csr": new_csr()} | changes
    return registry.enrol(signed_request(identity, invitation=invitation, **values), authority)


def test_an_invitation_makes_a_member(registry: Registry, authority: Authority) -> None:
    pem = enrol(registry, authority, registry.invite(**INVITED))
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.subject.rfc4514_string() == "CN=alpha,OU=site,O=A"
    member = registry.by_certificate(certificate.public_bytes(Encoding.DER))
    assert member == Member("alpha", "site", "A", ALPHA.public)
    assert registry.sites() == [RosterEntry(name="alpha", organisation="A", key=ALPHA.public)]


def test_an_invitation_works_once(registry: Registry, authority: Authority) -> None:
    invitation = registry.invite(**INVITED)
    enrol(registry, authority, invitation)
    with refusal("link.invitation"):
        enrol(registry, authority, invitation)
    with refusal("link.invitation"):
        enrol(registry, authority, invitation, Identity.generate("alpha"))
    assert len(registry.sites()) == 1


@pytest.mark.parametrize("hours", [0.0, -1.0])
def test_an_invitation_expires(registry: Registry, authority: Authority, hours: float) -> None:
    with refusal("link.invitation"):
        enrol(registry, authority, registry.invite(**INVITED, hours=hours))


@pytest.mark.parametrize(
    ("identity", "changes"),
    [
        (Identity.generate("beta"), {}),
        (ALPHA, {"role": "person"}),
        (ALPHA, {"organisation": "B"}),
    ],
)
def test_an_invitation_is_for_one_name_role_and_organisation(
    registry: Registry, authority: Authority, identity: Identity, changes: dict[str, str]
) -> None:
    invitation = registry.invite(**INVITED)
    with refusal("link.invitation"):
        enrol(registry, authority, invitation, identity, **changes)
    assert registry.sites() == []
    enrol(registry, authority, invitation)  # it was not spent by that


@pytest.mark.parametrize("invitation", ["", "guess", "A" * 43])
def test_without_an_invitation_nobody_enrols(
    registry: Registry, authority: Authority, invitation: str
) -> None:
    registry.invite(**INVITED)
    with refusal("link.invitation"):
        enrol(registry, authority, invitation)


def test_a_key_enrols_once(registry: Registry, authority: Authority) -> None:
    enrol(registry, authority, registry.invite(**INVITED))
    second = Identity("beta", ALPHA._private)
    with refusal("link.name_taken"):
        enrol(registry, authority, registry.invite(**INVITED | {"name": "beta"}), second)
    assert [entry.name for entry in registry.sites()] == ["alpha"]


def test_a_name_enrols_once(registry: Registry, authority: Authority) -> None:
    early, late = registry.invite(**INVITED), registry.invite(**INVITED)
    enrol(registry, authority, early)
    with refusal("link.name_taken"):
        registry.invite(**INVITED)
    with refusal("link.name_taken"):
        enrol(registry, authority, late, Identity.generate("alpha"))
    assert registry.sites()[0].key == ALPHA.public


def test_the_secret_of_an_invitation_is_not_kept(registry: Registry, tmp_path: Path) -> None:
    invitation = registry.invite(**INVITED)
    assert len(invitation) == 43  # 256 bits
    assert registry.invite(**INVITED) != invitation
    with registry._engine.connect() as connection:
        rows = str(connection.execute(text("select * from invitations")).all())
    assert invitation not in rows
    assert invitation.encode() not in (tmp_path / "state.db").read_bytes()


def test_a_request_that_was_changed_is_refused(registry: Registry, authority: Authority) -> None:
    invitation = registry.invite(**INVITED)
    request = signed_request(ALPHA, invitation=invitation, role="site", organisation="A", csr=new_csr())
    for change in ({"csr": new_csr()}, {"key": Identity.generate("alpha").public}):
        with refusal("protocol.signature"):
            registry.enrol(request.model_copy(update=change), authority)
    registry.enrol(request, authority)


def test_a_tls_key_of_another_kind_is_refused(registry: Registry, authority: Authority) -> None:
    key = generate_private_key(public_exponent=65537, key_size=2048)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    with refusal("link.tls_key"):
        enrol(registry, authority, registry.invite(**INVITED), csr=csr.public_bytes(Encoding.PEM).decode())


def test_a_certificate_that_is_not_a_member_s_opens_nothing(registry: Registry) -> None:
    assert registry.by_certificate(b"") is None
    assert registry.by_certificate(b"anything") is None


def test_people_are_no_sites(registry: Registry, authority: Authority) -> None:
    invitation = registry.invite(**INVITED | {"role": "person"})
    enrol(registry, authority, invitation, role="person")
    assert registry.sites() == []


def test_members_survive_a_restart(registry: Registry, authority: Authority) -> None:
    pem = enrol(registry, authority, registry.invite(**INVITED))
    der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    again = Registry(registry._engine)
    member = again.by_certificate(der)
    assert member is not None
    assert member.name == "alpha"


# -- invitations -----------------------------------------------------------------------------------


def test_invitations_are_listed_without_their_secrets(registry: Registry, authority: Authority) -> None:
    used = registry.invite(**INVITED)
    enrol(registry, authority, used)
    registry.invite(name="late", role="site", organisation="A", hours=-1)
    open_ = registry.invite(name="ada", role="person", organisation="B")
    found = {known.name: known for known in registry.invitations()}
    assert {name: known.state for name, known in found.items()} == {
        "alpha": "used",
        "late": "expired",
        "ada": "open",
    }
    assert (found["ada"].role, found["ada"].organisation) == ("person", "B")
    assert not [secret for secret in (used, open_) if secret in str(found)]


@pytest.mark.parametrize("by", ["name", "id"])
def test_an_invitation_that_was_taken_back_enrols_nobody(
    registry: Registry, authority: Authority, by: str
) -> None:
    invitation = registry.invite(**INVITED)
    (known,) = registry.invitations()
    assert registry.take_back(getattr(known, by)) == known
    assert registry.invitations() == []
    with refusal("link.invitation"):
        enrol(registry, authority, invitation)
    with refusal("link.no_invitation"):
        registry.take_back(known.id)


def test_only_open_invitations_are_taken_back_and_one_at_a_time(
    registry: Registry, authority: Authority
) -> None:
    first = registry.invite(**INVITED)
    registry.invite(**INVITED)
    with refusal("link.no_invitation"):
        registry.take_back("alpha")  # which of the two?
    enrol(registry, authority, first)
    spent = next(known for known in registry.invitations() if known.state == "used")
    with refusal("link.no_invitation"):
        registry.take_back(spent.id)
    assert registry.take_back("alpha").state == "open"
    assert [known.state for known in registry.invitations()] == ["used"]


# -- revocations -----------------------------------------------------------------------------------


def test_a_revocation_is_the_coordinator_s_signed_statement(registry: Registry, authority: Authority) -> None:
    pem = enrol(registry, authority, registry.invite(**INVITED))
    der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    assert registry.by_certificate(der) == registry.by_key(ALPHA.public)
    said = registry.revoke("alpha", reason="its disk was stolen", by=BETA)
    (found,) = registry.revocations()
    assert (found.number, found.said) == (1, said)
    assert open_revocation(found.statement, BETA.public) == said
    assert (said.name, said.role, said.key) == ("alpha", "site", ALPHA.public)
    assert (registry.by_certificate(der), registry.by_key(ALPHA.public)) == (None, None)
    assert (registry.members(), registry.sites()) == ([], [])
    assert registry.revocations(after=1) == []


@pytest.mark.parametrize("reason", ["", "two\nlines", "x" * 301])
def test_a_reason_is_one_line(registry: Registry, authority: Authority, reason: str) -> None:
    enrol(registry, authority, registry.invite(**INVITED))
    with pytest.raises(ValidationError):
        registry.revoke("alpha", reason=reason, by=BETA)
    assert registry.revocations() == []
    assert len(registry.members()) == 1
