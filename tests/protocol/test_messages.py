"""Every message of the link: signed, parsed strictly, refused when anything about it changed."""

from __future__ import annotations

import hashlib
import json
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from plasmid.core.errors import ProtocolError
from plasmid.privacy.statements import Advert, Bundle, Ready
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import (
    Admission,
    Admit,
    Ask,
    Bundles,
    Contribution,
    End,
    Epoch,
    Failed,
    Heartbeat,
    Manifest,
    Message,
    Relay,
    RunRequest,
    Signed,
    StopRequest,
    open_signed,
    parse_signed,
    sign,
    wire,
)

ALPHA = Identity("alpha", Ed25519PrivateKey.from_private_bytes(b"a" * 32))
BETA = Identity("beta", Ed25519PrivateKey.from_private_bytes(b"b" * 32))
D = "d" * 64
DOCUMENT = {"computation": "ping", "length": 4, "nested": {"list": [1, 2.5, None, True, "é"]}}
READY = Ready(run="run-1", epoch=1, site="alpha", rho=D, n=3, c=1)

MESSAGES = {
    message.type: message
    for message in (
        Ask(run="run-1", document=DOCUMENT, digest=D),
        Admit(run="run-1", document=DOCUMENT, digest=D),
        Admission(run="run-1", site="alpha", accepted=False, code="policy.absent", sentence="No."),
        Epoch(run="run-1", epoch=1, roster=["alpha", "beta", "gamma"], slots=2, c=1),
        Relay(run="run-1", kind="ready", statements=[sign(ALPHA, READY)]),
        Bundles(run="run-1", site="alpha", statements=[]),
        Manifest(
            protocol="plasmid-sa/0",
            run="run-1",
            epoch=1,
            slot=0,
            round=1,
            rho=D,
            document=D,
            base=None,
            state=D,
            state_bytes=96,
            invited=["alpha", "beta", "gamma"],
            ring_bits=32,
            scale_log2=29,
            bound=1.0,
            length=4,
            min_sites=3,
        ),
        Contribution(run="run-1", site="alpha", round=1, slot=0, manifest=D, body=D, body_bytes=96),
        Heartbeat(run="run-1", site="alpha", round=1, step=3, steps=6),
        Failed(run="run-1", site="alpha", code="run.not_finite", sentence="It diverged."),
        End(run="run-1", state="SUCCEEDED"),
        RunRequest(document=DOCUMENT, digest=D, sites=["alpha"], nonce="0" * 32),
        StopRequest(run="run-1"),
        Advert(run="run-1", epoch=1, site="alpha", document=D, x25519=D, mlkem768="0" * 2368, slots=[D, D]),
        Bundle(run="run-1", epoch=1, sender="alpha", receiver="beta", rho=D, kem="0" * 2176, sealed="00"),
        READY,
    )
}
every_message = pytest.mark.parametrize("kind", MESSAGES)


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


def signed_anew(payload: dict[str, Any]) -> Signed:
    """Return a payload that was changed and signed again, as a malicious author would."""

    class _Anything:
        def model_dump(self, mode: str) -> dict[str, Any]:
            return payload

    return sign(ALPHA, _Anything())  # type: ignore[arg-type]


def test_every_type_of_message_is_in_the_table() -> None:
    def members(union: Any) -> set[Any]:
        return {member for arg in get_args(union) for member in members(arg)} or {union}

    assert {type(message) for message in MESSAGES.values()} == members(Message)


@every_message
def test_a_message_comes_back_as_its_own_type(kind: str) -> None:
    message = MESSAGES[kind]
    data = wire(sign(ALPHA, message))
    signed = parse_signed(data)
    assert signed.signer == "alpha"
    opened = open_signed(signed, ALPHA.public)
    assert type(opened) is type(message)
    assert opened == message
    assert wire(signed) == data  # one byte string per meaning


@every_message
def test_another_author_is_refused(kind: str) -> None:
    with refusal("protocol.signature"):
        open_signed(sign(BETA, MESSAGES[kind]), ALPHA.public)


