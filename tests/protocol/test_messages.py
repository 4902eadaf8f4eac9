"""Every message of the link: signed, parsed strictly, refused when anything about it changed."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from plasmid.core.errors import ProtocolError
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import (
    Admission,
    Admit,
    Ask,
    Blobs,
    Bundles,
    Conclude,
    Contribution,
    Countersigned,
    End,
    Epoch,
    Failed,
    Heartbeat,
    LogCheckpoint,
    LogCosignature,
    Manifest,
    Message,
    Planned,
    Relay,
    Revoked,
    RunRequest,
    Signed,
    StopRequest,
    Total,
    UnitTerms,
    open_signed,
    parse_signed,
    run_id,
    sign,
    wire,
)
from plasmid.secagg.statements import Advert, Bundle, Consent, Ready, Recovery, Shares

ALPHA = Identity("alpha", Ed25519PrivateKey.from_private_bytes(b"a" * 32))
BETA = Identity("beta", Ed25519PrivateKey.from_private_bytes(b"b" * 32))
D = "d" * 64
DOCUMENT = {"computation": "ping", "length": 4, "nested": {"list": [1, 2.5, None, True, "é"]}}
READY = Ready(run="run-1", epoch=1, site="alpha", rho=D, blobs=D, n=3, c=1, theta=3, verified=None)
RECOVERY = Recovery(run="run-1", epoch=1, site="alpha", rho=D, blob=D)
SHARE = bytes(range(32))
REQUEST = RunRequest(
    document=DOCUMENT,
    digest=D,
    project=D,
    sites=["alpha"],
    requested="2026-11-25T10:00:00Z",
    nonce="0" * 32,
)
PROJECT = Envelope(payload=b"{}", payloadType="application/vnd.plasmid.project+json").signed(ALPHA)

MESSAGES = {
    message.type: message
    for message in (
        Ask(run="ask-1", request=sign(BETA, REQUEST), project=PROJECT),
        Admit(run=run_id(REQUEST), request=sign(BETA, REQUEST), project=PROJECT),
        Admission(
            run="run-1",
            site="alpha",
            accepted=False,
            code="policy.absent",
            sentence="No.",
            terms=UnitTerms(public_size=5000, rate=0.05, noise_multiplier=1.25, attempts=22),
        ),
        Epoch(
            run="run-1",
            epoch=1,
            roster=["alpha", "beta", "gamma"],
            slots=2,
            c=1,
            planned=Planned(sites=3, c=1, noise_rate=0.5),
        ),
        Relay(run="run-1", epoch=1, slot=2, kind="ready", statements=[sign(ALPHA, READY)]),
        Bundles(run="run-1", site="alpha", epoch=1, statements=[]),
        Blobs(run="run-1", site="alpha", epoch=1, statement=sign(ALPHA, RECOVERY), sealed=[bytes(48)]),
        Manifest(
            protocol="plasmid-sa/2",
            run="run-1",
            phase="train",
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
            mechanism="dp-fedsgd",
            noise_variance=2.5,
            min_sites=3,
            theta=3,
            total=Total(digest=D, size=112, survivors=["alpha", "beta"], tag=bytes(8)),
        ),
        Conclude(run="run-1", result=PROJECT, rounds_bytes=100),
        Countersigned(run="run-1", site="alpha", statement=PROJECT),
        Contribution(
            run="run-1",
            site="alpha",
            epoch=1,
            round=1,
            slot=0,
            manifest=D,
            body=D,
            body_bytes=96,
            tag=bytes(8),
            ledger_counter=3,
            ledger_head=D,
            isolation="bubblewrap",
        ),
        Consent(run="run-1", epoch=1, round=1, slot=0, site="alpha", manifest=D, survivors=D, verified=True),
        Shares(
            run="run-1",
            epoch=1,
            slot=0,
            site="alpha",
            manifest=D,
            self_shares={"alpha": SHARE, "beta": SHARE},
            key_shares={"gamma": SHARE},
        ),
        Heartbeat(run="run-1", site="alpha", round=1, step=3, steps=6),
        Failed(run="run-1", site="alpha", code="run.not_finite", sentence="It diverged."),
        End(run="run-1", state="SUCCEEDED"),
        REQUEST,
        StopRequest(run="run-1"),
        Advert(
            run="run-1",
            epoch=1,
            site="alpha",
            document=D,
            x25519=SHARE,
            mlkem768=bytes(1184),
            key_commitments=2 * SHARE,
            self_commitments=2 * SHARE,
            group_commitment=SHARE,
        ),
        Bundle(
            run="run-1",
            epoch=1,
            sender="alpha",
            receiver="beta",
            rho=D,
            kem=bytes(1088),
            sealed=bytes(2 * 2 * 32 + 16),
        ),
        RECOVERY,
        READY,
        LogCheckpoint(site="alpha", receiver="beta", note="a note", old=3, proof=[D]),
        LogCosignature(site="alpha", receiver="beta", origin="a log", size=3, line="a line"),
        Revoked(statement=PROJECT),
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


@pytest.mark.promise("fixed-messages")
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
    if isinstance(value, Total):
        return [None, value.model_copy(update={"sites": 2})]
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


DEFAULTS = {
    (kind, name)
    for kind, message in MESSAGES.items()
    for name, field in type(message).model_fields.items()
    if not field.is_required()
}
NULLABLE = {
    *(("admission", "terms"), ("admission", "pending")),
    *(("manifest", "rho"), ("manifest", "base"), ("manifest", "total"), ("run_request", "sites")),
    *(("contribution", "tag"), ("ready", "verified"), ("epoch", "begins")),
}


def test_few_fields_have_defaults() -> None:
    said = {(kind, name) for kind, name in DEFAULTS if name not in ("type", "protocol")}
    assert said == {
        ("admission", "code"),
        ("admission", "sentence"),
        ("admission", "terms"),
        ("admission", "pending"),
        ("log_cosignature", "line"),
        ("log_cosignature", "held"),
        ("relay", "slot"),
        ("epoch", "begins"),
        ("bundle", "heard"),
        ("run_request", "sites"),
    }
    # a manifest says which protocol it is of; a message without its type is none
    assert ("manifest", "protocol") not in DEFAULTS


@pytest.mark.promise("fixed-messages")
@every_message
def test_a_field_that_is_unknown_missing_or_of_another_type_is_refused(kind: str) -> None:
    """The author itself signs it: the form is checked, not the signature alone."""
    payload = MESSAGES[kind].model_dump(mode="json")
    with refusal("protocol.malformed"):
        open_signed(signed_anew({**payload, "more": 2}), ALPHA.public)
    for field, value in payload.items():
        if field == "type" or (kind, field) not in DEFAULTS:
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


LARGE = [
    *(("epoch", name) for name in ("epoch", "slots", "c")),
    *(
        ("manifest", name)
        for name in ("epoch", "slot", "round", "length", "state_bytes", "scale_log2", "theta")
    ),
    *(("relay", name) for name in ("epoch", "slot")),
    *(("heartbeat", name) for name in ("round", "step", "steps")),
    *(("bundles", "epoch"), ("blobs", "epoch")),
]
"""Whole numbers whose bounds depend on a document; found by the fuzzer."""


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
        ("epoch", "planned", {"sites": 3, "c": 1}),
        ("epoch", "planned", {"sites": 0, "c": 1, "noise_rate": 0.5}),
        ("epoch", "planned", {"sites": 65, "c": 1, "noise_rate": 0.5}),
        ("epoch", "planned", {"sites": 3, "c": -1, "noise_rate": 0.5}),
        ("epoch", "planned", {"sites": 3, "c": 1, "noise_rate": 1.1}),
        ("relay", "kind", "shares"),  # these go to the coordinator alone
        ("relay", "statements", [1]),
        ("relay", "statements", [sign(ALPHA, READY).model_dump(mode="json")] * 65),
        ("manifest", "protocol", "plasmid-sa/0"),
        ("manifest", "phase", "test"),
        ("manifest", "mechanism", "gaussian"),
        ("manifest", "ring_bits", 16),
        ("manifest", "invited", []),
        ("advert", "protocol", "plasmid-sa/0"),
        ("advert", "protocol", "none"),
        # 1e16 is written 10000000000000000 in canonical JSON, so that a float comes back as a whole number
        *((kind, field, value) for kind, field in LARGE for value in (1e16, -1e16, 2.0**53, 1e20)),
        ("advert", "epoch", 0),
        ("advert", "key_commitments", ""),
        ("advert", "x25519", "AAAA"),
        ("advert", "x25519", "0" * 64),  # hexadecimal, as in version 0
        ("bundle", "sealed", ""),
        ("bundle", "sealed", "0"),
        ("blobs", "sealed", ["AAAA"]),
        ("contribution", "body_bytes", 0),
        ("contribution", "ledger_counter", -1),
        ("consent", "slot", 256),
        ("consent", "round", 0),
        ("shares", "self_shares", {"alpha": "AAAA"}),
        ("shares", "self_shares", {"Alpha": base64.b64encode(SHARE).decode()}),
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
    signed = sign(ALPHA, REQUEST.model_copy(update={"document": {"x": document}}))
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
    text = json.dumps({**manifest.model_dump(mode="json"), "bound": 1}, sort_keys=True, separators=(",", ":"))
    assert manifest.digest() == hashlib.sha256(text.encode()).hexdigest()
    assert manifest.digest() == "db3ec84b95f7949f83079e10a6161662df125335df3def312f2bd49c51cca728"
    assert sign(ALPHA, manifest).signature == (
        "9ced5a43a2aca68f62244182ca74c9b0b8611a6f24950ce21a039e0b30ab9a78"
        "3d37e4a6770bb4225502a5d135f94d45b73f505e73736de4566c4bc1daea9e09"
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


# -- a run's id ------------------------------------------------------------------------------------


def test_a_run_s_id_is_made_from_the_whole_request() -> None:
    """One request is one run; whatever is changed in it makes another one."""
    assert run_id(REQUEST) == "ping-3c1acc161eb60f86"
    changed: dict[str, Any] = {
        "document": {**DOCUMENT, "length": 5},
        "digest": "e" * 64,
        "project": "e" * 64,
        "sites": None,
        "requested": "2026-11-25T10:00:01Z",
        "nonce": "1" * 32,
    }
    assert set(changed) == set(RunRequest.model_fields) - {"type"}
    ids = {run_id(REQUEST.model_copy(update={name: value})) for name, value in changed.items()}
    assert len(ids | {run_id(REQUEST)}) == 7
    received = open_signed(parse_signed(wire(sign(ALPHA, REQUEST))), ALPHA.public)
    assert run_id(received) == run_id(REQUEST)


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("care_encounters", "care-encounters"),
        ("a" * 90, "a" * 40),
        ("../../etc/passwd", "etc-passwd"),
        ("Ünïcode Näme", "n-code---me"),
        ("--", "run"),
        (None, "ping"),
        (["list"], "list--"),
    ],
)
def test_a_run_s_id_has_its_form_whatever_the_document_is_called(name: Any, readable: str) -> None:
    found = run_id(REQUEST.model_copy(update={"document": {**DOCUMENT, "name": name}}))
    assert found[:-17] == readable
    assert Admit(run=found, request=sign(ALPHA, REQUEST), project=PROJECT).run == found


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-25T10:00:00+00:00",
        "2026-11-25 10:00:00Z",
        "2026-13-25T10:00:00Z",
        "2026-02-30T10:00:00Z",
        "٢٠٢٦-11-25T10:00:00Z",
        "2026-11-25T10:00:00Z\n",
        "",
    ],
)
def test_a_time_has_one_spelling(time: str) -> None:
    with refusal("protocol.malformed"):
        open_signed(sign(ALPHA, REQUEST.model_copy(update={"requested": time})), ALPHA.public)
