"""Cards, enrolment requests and certificate requests."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from pydantic import ValidationError

from plasmid.core.errors import ProtocolError
from plasmid.protocol.enrolment import (
    CoordinatorCard,
    EnrolRequest,
    RosterEntry,
    check_csr,
    new_tls_key,
    signed_card,
    signed_request,
)
from plasmid.protocol.identity import Identity

ALPHA, BETA = Identity.generate("alpha"), Identity.generate("beta")


def request(identity: Identity = ALPHA, **changes: Any) -> EnrolRequest:
    made: dict[str, Any] = {"invitation": "secret", "role": "site", "organisation": "A", "csr": "pem"}
    return signed_request(identity, **(made | changes))


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


def test_a_card_is_signed_by_the_key_that_it_names() -> None:
    card = signed_card(ALPHA, "pem")
    card.check()
    assert CoordinatorCard.model_validate(card.model_dump()) == card
    for change in ({"ca": "another"}, {"key": BETA.public}, {"signature": "0" * 128}):
        with refusal("protocol.signature"):
            card.model_copy(update=change).check()


def test_a_request_is_signed_by_the_key_that_it_enrols() -> None:
    made = request()
    made.check()
    assert (made.name, made.key) == ("alpha", ALPHA.public)
    assert EnrolRequest.model_validate_json(made.model_dump_json()) == made
    changes = {
        "invitation": "other",
        "role": "person",
        "name": "beta",
        "organisation": "B",
        "csr": "other",
        "key": BETA.public,
        "signature": request(BETA).signature,
    }
    assert set(changes) == set(EnrolRequest.model_fields)
    for field, value in changes.items():
        with refusal("protocol.signature"):
            made.model_copy(update={field: value}).check()


def test_a_card_is_no_request() -> None:
    """The signed bytes begin with the kind, so that one cannot be read as the other."""
    assert signed_card(ALPHA, "pem").signed_bytes().startswith(b"plasmid-CoordinatorCard/1\n")
    assert request().signed_bytes().startswith(b"plasmid-EnrolRequest/1\n")


@pytest.mark.parametrize(
    "change",
    [
        {"role": "coordinator"},
        {"role": ""},
        {"name": "Alpha"},
        {"name": "../alpha"},
        {"name": "a" * 64},
        {"organisation": ""},
        {"organisation": "a\nb"},
        {"organisation": "a" * 101},
        {"invitation": "x" * 129},
        {"csr": "x" * 8193},
        {"key": "0" * 63},
        {"signature": "0" * 127},
        {"admin": True},
        {"role": None},
    ],
)
def test_a_request_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EnrolRequest.model_validate({**request().model_dump(), **change})


def test_a_roster_entry_is_strict() -> None:
    entry = {"name": "alpha", "organisation": "A", "key": ALPHA.public}
    assert RosterEntry.model_validate(entry).model_dump() == entry
    with pytest.raises(ValidationError):
        RosterEntry.model_validate({**entry, "confirmed": True})


def test_a_tls_key_and_its_request() -> None:
    pem, csr = new_tls_key("alpha", b"password")
    parsed = check_csr(csr)
    assert parsed.subject.rfc4514_string() == "CN=alpha"
    key: Any = load_pem_private_key(pem, b"password")
    with pytest.raises(TypeError):
        load_pem_private_key(pem, None)
    assert parsed.public_key() == key.public_key()
    assert key.public_key().public_bytes_raw().hex() != ALPHA.public
    assert new_tls_key("alpha", b"password")[0] != pem


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    _, csr = new_tls_key("alpha", b"password")
    _, foreign = new_tls_key("alpha", b"password")
    one, two = (x509.load_pem_x509_csr(pem.encode()) for pem in (csr, foreign))
    der = one.public_bytes(Encoding.DER).replace(one.signature, two.signature)
    forged = x509.load_der_x509_csr(der).public_bytes(Encoding.PEM).decode()
    with refusal("protocol.signature"):
        check_csr(forged)


EMPTY = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"


def with_byte(pem: str, at: bytes, change: bytes) -> str:
    """Return a request whose DER holds *change* in the place of *at*; found by the fuzzer."""
    der = x509.load_pem_x509_csr(pem.encode()).public_bytes(Encoding.DER)
    assert der.count(at) >= 1
    body = base64.encodebytes(der.replace(at, change)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


GOOD = new_tls_key("alpha", b"password")[1]
UNKNOWN_KEY = with_byte(GOOD, b"\x2b\x65\x70", b"\x2b\x69\x70")
UNKNOWN_VERSION = with_byte(GOOD, b"\x02\x01\x00", b"\x02\x01\x01")


@pytest.mark.parametrize("pem", ["", "pem", EMPTY, UNKNOWN_KEY, UNKNOWN_VERSION])
def test_what_is_not_a_certificate_request_is_refused(pem: str) -> None:
    with refusal("protocol.malformed"):
        check_csr(pem)