def changes(value: Any) -> list[Any]:
    """Return values near *value*; a list of equal items may come back as it is."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [value + "0", value[1:], value[:-1] + ("1" if value[-1:] != "1" else "2")]
    if isinstance(value, int | float):
        return [value + 1, -value - 1]
    if isinstance(value, list):
        return [[*value, "x"], *([value[1:], value[::-1]] if len(value) > 1 else [])]
    if isinstance(value, dict):
        return [{**value, "more": 1}, {}]
    return ["0" * 64]  # None


@every_message
def test_any_changed_field_breaks_the_signature(kind: str) -> None:
    signed = sign(ALPHA, MESSAGES[kind])
    for field, value in signed.payload.items():
        for changed in changes(value):
            if changed == value:
                continue
            forged = signed.model_copy(update={"payload": {**signed.payload, field: changed}})
            with refusal("protocol.signature"):
                open_signed(forged, ALPHA.public)
    for field in signed.payload:
        fewer = {name: value for name, value in signed.payload.items() if name != field}
        with refusal("protocol.signature"):
            open_signed(signed.model_copy(update={"payload": fewer}), ALPHA.public)


OPTIONAL = {"protocol", "code", "sentence", "sites"}  # these have defaults
NULLABLE = {("manifest", "rho"), ("manifest", "base"), ("run_request", "sites")}


@every_message
def test_a_field_that_is_unknown_missing_or_of_another_type_is_refused(kind: str) -> None:
    """The author itself signs it: the form is checked, not the signature alone."""
    payload = MESSAGES[kind].model_dump(mode="json")
    with refusal("protocol.malformed"):
        open_signed(signed_anew({**payload, "theta": 2}), ALPHA.public)
    for field, value in payload.items():
        if field not in OPTIONAL:
            with refusal("protocol.malformed"):
                open_signed(
                    signed_anew({name: other for name, other in payload.items() if name != field}),
                    ALPHA.public,
                )
        odd: list[Any] = [[1], {"a": 1}, 1.5, True, None, "1"]
        if isinstance(value, bool):
            odd = [1, 0, "true", None]
        elif isinstance(value, float):
            odd = ["1.0", None, [1.0], True]
        elif isinstance(value, int):
            odd = ["1", None, 1.5, True, [1]]
        elif isinstance(value, list):
            odd = ["alpha", None, {"0": "alpha"}, [1], 3]
        elif isinstance(value, dict):
            odd = [[], "x", None, 3]
        elif isinstance(value, str):
            odd = [1, None, ["x"], True]
        else:
            odd = [1, True, {"a": 1}]
        for other in odd:
            if other is None and (kind, field) in NULLABLE:
                continue
            with refusal("protocol.malformed"):
                open_signed(signed_anew({**payload, field: other}), ALPHA.public)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("ask", "run", "../run"),
        ("ask", "run", "Run"),
        ("ask", "run", ""),
        ("ask", "run", "run\n"),
        ("ask", "run", "r" * 64),
        ("ask", "digest", "D" * 64),
        ("ask", "type", "asks"),
        ("admission", "site", "Alpha"),
        ("admission", "site", "a/b"),
        ("admission", "code", "a code"),
        ("admission", "sentence", "x" * 401),
        ("failed", "code", ""),
        ("epoch", "roster", []),
        ("epoch", "roster", [f"site-{index}" for index in range(65)]),
        ("relay", "kind", "share"),
        ("relay", "statements", [1]),
        ("manifest", "protocol", "plasmid-sa/1"),
        ("manifest", "ring_bits", 16),
        ("manifest", "invited", []),
        ("advert", "protocol", "plasmid-sa/1"),
        ("advert", "slots", []),
        ("advert", "x25519", "0" * 62),
        ("bundle", "sealed", ""),
        ("bundle", "sealed", "0"),
        ("run_request", "nonce", ""),
        ("run_request", "nonce", "0" * 31),
    ],
)
def test_a_value_out_of_range_is_refused(kind: str, field: str, value: Any) -> None:
    payload = MESSAGES[kind].model_dump(mode="json")
    with refusal("protocol.malformed"):
        open_signed(signed_anew({**payload, field: value}), ALPHA.public)


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


ENVELOPE = (
    b'{"payload":{"type":"ask","run":"r","digest":"","document":{"x":%s}},"signer":"a","signature":"%s"}'
)


@pytest.mark.parametrize(
    "value",
    [
        deep(1_000),
        deep(500_000),
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b"9" * 1_000_000,
        b"-" + b"9" * 400,
        b"1e400",
        b"-1e999999",
        b"9007199254740993",
        b"NaN",
        b"Infinity",
        b'"\\ud800"',
        b'"\xff"',
        b"[" * 1000,
    ],
)
def test_nesting_and_numbers_without_end_are_refused(value: bytes) -> None:
    with refusal("protocol.malformed"):
        open_signed(parse_signed(ENVELOPE % (value, b"0" * 128)), ALPHA.public)


def test_a_document_as_deep_as_the_parser_allows_is_signed_or_refused() -> None:
    document: Any = 1
    for _ in range(100):
        document = {"x": document}
    signed = sign(ALPHA, Ask(run="run-1", document={"x": document}, digest=D))
    assert open_signed(parse_signed(wire(signed)), ALPHA.public).document == {"x": document}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"payload":{},"signer":"a"}',
        b'{"payload":{},"signer":"a","signature":"00"}',
        b'{"payload":[],"signer":"a","signature":"%s"}' % (b"0" * 128),
        b'{"payload":{},"signer":1,"signature":"%s"}' % (b"0" * 128),
        b'{"payload":{},"signer":"a","signature":"%s"}' % (b"G" * 128),
        b'{"payload":{},"signer":"a","signature":"%s","more":1}' % (b"0" * 128),
    ],
)
def test_what_is_not_an_envelope_is_refused(data: bytes) -> None:
    with refusal("protocol.malformed"):
        parse_signed(data)


def test_a_message_without_a_type_is_refused() -> None:
    for payload in ({}, {"type": "nothing"}, {"type": None}, {"type": ["ask"]}):
        with refusal("protocol.malformed"):
            open_signed(signed_anew(payload), ALPHA.public)


def test_a_statement_signed_for_one_purpose_serves_no_other() -> None:
    """The prefix: a signature over the bare JSON, as an enrolment would make it, is none over a message."""
    signed = sign(ALPHA, READY)
    bare = ALPHA.sign(json.dumps(signed.payload).encode())
    with refusal("protocol.signature"):
        open_signed(signed.model_copy(update={"signature": bare}), ALPHA.public)


def test_the_digest_of_a_manifest_and_a_signature_are_pinned() -> None:
    manifest = MESSAGES["manifest"]
    assert isinstance(manifest, Manifest)
    text = json.dumps({**manifest.model_dump(), "bound": 1}, sort_keys=True, separators=(",", ":"))
    assert manifest.digest() == hashlib.sha256(text.encode()).hexdigest()
    assert manifest.digest() == "26fadc8961b864ec3377954cde244bb3ed7c486f3d6f2855f62cdba1bb102c10"
    assert sign(ALPHA, manifest).signature == (
        "9e436d6b5385cd05263f55b69be9faa267d285d23f76a15b3b4a36c13b66eafc"
        "a22aa646e555c8c5d760147664e64b5437d7eaad2b2ff0b61ce63526333e9901"
    )
    assert manifest.encoding().step == 2.0**-29


def test_every_field_of_a_manifest_enters_its_digest() -> None:
    manifest = MESSAGES["manifest"]
    assert isinstance(manifest, Manifest)
    digests = {manifest.digest()}
    fields = [field for field in Manifest.model_fields if field != "type"]
    for field in fields:
        digests.add(manifest.model_copy(update={field: changes(getattr(manifest, field))[0]}).digest())
    assert len(digests) == 1 + len(fields)


def test_messages_of_version_0_have_no_field_of_version_1() -> None:
    fields = {name for message in MESSAGES.values() for name in type(message).model_fields}
    assert fields.isdisjoint({"b", "shares", "blob", "blobs", "theta", "self_masks", "survivors"})
