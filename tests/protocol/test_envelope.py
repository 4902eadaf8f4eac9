"""DSSE envelopes: the standard's own example, and one digest for one statement."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from plasmid.core.errors import ProtocolError
from plasmid.protocol.envelope import MAX_PAYLOAD_BYTES, MAX_SIGNATURES, Envelope, Statement, parse_envelope
from plasmid.protocol.identity import Identity

ALPHA = Identity("alpha", Ed25519PrivateKey.from_private_bytes(b"a" * 32))
BETA = Identity("beta", Ed25519PrivateKey.from_private_bytes(b"b" * 32))


class Note(Statement):
    """A statement of these tests."""

    text: str
    number: float = 1.5


class Other(Statement):
    """One of the same form and another type."""

    text: str
    number: float = 1.5


NOTE = Note(text="é")
SIGNED = Envelope.of(NOTE).signed(ALPHA)


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


def test_the_pre_authentication_encoding_is_the_standard_s() -> None:
    """The example of protocol.md, section "Test Vectors", in the repository secure-systems-lab/dsse."""
    envelope = Envelope(payload=b"hello world", payloadType="http://example.com/HelloWorld")
    assert envelope._pae() == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_count_bytes() -> None:
    envelope = Envelope(payload="né".encode(), payloadType="é")
    assert envelope._pae() == b"DSSEv1 2 \xc3\xa9 3 n\xc3\xa9"


def test_an_envelope_on_the_wire_is_the_standard_s_json() -> None:
    values = json.loads(SIGNED.wire())
    (mark,) = values["signatures"]
    assert set(values) == {"payload", "payloadType", "signatures"}
    assert values["payloadType"] == "application/vnd.plasmid.note+json"
    assert base64.b64decode(values["payload"]) == '{"number":1.5,"text":"é"}'.encode()
    assert mark["keyid"] == ALPHA.public
    pae = SIGNED._pae()
    key = Ed25519PrivateKey.from_private_bytes(b"a" * 32).public_key()
    key.verify(base64.b64decode(mark["sig"]), pae)  # raises if it is another one


def test_a_statement_comes_back_with_its_digest() -> None:
    back = parse_envelope(SIGNED.wire())
    assert back == SIGNED
    assert back.wire() == SIGNED.wire()
    assert back.open(Note) == NOTE
    assert back.open(Note).digest() == NOTE.digest()
    assert parse_envelope(json.loads(SIGNED.wire())) == SIGNED


def test_signers_are_those_who_count() -> None:
    both = SIGNED.signed(BETA)
    keys = {ALPHA.public, BETA.public}
    assert SIGNED.signers(keys) == {ALPHA.public}
    assert both.signers(keys) == keys
    assert both.signers({BETA.public}) == {BETA.public}
    assert both.signers(set()) == frozenset()
    again = both.signed(ALPHA)
    assert len(again.signatures) == 2  # one each
    assert again.signers(keys) == keys


def test_the_same_signature_twice_is_one_signer() -> None:
    twice = SIGNED.model_copy(update={"signatures": SIGNED.signatures * 2})
    assert twice.signers({ALPHA.public, BETA.public}) == {ALPHA.public}


def test_a_signature_serves_one_kind_of_statement() -> None:
    """The same bytes under another type: control first, that they are the same bytes."""
    other = Other(text=NOTE.text)
    assert other.payload() == NOTE.payload()
    moved = SIGNED.model_copy(update={"payloadType": Other.payload_type()})
    assert moved.open(Other) == other
    with refusal("protocol.signature"):
        moved.signers({ALPHA.public})
    with refusal("protocol.malformed"):
        SIGNED.open(Other)


def test_a_signature_under_another_s_key_is_refused_where_that_one_counts() -> None:
    (mark,) = SIGNED.signatures
    forged = SIGNED.model_copy(update={"signatures": [mark.model_copy(update={"keyid": BETA.public})]})
    assert forged.signers({ALPHA.public}) == frozenset()
    with refusal("protocol.signature"):
        forged.signers({BETA.public})


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_changed_bit_of_a_payload_breaks_its_signature(place: int, bit: int) -> None:
    payload = bytearray(SIGNED.payload)
    payload[place % len(payload)] ^= 1 << bit
    with refusal("protocol.signature"):
        SIGNED.model_copy(update={"payload": bytes(payload)}).signers({ALPHA.public})


@pytest.mark.parametrize(
    "payload",
    [
        b'{"text":"x","number":1.5}',  # not in order
        b'{"number":1.5, "text":"x"}',  # white space
        b'{"number":1.50,"text":"x"}',
        b'{"text":"x"}',  # a default left out
        b'{"number":1.5,"text":"x","text":"x"}',
        b'{"number":1.5,"text":"\\u0078"}',
        b'{"more":1,"number":1.5,"text":"x"}',
        b'{"number":"1.5","text":"x"}',
        b'{"number":1.5,"text":null}',
        b'{"number":NaN,"text":"x"}',
        b'{"number":1.5,"text":"\\ud800"}',
        b"[]",
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_a_payload_in_another_spelling_or_form_is_refused(payload: bytes) -> None:
    assert Envelope(payload=b'{"number":1.5,"text":"x"}', payloadType=Note.payload_type()).open(Note)
    with refusal("protocol.malformed"):
        Envelope(payload=payload, payloadType=Note.payload_type()).signed(ALPHA).open(Note)


WIRE: dict[str, Any] = json.loads(SIGNED.wire())


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"payload": None},
        {"payload": ""},
        {"payload": WIRE["payload"] + "\n"},
        {"payload": base64.b64encode(bytes(MAX_PAYLOAD_BYTES + 1)).decode()},
        {"payloadType": 7},
        {"payloadType": "x" * 101},
        {"signatures": None},
        {"signatures": [{}]},
        {"signatures": WIRE["signatures"] * (MAX_SIGNATURES + 1)},
        {"signatures": [{**WIRE["signatures"][0], "keyid": "A" * 64}]},
        {"signatures": [{**WIRE["signatures"][0], "sig": ""}]},
        {"signatures": [{**WIRE["signatures"][0], "more": 1}]},
    ],
)
def test_what_is_no_envelope_is_refused(changes: dict[str, Any]) -> None:
    with refusal("protocol.malformed"):
        parse_envelope(json.dumps(WIRE | changes).encode())
    with refusal("protocol.malformed"):
        parse_envelope(WIRE | changes)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"[" * 100_000, b"\xff"])
def test_bytes_that_are_none_are_refused(data: bytes) -> None:
    with refusal("protocol.malformed"):
        parse_envelope(data)
