"""Signed requests and answers: the RFC's own vector, and everything that must not pass."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from plasmid.core.errors import LinkError
from plasmid.protocol.http_signatures import (
    DIGEST,
    INPUT,
    MAX_SKEW_S,
    SIGNATURE,
    check_answer,
    content_digest,
    read_request,
    sign_answer,
    sign_request,
    signature_base,
)
from plasmid.protocol.identity import Identity

NOW = 1_764_064_800
SITE, OTHER, COORDINATOR = (Identity.generate(name) for name in ("alpha", "beta", "coordinator"))
REQUEST: dict[str, Any] = {
    "method": "PUT",
    "path": "/v1/site/bodies/00ff",
    "query": "run=run-1&offset=0",
    "body": b"masked words",
    "coordinator": COORDINATOR.public,
    "created": NOW,
    "nonce": "0123456789abcdef" * 2,
}
SEEN = {name: REQUEST[name] for name in ("method", "path", "query", "coordinator")} | {"now_s": float(NOW)}


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def refusal(code: str) -> Any:
    return pytest.RaisesExc(LinkError, check=lambda error: error.code == code)


def test_the_rfc_s_vector() -> None:
    """RFC 9421, appendix B.2.6, with the key of B.1.4."""
    components = [
        ('"date"', "Tue, 20 Apr 2021 02:07:55 GMT"),
        ('"@method"', "POST"),
        ('"@path"', "/foo"),
        ('"@authority"', "example.com"),
        ('"content-type"', "application/json"),
        ('"content-length"', "18"),
    ]
    base = signature_base(components, ';created=1618884473;keyid="test-key-ed25519"')
    assert base.decode() == (
        '"date": Tue, 20 Apr 2021 02:07:55 GMT\n"@method": POST\n"@path": /foo\n"@authority": example.com\n'
        '"content-type": application/json\n"content-length": 18\n"@signature-params": ("date" "@method" '
        '"@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"'
    )
    seed = base64.urlsafe_b64decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU=")
    key = Identity("rfc", Ed25519PrivateKey.from_private_bytes(seed))
    assert base64.urlsafe_b64decode("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs=").hex() == key.public
    assert base64.b64encode(bytes.fromhex(key.sign(base))).decode() == (
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )


def test_the_digest_of_the_rfc() -> None:
    """RFC 9530, appendix D: the SHA-256 of ``{"hello": "world"}`` and a newline."""
    assert content_digest(b'{"hello": "world"}\n') == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


def test_what_is_signed_is_read() -> None:
    headers = sign_request(SITE, **REQUEST)
    assert set(headers) == {DIGEST, INPUT, SIGNATURE}
    signed = read_request(lower(headers))
    assert signed is not None
    assert (signed.keyid, signed.created, signed.nonce) == (SITE.public, NOW, REQUEST["nonce"])
    assert signed.digest == content_digest(REQUEST["body"])
    signed.check(**SEEN)
    for skew in (-MAX_SKEW_S, MAX_SKEW_S):
        signed.check(**SEEN | {"now_s": NOW + skew})


def test_no_signature_is_none() -> None:
    assert read_request({}) is None
    assert read_request({"content-digest": content_digest(b"")}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"method": "POST"},
        {"path": "/v1/site/bodies/00fe"},
        {"path": "/v1/site/bodies/00ff/"},
        {"path": ""},
        {"query": "run=run-1&offset=1"},
        {"query": ""},
        {"coordinator": OTHER.public},
    ],
)
def test_a_request_that_was_changed_is_refused(change: dict[str, str]) -> None:
    signed = read_request(lower(sign_request(SITE, **REQUEST)))
    assert signed is not None
    with refusal("link.signature"):
        signed.check(**SEEN | change)


@pytest.mark.parametrize(
    "change",
    [
        {"created": NOW + 1},
        {"nonce": "0" * 32},
        {"keyid": OTHER.public},
        {"keyid": "0" * 64},
        {"digest": content_digest(b"other")},
        {"value": ":" + "A" * 86 + "==:"},
    ],
)
def test_a_signature_that_was_changed_is_refused(change: dict[str, Any]) -> None:
    signed = read_request(lower(sign_request(SITE, **REQUEST)))
    assert signed is not None
    with refusal("link.signature"):
        replace(signed, **change).check(**SEEN)


@pytest.mark.parametrize("skew", [-MAX_SKEW_S - 1, MAX_SKEW_S + 1, 10**9])
def test_a_request_of_another_time_is_refused(skew: int) -> None:
    signed = read_request(lower(sign_request(SITE, **REQUEST)))
    assert signed is not None
    with refusal("link.clock"):
        signed.check(**SEEN | {"now_s": float(NOW + skew)})


def spoiled() -> dict[str, dict[str, str]]:
    """Return headers that are nearly those of a signed request, by what is wrong with them."""
    good = lower(sign_request(SITE, **REQUEST))
    said = good["signature-input"]
    return {
        "no signature": {name: good[name] for name in good if name != "signature"},
        "no input": {name: good[name] for name in good if name != "signature-input"},
        "no digest": {name: good[name] for name in good if name != "content-digest"},
        "another label": good | {"signature-input": said.replace("plasmid=", "sig1=")},
        "fewer components": good | {"signature-input": said.replace(' "content-digest"', "")},
        "other order": good | {"signature-input": said.replace('"@method" "@path"', '"@path" "@method"')},
        "no nonce": good | {"signature-input": said.replace(f';nonce="{REQUEST["nonce"]}"', "")},
        "an empty nonce": good | {"signature-input": said.replace(REQUEST["nonce"], "")},
        "another algorithm": good | {"signature-input": said.replace("ed25519", "hmac-sha256")},
        "two signatures": good | {"signature-input": f"{said}, {said}"},
        "an expiry": good | {"signature-input": f"{said};expires={NOW + 9}"},
        "a digit that is none": good
        | {"signature-input": said.replace(str(NOW), "\N{ARABIC-INDIC DIGIT ONE}" * 10)},
        "a long time": good | {"signature-input": said.replace(str(NOW), "9" * 5000)},
        "not base64": good | {"signature": "plasmid=:" + "*" * 86 + "==:"},
        "a short signature": good | {"signature": "plasmid=:AAAA:"},
        "another digest": good | {"content-digest": "sha-512=:AAAA:"},
        "empty": dict.fromkeys(good, ""),
    }


@pytest.mark.parametrize("what", spoiled())
def test_another_spelling_is_no_signature(what: str) -> None:
    with refusal("link.signature"):
        read_request(spoiled()[what])


ANSWER: dict[str, Any] = {"status": 200, "body": b'{"have": 12}'}


def answered() -> tuple[dict[str, str], str]:
    asked = sign_request(SITE, **REQUEST)[SIGNATURE]
    return lower(
        sign_answer(COORDINATOR, **ANSWER, request=asked.removeprefix("plasmid="), created=NOW)
    ), asked


def test_an_answer_is_the_coordinator_s_to_that_request() -> None:
    headers, asked = answered()
    check_answer(headers, **ANSWER, request=asked, coordinator=COORDINATOR.public)
    other = sign_request(SITE, **REQUEST | {"nonce": "0" * 32})[SIGNATURE]
    for change in (
        {"status": 204},
        {"body": b'{"have": 13}'},
        {"request": other},
        {"request": "plasmid=:AAAA:"},
        {"coordinator": OTHER.public},
    ):
        with refusal("link.signature"):
            check_answer(headers, **ANSWER | {"request": asked, "coordinator": COORDINATOR.public} | change)
    for name in ("signature", "signature-input"):
        with refusal("link.signature"):
            check_answer(
                {key: headers[key] for key in headers if key != name},
                **ANSWER,
                request=asked,
                coordinator=COORDINATOR.public,
            )


def test_a_request_s_signature_is_no_answer_s() -> None:
    asked = sign_request(COORDINATOR, **REQUEST)
    with refusal("link.signature"):
        check_answer(lower(asked), **ANSWER, request=asked[SIGNATURE], coordinator=COORDINATOR.public)
